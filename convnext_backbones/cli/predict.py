"""Draw what a trained model sees in a picture or in a folder of pictures.

    python tools/predict.py CONFIG CHECKPOINT IMAGE_OR_FOLDER --out DIR

CONFIG is one of MMDetection, MMSegmentation or Detectron2 (LazyConfig or YAML).
"""

import argparse
import importlib
import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("source", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", required=True, type=Path, help="folder for the drawn pictures")
    parser.add_argument("--score", type=float, default=0.3, help="least score of a drawn instance")
    parser.add_argument("--sample", action="store_true", help="as train.py --sample changed it")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    return parser.parse_args()


def pictures(source: str) -> list[Path]:
    """The picture files that `source` names, itself or inside it."""
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
        return found
    if not path.is_file():
        raise UserError(f"there is no picture or folder {path}")
    return [path]


def framework_of(config: str) -> str:
    """The adapter that runs this config."""
    path = Path(config)
    if path.suffix in (".yaml", ".yml"):
        return "detectron2"
    text = path.read_text(errors="replace") if path.is_file() else ""
    lazy = re.search(r"^\s*(from|import) (detectron2\b|\.)", text, re.M) and "mmengine" not in text
    return "detectron2" if lazy else "openmmlab"


def main():
    args = parse_args()
    module = f"convnext_backbones.adapters.{framework_of(args.config)}.run"
    try:
        run = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{args.config} needs a framework that is not here: {error}") from error
    run.quiet_warnings()
    files = pictures(args.source)
    cfg = run.load_config(args.config, sample=args.sample)
    model = run.load_model(cfg, args.checkpoint, args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    unreadable = []
    for file in tqdm(files, desc="predicting", unit="picture", disable=len(files) == 1):
        try:
            image = np.asarray(Image.open(file).convert("RGB"))
        except (UnidentifiedImageError, OSError):
            unreadable.append(file)
            continue
        sample = run.infer(model, image[..., ::-1])  # the hosts take BGR, as OpenCV reads
        drawn = run.draw_prediction(image, sample, model.dataset_meta, args.score)
        Image.fromarray(drawn).save(args.out / f"{file.stem}.png")
    print(f"{len(files) - len(unreadable)} pictures drawn in {args.out}")
    if unreadable:
        names = ", ".join(map(str, unreadable[:5]))
        raise UserError(
            f"{len(unreadable)} files are no readable pictures and were skipped: {names}"
        )
