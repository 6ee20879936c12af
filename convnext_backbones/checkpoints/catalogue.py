"""Every published weight file of a ConvNeXt: what it holds, where it is, what may be done with it.

Sources: the READMEs of facebookresearch/ConvNeXt and ConvNeXt-V2 (files, accuracies, licences),
torchvision 0.27.1, timm 1.0.31 and its results/results-imagenet.csv.
"""

import difflib
import re
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

FACEBOOK = "https://dl.fbaipublicfiles.com/convnext/"
TORCHVISION = "https://download.pytorch.org/models/"
HUB = "https://huggingface.co/"

# What the words of a tag say of the training data: fcmae_ft_in22k_in1k has three.
TRAINING_DATA = {
    "fcmae": "ImageNet-1K without labels (FCMAE)",
    "in1k": "ImageNet-1K",
    "in12k": "ImageNet-12K",
    "in22k": "ImageNet-22K",
    "laion2b": "LAION-2B (CLIP)",
    "laiona": "LAION-Aesthetic (CLIP)",
    "dinov3": "LVD-1689M without labels (DINOv3)",
    "eupe": "LVD-1689M without labels (EUPE)",
    "coco": "COCO",
    "ade20k": "ADE20K",
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Weights(NamedTuple):
    """One published weight file.

    name: timm's where timm has the same weights, else in the same style.
    variant: a key of VARIANTS; None for the isotropic networks, which this package does not build.
    task: "imagenet" (classifiers and CLIP, DINOv3, EUPE trunks), "fcmae" (the sparse encoder before
        fine-tuning), "coco" or "ade20k" (whole detectors and segmentors).
    training_data: the data sets, in the order of training.
    resolution: side of the square test pictures in pixels; for COCO the shortest edge.
    top1: published ImageNet-1K accuracy at that resolution, percent. None for files without a
        1000-class head: the README prints beside a 22K file what its fine-tuned child reaches.
    num_classes: outputs of the head, 0 without one. CLIP's trunks end in a projection of 640.
    ema: whether these are averaged weights; None where the publisher does not say.
    licence: of the weights, as an SPDX name where one exists.
    sha256: in full, or as many first digits as are known.
    aliases: further names: the file's, Hugging Face ids, torchvision's.
    preprocessing: keyword arguments of EvaluationTransform; None for detectors and segmentors.
    other_figures: of a detector or segmentor.
    """

    name: str
    variant: str | None
    task: str
    training_data: str
    resolution: int
    top1: float | None
    num_classes: int
    ema: bool | None
    licence: str
    url: str
    sha256: str | None
    aliases: tuple[str, ...]
    preprocessing: dict | None
    other_figures: str = ""

    @property
    def filename(self) -> str:
        """Its name in the cache; every model.safetensors of the hub gets its own."""
        last = self.url.rsplit("/", 1)[1]
        return f"{self.name}.safetensors" if last == "model.safetensors" else last


# name, file below FACEBOOK, top-1
_CLASSIFIERS = (
    ("convnext_tiny.fb_in1k", "convnext_tiny_1k_224_ema.pth", 82.1),
    ("convnext_small.fb_in1k", "convnext_small_1k_224_ema.pth", 83.1),
    ("convnext_base.fb_in1k", "convnext_base_1k_224_ema.pth", 83.8),
    ("convnext_base.fb_in1k_384", "convnext_base_1k_384.pth", 85.1),
    ("convnext_large.fb_in1k", "convnext_large_1k_224_ema.pth", 84.3),
    ("convnext_large.fb_in1k_384", "convnext_large_1k_384.pth", 85.5),
    ("convnext_tiny.fb_in1k_no_ema", "convnext_tiny_1k_224.pth", None),  # for the COCO recipes
    ("convnext_small.fb_in1k_no_ema", "convnext_small_1k_224.pth", None),
    ("convnext_base.fb_in1k_no_ema", "convnext_base_1k_224.pth", None),
    ("convnext_tiny.fb_in22k", "convnext_tiny_22k_224.pth", None),
    ("convnext_small.fb_in22k", "convnext_small_22k_224.pth", None),
    ("convnext_base.fb_in22k", "convnext_base_22k_224.pth", None),
    ("convnext_large.fb_in22k", "convnext_large_22k_224.pth", None),
    ("convnext_xlarge.fb_in22k", "convnext_xlarge_22k_224.pth", None),
    ("convnext_tiny.fb_in22k_ft_in1k", "convnext_tiny_22k_1k_224.pth", 82.9),
    ("convnext_small.fb_in22k_ft_in1k", "convnext_small_22k_1k_224.pth", 84.6),
    ("convnext_base.fb_in22k_ft_in1k", "convnext_base_22k_1k_224.pth", 85.8),
    ("convnext_large.fb_in22k_ft_in1k", "convnext_large_22k_1k_224.pth", 86.6),
    ("convnext_xlarge.fb_in22k_ft_in1k", "convnext_xlarge_22k_1k_224_ema.pth", 87.0),
    ("convnext_tiny.fb_in22k_ft_in1k_384", "convnext_tiny_22k_1k_384.pth", 84.1),
    ("convnext_small.fb_in22k_ft_in1k_384", "convnext_small_22k_1k_384.pth", 85.8),
    ("convnext_base.fb_in22k_ft_in1k_384", "convnext_base_22k_1k_384.pth", 86.8),
    ("convnext_large.fb_in22k_ft_in1k_384", "convnext_large_22k_1k_384.pth", 87.5),
    ("convnext_xlarge.fb_in22k_ft_in1k_384", "convnext_xlarge_22k_1k_384_ema.pth", 87.8),
    ("convnext_iso_small.fb_in1k", "convnext_iso_small_1k_224_ema.pth", 78.7),
    ("convnext_iso_base.fb_in1k", "convnext_iso_base_1k_224_ema.pth", 82.0),
    ("convnext_iso_large.fb_in1k", "convnext_iso_large_1k_224_ema.pth", 82.6),
    ("convnextv2_atto.fcmae", "convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt", None),
    ("convnextv2_femto.fcmae", "convnextv2/pt_only/convnextv2_femto_1k_224_fcmae.pt", None),
    ("convnextv2_pico.fcmae", "convnextv2/pt_only/convnextv2_pico_1k_224_fcmae.pt", None),
    ("convnextv2_nano.fcmae", "convnextv2/pt_only/convnextv2_nano_1k_224_fcmae.pt", None),
    ("convnextv2_tiny.fcmae", "convnextv2/pt_only/convnextv2_tiny_1k_224_fcmae.pt", None),
    ("convnextv2_base.fcmae", "convnextv2/pt_only/convnextv2_base_1k_224_fcmae.pt", None),
    ("convnextv2_large.fcmae", "convnextv2/pt_only/convnextv2_large_1k_224_fcmae.pt", None),
    ("convnextv2_huge.fcmae", "convnextv2/pt_only/convnextv2_huge_1k_224_fcmae.pt", None),
    ("convnextv2_atto.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_atto_1k_224_ema.pt", 76.7),
    ("convnextv2_femto.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_femto_1k_224_ema.pt", 78.5),
    ("convnextv2_pico.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_pico_1k_224_ema.pt", 80.3),
    ("convnextv2_nano.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_nano_1k_224_ema.pt", 81.9),
    ("convnextv2_tiny.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_tiny_1k_224_ema.pt", 83.0),
    ("convnextv2_base.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_base_1k_224_ema.pt", 84.9),
    ("convnextv2_large.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_large_1k_224_ema.pt", 85.8),
    ("convnextv2_huge.fcmae_ft_in1k", "convnextv2/im1k/convnextv2_huge_1k_224_ema.pt", 86.3),
    ("convnextv2_nano.fcmae_ft_in22k_in1k", "convnextv2/im22k/convnextv2_nano_22k_224_ema.pt", 82.1),
    ("convnextv2_tiny.fcmae_ft_in22k_in1k", "convnextv2/im22k/convnextv2_tiny_22k_224_ema.pt", 83.9),
    ("convnextv2_base.fcmae_ft_in22k_in1k", "convnextv2/im22k/convnextv2_base_22k_224_ema.pt", 86.8),
    ("convnextv2_large.fcmae_ft_in22k_in1k", "convnextv2/im22k/convnextv2_large_22k_224_ema.pt", 87.3),
    ("convnextv2_nano.fcmae_ft_in22k_in1k_384", "convnextv2/im22k/convnextv2_nano_22k_384_ema.pt", 83.4),
    ("convnextv2_tiny.fcmae_ft_in22k_in1k_384", "convnextv2/im22k/convnextv2_tiny_22k_384_ema.pt", 85.1),
    ("convnextv2_base.fcmae_ft_in22k_in1k_384", "convnextv2/im22k/convnextv2_base_22k_384_ema.pt", 87.7),
    ("convnextv2_large.fcmae_ft_in22k_in1k_384", "convnextv2/im22k/convnextv2_large_22k_384_ema.pt", 88.2),
    ("convnextv2_huge.fcmae_ft_in22k_in1k_384", "convnextv2/im22k/convnextv2_huge_22k_384_ema.pt", 88.7),
    ("convnextv2_huge.fcmae_ft_in22k_in1k_512", "convnextv2/im22k/convnextv2_huge_22k_512_ema.pt", 88.9),
)  # fmt: skip

# name, file below FACEBOOK, recipe, published figures. The names end in the data set.
_DETECTORS = (
    ("convnext_tiny.fb_in1k_mask_rcnn_3x_coco",
     "coco/mask_rcnn_convnext_tiny_1k_3x.pth", "Mask R-CNN, 3x", "box AP 46.2, mask AP 41.7"),
    ("convnext_tiny.fb_in1k_cascade_mask_rcnn_3x_coco",
     "coco/cascade_mask_rcnn_convnext_tiny_1k_3x.pth", "Cascade Mask R-CNN, 3x", "box AP 50.4, mask AP 43.7"),
    ("convnext_small.fb_in1k_cascade_mask_rcnn_3x_coco",
     "coco/cascade_mask_rcnn_convnext_small_1k_3x.pth", "Cascade Mask R-CNN, 3x", "box AP 51.9, mask AP 45.0"),
    ("convnext_base.fb_in1k_cascade_mask_rcnn_3x_coco",
     "coco/cascade_mask_rcnn_convnext_base_1k_3x.pth", "Cascade Mask R-CNN, 3x", "box AP 52.7, mask AP 45.6"),
    ("convnext_base.fb_in22k_cascade_mask_rcnn_3x_coco",
     "coco/cascade_mask_rcnn_convnext_base_22k_3x.pth", "Cascade Mask R-CNN, 3x", "box AP 54.0, mask AP 46.9"),
    ("convnext_large.fb_in22k_cascade_mask_rcnn_3x_coco",
     "coco/cascade_mask_rcnn_convnext_large_22k_3x.pth", "Cascade Mask R-CNN, 3x", "box AP 54.8, mask AP 47.6"),
    ("convnext_xlarge.fb_in22k_cascade_mask_rcnn_3x_coco",
     "coco/cascade_mask_rcnn_convnext_xlarge_22k_3x.pth", "Cascade Mask R-CNN, 3x", "box AP 55.2, mask AP 47.7"),
    ("convnext_tiny.fb_in1k_upernet_160k_ade20k",
     "ade20k/upernet_convnext_tiny_1k_512x512.pth", "UPerNet, 160k", "mIoU 46.0, multi-scale 46.7"),
    ("convnext_small.fb_in1k_upernet_160k_ade20k",
     "ade20k/upernet_convnext_small_1k_512x512.pth", "UPerNet, 160k", "mIoU 48.7, multi-scale 49.6"),
    ("convnext_base.fb_in1k_upernet_160k_ade20k",
     "ade20k/upernet_convnext_base_1k_512x512.pth", "UPerNet, 160k", "mIoU 49.1, multi-scale 49.9"),
    ("convnext_base.fb_in22k_upernet_160k_ade20k",
     "ade20k/upernet_convnext_base_22k_640x640.pth", "UPerNet, 160k", "mIoU 52.6, multi-scale 53.1"),
    ("convnext_large.fb_in22k_upernet_160k_ade20k",
     "ade20k/upernet_convnext_large_22k_640x640.pth", "UPerNet, 160k", "mIoU 53.2, multi-scale 53.7"),
    ("convnext_xlarge.fb_in22k_upernet_160k_ade20k",
     "ade20k/upernet_convnext_xlarge_22k_640x640.pth", "UPerNet, 160k", "mIoU 53.6, multi-scale 54.0"),
)  # fmt: skip

# variant, file below TORCHVISION, resized shortest edge, top-1: torchvision's own training
_TORCHVISION = (
    ("convnext_tiny", "convnext_tiny-983f1562.pth", 236, 82.520),
    ("convnext_small", "convnext_small-0c510722.pth", 230, 83.616),
    ("convnext_base", "convnext_base-6075fbad.pth", 232, 84.062),
    ("convnext_large", "convnext_large-ea097f82.pth", 232, 84.414),
)

# name, resolution, crop_pct, classes, top-1, aliases: timm's own training and its conversions
_TIMM = (
    ("convnext_atto.d2_in1k", 224, 0.875, 1000, 75.672, "convnext_atto_d2-01bb0f51.pth"),
    ("convnext_femto.d1_in1k", 224, 0.875, 1000, 77.498, "convnext_femto_d1-d71d5b4c.pth"),
    ("convnext_pico.d1_in1k", 224, 0.875, 1000, 79.516, "convnext_pico_d1-10ad7f0d.pth"),
    ("convnext_nano.d1h_in1k", 224, 0.95, 1000, 80.762, "convnext_nano_d1h-7eb4bdea.pth"),
    ("convnext_nano.in12k", 224, 0.95, 11821, None),
    ("convnext_nano.in12k_ft_in1k", 224, 0.95, 1000, 82.306),
    ("convnext_nano.r384_in12k", 384, 1.0, 11821, None),
    ("convnext_nano.r384_ad_in12k", 384, 1.0, 11821, None),
    ("convnext_nano.r384_in12k_ft_in1k", 384, 1.0, 1000, 83.334),
    ("convnext_tiny.in12k", 224, 0.95, 11821, None),
    ("convnext_tiny.in12k_ft_in1k", 224, 0.95, 1000, 84.192),
    ("convnext_tiny.in12k_ft_in1k_384", 384, "warp", 1000, 85.154),
    ("convnext_small.in12k", 224, 0.95, 11821, None),
    ("convnext_small.in12k_ft_in1k", 224, 0.95, 1000, 85.164),
    ("convnext_small.in12k_ft_in1k_384", 384, "warp", 1000, 86.186),
    ("convnext_base.clip_laion2b", 256, 1.0, 640, None),
    ("convnext_base.clip_laion2b_augreg", 256, 1.0, 640, None),
    ("convnext_base.clip_laion2b_augreg_ft_in1k", 256, 1.0, 1000, 86.184),
    ("convnext_base.clip_laion2b_augreg_ft_in12k", 256, 1.0, 11821, None),
    ("convnext_base.clip_laion2b_augreg_ft_in12k_in1k", 256, 1.0, 1000, 86.378),
    ("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", 384, "warp", 1000, 87.144),
    ("convnext_base.clip_laiona", 256, 1.0, 640, None),
    ("convnext_base.clip_laiona_320", 320, 1.0, 640, None),
    ("convnext_base.clip_laiona_augreg_320", 320, 1.0, 640, None),
    ("convnext_base.clip_laiona_augreg_ft_in1k_384", 384, 1.0, 1000, 86.490),
    ("convnext_tiny.dinov3_lvd1689m", 224, 1.0, 0, None,
     "facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
     "dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb.pth"),
    ("convnext_small.dinov3_lvd1689m", 224, 1.0, 0, None,
     "facebook/dinov3-convnext-small-pretrain-lvd1689m",
     "dinov3_convnext_small_pretrain_lvd1689m-296db49d.pth"),
    ("convnext_base.dinov3_lvd1689m", 224, 1.0, 0, None,
     "facebook/dinov3-convnext-base-pretrain-lvd1689m",
     "dinov3_convnext_base_pretrain_lvd1689m-801f2ba9.pth"),
    ("convnext_large.dinov3_lvd1689m", 224, 1.0, 0, None,
     "facebook/dinov3-convnext-large-pretrain-lvd1689m",
     "dinov3_convnext_large_pretrain_lvd1689m-61fa432d.pth"),
    ("convnext_tiny.eupe_lvd1689m", 256, 1.0, 0, None,
     "facebook/EUPE-ConvNeXt-T", "EUPE-ConvNeXt-T.pt"),
    ("convnext_small.eupe_lvd1689m", 256, 1.0, 0, None,
     "facebook/EUPE-ConvNeXt-S", "EUPE-ConvNeXt-S.pt"),
    ("convnext_base.eupe_lvd1689m", 256, 1.0, 0, None,
     "facebook/EUPE-ConvNeXt-B", "EUPE-ConvNeXt-B.pt"),
)  # fmt: skip


def _training_data(name: str) -> str:
    words = name.split(".")[1].split("_")
    return ", then ".join(TRAINING_DATA[word] for word in words if word in TRAINING_DATA)


def _classifier(name: str, path: str, top1: float | None) -> Weights:
    """Resolution, classes, EMA and the Hugging Face id are read off the file's name."""
    variant, tag = name.split(".")
    family, *isotropic, size = variant.split("_")
    file = path.rsplit("/", 1)[-1]
    data, resolution = re.search(r"_(22k_1k|22k|1k)_(\d+)", file).groups()
    no_head, version_2 = tag == "fcmae", family == "convnextv2"
    twins = []  # the same weights elsewhere
    if tag not in ("fb_in1k_384", "fb_in1k_no_ema") and not isotropic:
        twins.append(f"timm/{name}")
    if version_2 and not no_head:
        twins.append(f"facebook/convnextv2-{size}-{data}-{resolution}")
    elif tag in ("fb_in1k", "fb_in1k_384") and not isotropic:
        twins.append(f"facebook/convnext-{size}-{resolution}")
    elif "in22k" in tag and not version_2 and size not in ("tiny", "small"):
        twins.append(f"facebook/convnext-{size}-{resolution}-{data.replace('_', '-')}")
    return Weights(
        name=name,
        variant=None if isotropic else variant,
        task="fcmae" if no_head else "imagenet",
        training_data=_training_data(name),
        resolution=int(resolution),
        top1=top1,
        num_classes=0 if no_head else 21841 if tag == "fb_in22k" else 1000,
        ema="_ema" in file,
        licence="CC-BY-NC-4.0" if version_2 else "MIT",
        url=FACEBOOK + path,
        sha256=None,
        aliases=(file, *twins),
        preprocessing={"image_size": int(resolution)},
    )


def _detector(name: str, path: str, recipe: str, figures: str) -> Weights:
    task = name.rsplit("_", 1)[1]
    crop = re.search(r"_(\d+)x\d+", path)
    return Weights(
        name=name,
        variant=name.split(".")[0],
        task=task,
        training_data=f"{_training_data(name)} ({recipe})",
        resolution=int(crop[1]) if crop else 800,
        top1=None,
        num_classes={"coco": 80, "ade20k": 150}[task],
        ema=False,
        licence="MIT",
        url=FACEBOOK + path,
        sha256=None,
        aliases=(path.rsplit("/", 1)[1],),
        preprocessing=None,
        other_figures=figures,
    )


def _torchvision(variant: str, file: str, edge: int, top1: float) -> Weights:
    size = variant.split("_")[1]
    return Weights(
        name=f"{variant}.tv_in1k",
        variant=variant,
        task="imagenet",
        training_data=_training_data(f"{variant}.tv_in1k"),
        resolution=224,
        top1=top1,
        num_classes=1000,
        ema=None,
        licence="BSD-3-Clause",
        url=TORCHVISION + file,
        sha256=re.search(r"-([0-9a-f]{8})\.pth$", file)[1],
        aliases=(file, f"ConvNeXt_{size.capitalize()}_Weights.IMAGENET1K_V1"),
        preprocessing={"image_size": 224, "crop_pct": 224 / edge, "interpolation": "bilinear"},
    )


def _timm(name, resolution, crop_pct, num_classes, top1, *aliases: str) -> Weights:
    preprocessing = {"image_size": resolution}
    if crop_pct != "warp":
        preprocessing |= {"crop_pct": crop_pct, "warp": False}
    if "clip" in name:
        preprocessing |= {"mean": CLIP_MEAN, "std": CLIP_STD}
    licence = "Apache-2.0"
    if "dinov3" in name:
        licence = "DINOv3-License"
    elif "eupe" in name:
        licence = "FAIR-Noncommercial-Research-License"
    return Weights(
        name=name,
        variant=name.split(".")[0],
        task="imagenet",
        training_data=_training_data(name),
        resolution=resolution,
        top1=top1,
        num_classes=num_classes,
        ema=None,
        licence=licence,
        url=f"{HUB}timm/{name}/resolve/main/model.safetensors",
        sha256=None,
        aliases=(f"timm/{name}", f"{name}.safetensors", *aliases),
        preprocessing=preprocessing,
    )


CATALOGUE = MappingProxyType(
    {
        weights.name: weights
        for make, rows in (
            (_classifier, _CLASSIFIERS),
            (_detector, _DETECTORS),
            (_torchvision, _TORCHVISION),
            (_timm, _TIMM),
        )
        for weights in (make(*row) for row in rows)
    }
)

_BY_ANY_NAME = {
    name: weights
    for weights in CATALOGUE.values()
    for name in (weights.name, weights.url, *weights.aliases)
}


def find_weights(name: str | Path) -> Weights | None:
    """The row of a catalogue name, an alias or a URL, or of a path whose last part is one of them.

    A URL of a Hugging Face repository is looked up by the repository, of another server by its file.
    """
    text = str(name)
    in_hub = re.match(r"https://(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)/resolve/", text)
    last = in_hub[1] if in_hub else re.sub(r"[?#].*", "", text).rstrip("/").rsplit("/", 1)[-1]
    return _BY_ANY_NAME.get(text) or _BY_ANY_NAME.get(last)


def nearest_names(name: str, count: int = 5) -> list[str]:
    """The names of a variant's weights; else names and aliases like this one, the nearest first."""
    like = [word for word in CATALOGUE if word.startswith(f"{name}.")]
    like = like or difflib.get_close_matches(name, _BY_ANY_NAME, n=4 * count)
    found = {}
    for word in like:
        found.setdefault(_BY_ANY_NAME[word].name, word)
    return list(found.values())[:count]
