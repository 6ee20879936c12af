"""A small generated data set in the layouts of COCO and ADE20K, to try a training run on.

Textured shapes (discs, squares, triangles, stars) of several sizes lie over one another under uneven
light. Classes differ by colour, texture and shape. The same seed gives the same files.

    root/coco/{train2017,val2017}/*.jpg
    root/coco/annotations/instances_{train2017,val2017}.json       polygons; crowds as RLE
    root/ade/ADEChallengeData2016/{images,annotations}/{training,validation}/*.{jpg,png}

ADE20K's label maps hold 0 for "not labelled" and class k as k + 1.
"""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from shapely import affinity
from shapely.geometry import MultiPolygon, Point, Polygon, box

SHAPES = ("disc", "square", "triangle", "star")
SEGMENTATION_CLASSES = ("background", *SHAPES)
COLOURS = {
    "disc": (214, 68, 56),
    "square": (58, 158, 84),
    "triangle": (64, 98, 206),
    "star": (226, 186, 52),
}
# What predictions are drawn in: unlike the shapes' own colours, so that they stand out.
OVERLAYS = {
    "disc": (0, 220, 255),
    "square": (255, 0, 200),
    "triangle": (255, 140, 0),
    "star": (150, 60, 255),
}
PALETTE = [(90, 90, 90), *OVERLAYS.values()]
SIZES = ((160, 128), (128, 160), (144, 144))  # width, height in pixels
SPLITS = {"train": ("train2017", "training"), "val": ("val2017", "validation")}


def outline(shape: str) -> Polygon:
    """A shape of radius 1 around the origin."""
    if shape == "disc":
        return Point(0, 0).buffer(1.0, quad_segs=10)
    corners, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (5, 0.45)}[shape]
    steps = corners * 2 if inner < 1 else corners
    radii = [inner if inner < 1 and k % 2 else 1.0 for k in range(steps)]
    return Polygon(
        [
            (r * math.sin(2 * math.pi * k / steps), -r * math.cos(2 * math.pi * k / steps))
            for k, r in enumerate(radii)
        ]
    )


def texture(shape: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) floats: the class colour under the class pattern."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2)
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    wave = 2 * math.pi / rng.uniform(7, 10)
    pattern = {
        "disc": np.sin(u * wave + phase[0]),  # stripes
        "square": np.sign(np.sin(u * wave + phase[0]) * np.sin(v * wave + phase[1])),  # checks
        "triangle": 2.0 * (np.sin(u * wave + phase[0]) * np.sin(v * wave + phase[1]) > 0.4) - 1,
        "star": 0.3 * rng.standard_normal((height, width)),  # grain
    }[shape]
    return np.array(COLOURS[shape]) * (1 + 0.28 * pattern[..., None])


def soft_noise(width: int, height: int, cell: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width) smooth noise in 0..1, features about `cell` pixels wide."""
    grid = rng.integers(0, 256, (height // cell + 2, width // cell + 2)).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 255


def background(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) floats: a dull, clouded surface."""
    tint = rng.uniform(70, 150) * np.array([1.0, 1.0, 1.0]) + rng.uniform(-18, 18, 3)
    clouds = 0.6 * soft_noise(width, height, 40, rng) + 0.4 * soft_noise(width, height, 9, rng)
    return tint * (0.6 + 0.8 * clouds[..., None])


def filled(polygon, width: int, height: int) -> np.ndarray:
    """(height, width) bool: the pixels of a polygon or of several."""
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for part in without_holes(polygon):
        draw.polygon([tuple(p) for p in part.exterior.coords], fill=1)
    return np.asarray(canvas)


def without_holes(geometry) -> list[Polygon]:
    """The parts of a geometry as plain polygons; one with a hole is cut through it."""
    parts = []
    for part in getattr(geometry, "geoms", [geometry]):
        if not isinstance(part, Polygon) or part.is_empty:
            continue
        if part.interiors:
            x = part.interiors[0].centroid.x
            left, bottom, right, top = part.bounds
            for half in (box(left, bottom, x, top), box(x, bottom, right, top)):
                parts += without_holes(part.intersection(half))
        elif part.area >= 4:
            parts.append(part)
    return parts


def place_shapes(width: int, height: int, rng: np.random.Generator) -> list[tuple[str, Polygon]]:
    """Two to five shapes from the back to the front."""
    placed = []
    for _ in range(rng.integers(2, 6)):
        shape = SHAPES[rng.integers(len(SHAPES))]
        radius = rng.uniform(0.12, 0.32) * min(width, height)
        polygon = affinity.rotate(outline(shape), rng.uniform(0, 360), origin=(0, 0))
        polygon = affinity.scale(polygon, radius, radius * rng.uniform(0.8, 1.0), origin=(0, 0))
        centre = rng.uniform(0.5 * radius, (width, height) - np.array(0.5 * radius))
        placed.append((shape, affinity.translate(polygon, *centre)))
    return placed


def draw_scene(rng: np.random.Generator):
    """One picture (PIL), its label map (uint8, class + 1), its visible shapes and its crowd mask."""
    width, height = SIZES[rng.integers(len(SIZES))]
    frame = box(0, 0, width - 1, height - 1)
    pixels = background(width, height, rng)
    labels = np.ones((height, width), np.uint8)
    crowd = np.zeros((height, width), bool)
    placed = place_shapes(width, height, rng)
    if rng.random() < 0.2:  # a swarm of tiny discs behind everything else
        centre = rng.uniform(0.2, 0.8, 2) * (width, height)
        for _ in range(12):
            x, y = centre + rng.normal(0, 9, 2)
            inside = filled(Point(x, y).buffer(3.5).intersection(frame), width, height)
            pixels[inside] = texture("disc", width, height, rng)[inside]
            labels[inside] = 1 + SEGMENTATION_CLASSES.index("disc")
            crowd |= inside
    visible = []
    for k, (shape, polygon) in enumerate(placed):
        inside = filled(polygon.intersection(frame), width, height)
        pixels[inside] = texture(shape, width, height, rng)[inside]
        labels[inside] = 1 + SEGMENTATION_CLASSES.index(shape)
        crowd &= ~inside
        seen = polygon.intersection(frame)
        for _, nearer in placed[k + 1 :]:
            seen = seen.difference(nearer)
        if seen.area >= 0.25 * polygon.area:
            visible.append((shape, seen))
    light = 0.65 + 0.6 * soft_noise(width, height, max(width, height) // 2, rng)
    pixels = pixels * light[..., None] * rng.uniform(0.8, 1.15) + rng.normal(0, 5, pixels.shape)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return picture, labels, visible, crowd


def coco_annotations(visible, crowd: np.ndarray) -> list[dict]:
    """COCO instance entries (without ids) of one picture."""
    entries = []
    for shape, geometry in visible:
        parts = without_holes(geometry)
        if not parts:
            continue
        left, top, right, bottom = MultiPolygon(parts).bounds
        entries.append(
            {
                "category_id": SHAPES.index(shape) + 1,
                "bbox": [round(v, 2) for v in (left, top, right - left, bottom - top)],
                "area": round(sum(part.area for part in parts), 2),
                "segmentation": [
                    [round(v, 2) for point in part.exterior.coords[:-1] for v in point]
                    for part in parts
                ],
                "iscrowd": 0,
            }
        )
    if crowd.any():
        rle = coco_mask.encode(np.asfortranarray(crowd.astype(np.uint8)))
        runs = _run_lengths(crowd)
        entries.append(
            {
                "category_id": SHAPES.index("disc") + 1,
                "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                "area": float(coco_mask.area(rle)),
                "segmentation": {"size": list(crowd.shape), "counts": runs},
                "iscrowd": 1,
            }
        )
    return entries


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: runs down the columns, the first of zeros."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def make_sample_data(
    root: str | Path, *, train: int = 128, val: int = 32, seed: int = 0, progress=iter
) -> Path:
    """Write both layouts under `root`; the same arguments give the same bytes.

    `progress` wraps the loop over pictures, e.g. tqdm. Returns the root.
    """
    root = Path(root)
    coco, ade = root / "coco", root / "ade" / "ADEChallengeData2016"
    (coco / "annotations").mkdir(parents=True, exist_ok=True)
    jobs = [("train", k) for k in range(train)] + [("val", k) for k in range(val)]
    files = {split: {"images": [], "annotations": []} for split in SPLITS}
    for split, number in progress(jobs):
        coco_name, ade_name = SPLITS[split]
        rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
        picture, labels, visible, crowd = draw_scene(rng)
        stem = f"{number:06d}"
        for folder, name, image in (
            (coco / coco_name, f"{stem}.jpg", picture),
            (ade / "images" / ade_name, f"{stem}.jpg", picture),
            (ade / "annotations" / ade_name, f"{stem}.png", Image.fromarray(labels)),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / name, **({"quality": 95} if name.endswith("jpg") else {}))
        table = files[split]
        table["images"].append(
            {
                "id": number,
                "file_name": f"{stem}.jpg",
                "width": picture.width,
                "height": picture.height,
            }
        )
        for entry in coco_annotations(visible, crowd):
            table["annotations"].append(
                {"id": len(table["annotations"]) + 1, "image_id": number, **entry}
            )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(SHAPES)]
    for split, table in files.items():
        path = coco / "annotations" / f"instances_{SPLITS[split][0]}.json"
        path.write_text(json.dumps({**table, "categories": categories}))
    return root
