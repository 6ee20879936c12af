"""How detectors and segmentors are trained: THE table, which configs of every framework read.

    recipe = recipe_of("coco_mask_rcnn_convnextv2_b")
    recipe["lr"], recipe["layer_decay"], recipe["drop_path"], recipe["batch"], recipe["init"]

PROTOCOLS holds what recipes share: the data, its augmentation, the schedule. RECIPES holds the
rest, one row a network: the name of its configs, initial weights, learning rate, layer decay, drop
path, scores. Each row says where its figures come from:

    published    the source prints these figures and these scores
    reproduced   published, and the run named in `measured` reached the scores here
    untested     nobody published them; `source` says why they were chosen. Scores of such a row are
                 a paper's that does not print all figures.

Sources: READMEs and configs of facebookresearch/ConvNeXt; MMDetection's and MMSegmentation's
configs; detrex's configs and README; ConvNeXt V2's paper (arXiv:2301.00808), which gives sweeps and
does not say what each size took:

    A.3, COCO    batch 32, lr 1e-4, 36 epochs, large-scale jitter, soft-NMS, FCMAE weights; layer
                 decay out of 0.9, 0.95, drop path out of 0.2 .. 0.5
    A.4, ADE20K  batch 16, 160k iterations, fine-tuned weights; lr out of 1e-4, 2e-4, 3e-4, layer
                 decay out of 0.8, 0.9, drop path out of 0.1 .. 0.4

ConvNeXt V2's author advises no weight decay on GRN (ConvNeXt-V2, issue 15): no recipe has any.
"""

import math
from types import MappingProxyType
from typing import NamedTuple

from ..network.variants import VARIANTS, nearest
from .layer_decay import learning_rate_scale

BETAS = (0.9, 0.999)  # of AdamW, in every recipe


class Protocol(NamedTuple):
    """Data, augmentation and schedule.

    train_images: per epoch; COCO has 118287, 117266 of them with objects.
    batch, gpus: images per step over all devices, and on how many devices they were.
    epochs or iterations: the length; milestones count in the same unit.
    warmup_iterations, warmup_factor: lr grows linearly from warmup_factor * lr.
    milestones: lr is divided by ten after each.
    power: or falls to 0 polynomially after the warm-up.
    cosine_from, final_lr: or falls as a cosine from this epoch on, in every layer to final_lr.
    scale: long and short side of the test picture in pixels; keeps the aspect ratio.
    short_sides: training: short side out of these, long side <= scale[0]...
    ratio_range: ...or scale times a factor out of this range.
    crop_size: of a training picture after that, (height, width).
    slide_stride: test: windows of crop_size, this far apart; None for the whole picture.
    flops_size: (height, width) of the picture whose operations are counted.
    text: all of the augmentation in words.
    """

    name: str
    dataset: str
    train_images: int
    batch: int
    gpus: int
    scale: tuple[int, int]
    flops_size: tuple[int, int]
    text: str
    epochs: int | None = None
    iterations: int | None = None
    warmup_iterations: int = 0
    warmup_factor: float = 1.0
    milestones: tuple[int, ...] = ()
    power: float | None = None
    cosine_from: int | None = None
    final_lr: float | None = None
    weight_decay: float = 0.05
    clip_norm: float | None = None
    short_sides: tuple[int, ...] = ()
    ratio_range: tuple[float, float] | None = None
    crop_size: tuple[int, int] | None = None
    slide_stride: tuple[int, int] | None = None


def _coco(name, batch, text, **figures) -> Protocol:
    defaults = {"train_images": 117_266, "gpus": 8, "scale": (1333, 800), "flops_size": (800, 1280)}
    return Protocol(name, "coco", batch=batch, text=text, **{**defaults, **figures})


def _ade20k(name, short, text, **figures) -> Protocol:
    return Protocol(
        name, "ade20k", 20_210, batch=16, gpus=8, iterations=160_000,
        scale=(4 * short, short), crop_size=(short, short), flops_size=(short, 4 * short),
        text=text, **figures,
    )  # fmt: skip


_SHORT_SIDES = tuple(range(480, 801, 32))
_STEPS_3X = {
    "epochs": 36, "milestones": (27, 33), "warmup_iterations": 1000, "warmup_factor": 1e-3,
}  # fmt: skip
_POLYNOMIAL = {
    "warmup_iterations": 1500, "warmup_factor": 1e-6, "power": 1.0, "ratio_range": (0.5, 2.0),
}  # fmt: skip

PROTOCOLS = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            _coco("coco_3x", 16, "multi-scale 480 to 800, half of it after DETR's crop, flip",
                  short_sides=_SHORT_SIDES, **_STEPS_3X),
            _coco("coco_lsj_3x", 32,
                  "large-scale jitter 0.1 to 2.0, crop 1024x1024, flip; soft-NMS",
                  ratio_range=(0.1, 2.0), crop_size=(1024, 1024), **_STEPS_3X),
            _coco("coco_dino_12e", 16, "multi-scale 480 to 800, half of it after DETR's crop, flip",
                  train_images=118_287, epochs=12, milestones=(11,), short_sides=_SHORT_SIDES,
                  weight_decay=1e-4, clip_norm=0.1),
            _coco("coco_mask2former_50e", 16, "large-scale jitter 0.1 to 2.0, crop 1024x1024, flip",
                  iterations=368_750, milestones=(327_778, 355_092),
                  ratio_range=(0.1, 2.0), crop_size=(1024, 1024), clip_norm=0.01),
            _coco("coco_rtmdet_100e", 128,
                  "mosaic and mix-up, scale 0.1 to 2.0, crop 640x640, colour, flip; plain in the "
                  "last 10 epochs; averaged weights",
                  gpus=4, epochs=100, warmup_iterations=1000, warmup_factor=1e-5, cosine_from=50,
                  final_lr=5e-5, scale=(640, 640), ratio_range=(0.1, 2.0), crop_size=(640, 640),
                  flops_size=(640, 640)),
            _ade20k("ade20k_160k", 512, "scale 0.5 to 2.0, crop 512x512, flip, colour",
                    slide_stride=(341, 341), **_POLYNOMIAL),
            _ade20k("ade20k_640_160k", 640, "scale 0.5 to 2.0, crop 640x640, flip, colour",
                    slide_stride=(426, 426), **_POLYNOMIAL),
            _ade20k("ade20k_mask2former_160k", 512,
                    "short side 256 to 1024, crop 512x512, flip, colour",
                    short_sides=tuple(int(51.2 * i) for i in range(5, 21)), power=0.9,
                    clip_norm=0.01),
        )
    }
)  # fmt: skip


class Method(NamedTuple):
    """A head: its title, its paper (arXiv number) unless it is ConvNeXt's own, who has it."""

    title: str
    paper: str
    hosts: tuple[str, ...]


METHODS = MappingProxyType(
    {
        "mask_rcnn": Method("Mask R-CNN", "", ("openmmlab", "detectron2")),
        "cascade_mask_rcnn": Method("Cascade Mask R-CNN", "", ("openmmlab", "detectron2")),
        "dino": Method("DINO", "2203.03605", ("openmmlab",)),
        "mask2former": Method("Mask2Former", "2112.01527", ("openmmlab",)),
        "rtmdet": Method("RTMDet", "2212.07784", ("openmmlab",)),
        "upernet": Method("UPerNet", "", ("openmmlab",)),
        "sem_seg_fpn": Method("SemSegFPN", "1901.02446", ("detectron2",)),
    }
)


class Recipe(NamedTuple):
    """One network on one data set.

    init: a name out of checkpoints/catalogue.py.
    lr: of the heads. backbone_lr: what the backbone's is multiplied by, beside layer decay.
    layer_decay, decay_type: see layer_decay.py; 1.0 for none.
    amp: whether it was trained in mixed precision.
    box_ap, mask_ap, miou, miou_multiscale: scores in percent, on COCO val2017 and ADE20K val.
    params, gflops: as published: millions, and 1e9 multiply-accumulates at protocol.flops_size; see
        COUNTED for every recipe's.
    memory_gb: per GPU, as its source measured.
    reruns: what others got from the same recipe.
    measured: the run that reproduced it here.
    """

    name: str
    method: str
    variant: str
    init: str
    protocol: str
    lr: float
    layer_decay: float
    decay_type: str
    drop_path: float
    status: str
    source: str
    backbone_lr: float = 1.0
    amp: bool = True
    box_ap: float | None = None
    mask_ap: float | None = None
    miou: float | None = None
    miou_multiscale: float | None = None
    params: float | None = None
    gflops: float | None = None
    memory_gb: float | None = None
    reruns: str = ""
    measured: str = ""


SHORT_SIZES = {"tiny": "t", "small": "s", "base": "b", "large": "l", "xlarge": "xl", "huge": "h"}


def _name(dataset: str, method: str, variant: str, init: str) -> str:
    """As the configs are called: coco_cascade_mask_rcnn_convnext_b_22k."""
    family, size = variant.split("_")
    suffix = "_22k" if "in22k" in init else ""
    return f"{dataset}_{method}_{family}_{SHORT_SIZES.get(size, size)}{suffix}"


def _recipe(method, protocol, variant, tag, lr, layer_decay, drop_path, status, source, **more):
    dataset = PROTOCOLS[protocol].dataset
    init = f"{variant}.{tag}"
    decay_type = "stage_wise" if method in ("upernet", "sem_seg_fpn") else "layer_wise"
    name = _name(dataset, method, variant, init)
    return Recipe(
        name, method, variant, init, protocol, lr, layer_decay, decay_type, drop_path, status,
        source, **more,
    )  # fmt: skip


_OFFICIAL = "official ConvNeXt README and configs"
_IN1K, _IN22K = "fb_in1k_no_ema", "fb_in22k"
_FCMAE, _FINE_TUNED = "fcmae", "fcmae_ft_in1k"
_IN22K_FT, _FCMAE_22K_FT = "fb_in22k_ft_in1k_384", "fcmae_ft_in22k_in1k_384"


def _official(method, protocol, variant, tag, lr, decay, drop_path, scores, params, gflops, **more):
    names = ("miou", "miou_multiscale") if method == "upernet" else ("box_ap", "mask_ap")
    return _recipe(
        method, protocol, variant, tag, lr, decay, drop_path, "published", _OFFICIAL,
        **dict(zip(names, scores, strict=True)), params=params, gflops=gflops, **more,
    )  # fmt: skip


_V1 = (
    _official("mask_rcnn", "coco_3x", "convnext_tiny", _IN1K, 1e-4, 0.95, 0.4, (46.2, 41.7), 48,
              262,
              memory_gb=7.3, reruns="MMDetection got box AP 46.2, mask AP 41.7"),
    _official("cascade_mask_rcnn", "coco_3x", "convnext_tiny", _IN1K, 2e-4, 0.7, 0.4, (50.4, 43.7),
              86, 741, memory_gb=9.0, reruns="MMDetection got box AP 50.3, mask AP 43.6"),
    _official("cascade_mask_rcnn", "coco_3x", "convnext_small", _IN1K, 2e-4, 0.7, 0.6, (51.9, 45.0),
              108, 827, memory_gb=12.3, reruns="MMDetection got box AP 51.8, mask AP 44.8"),
    _official("cascade_mask_rcnn", "coco_3x", "convnext_base", _IN1K, 2e-4, 0.8, 0.7, (52.7, 45.6),
              146, 964),
    _official("cascade_mask_rcnn", "coco_3x", "convnext_base", _IN22K, 1e-4, 0.8, 0.6, (54.0, 46.9),
              146, 964),
    _official("cascade_mask_rcnn", "coco_3x", "convnext_large", _IN22K, 1e-4, 0.7, 0.7, (54.8,
              47.6),
              255, 1354, amp=False),
    _official("cascade_mask_rcnn", "coco_3x", "convnext_xlarge", _IN22K, 1e-4, 0.7, 0.8, (55.2,
              47.7),
              407, 1898, amp=False),
    _official("upernet", "ade20k_160k", "convnext_tiny", _IN1K, 1e-4, 0.9, 0.4, (46.0, 46.7), 60,
              939,
              memory_gb=4.23, reruns="MMSegmentation got mIoU 46.11, multi-scale 46.62"),
    _official("upernet", "ade20k_160k", "convnext_small", _IN1K, 1e-4, 0.9, 0.3, (48.7, 49.6), 82,
              1027,
              memory_gb=5.16, reruns="MMSegmentation got mIoU 48.56, multi-scale 49.02"),
    _official("upernet", "ade20k_160k", "convnext_base", _IN1K, 1e-4, 0.9, 0.4, (49.1, 49.9), 122,
              1170,
              memory_gb=6.33, reruns="MMSegmentation got mIoU 48.71, multi-scale 49.54"),
    _official("upernet", "ade20k_640_160k", "convnext_base", _IN22K, 1e-4, 0.9, 0.4, (52.6, 53.1),
              122,
              1828, memory_gb=8.53, reruns="MMSegmentation got mIoU 52.13, multi-scale 52.66"),
    _official("upernet", "ade20k_640_160k", "convnext_large", _IN22K, 1e-4, 0.9, 0.4, (53.2, 53.7),
              235,
              2458, amp=False, memory_gb=12.08,
              reruns="MMSegmentation, in mixed precision, got mIoU 53.16, multi-scale 53.38"),
    _official("upernet", "ade20k_640_160k", "convnext_xlarge", _IN22K, 8e-5, 0.9, 0.4, (53.6,
              54.0), 391,
              3335, amp=False, memory_gb=26.16,
              reruns="MMSegmentation, in mixed precision, got mIoU 53.58, multi-scale 54.11"),
)  # fmt: skip

# ---- ConvNeXt V2 ---------------------------------------------------------------------------------
# Drop path by size: below Tiny little, since V2's authors fine-tune these sizes with 0 to 0.1; Tiny
# as V1-T; Base as MMDetection's V2-B; above it the upper end of the paper's sweep.
_V2_DROP_PATH = {
    "atto": 0.1, "femto": 0.1, "pico": 0.1, "nano": 0.2, "tiny": 0.4, "base": 0.4, "large": 0.5,
    "huge": 0.5,
}  # fmt: skip
_V2_BOX_AND_MASK = {"large": (54.4, 47.7, 875), "huge": (55.7, 48.9, 2525)}  # the paper's table 6
_V2_MIOU = {
    "base": (52.1, 122, 1170),
    "large": (53.7, 235, 1573),
    "huge": (55.0, 707, 3272),
}  # table 7

_SMALL_V2 = (
    "V1-T's recipe, whose layer decay lies in V2's sweep; its multi-scale data, as large-scale "
    "jitter wants larger networks; "
)
_PAPERS_COCO = (
    "the V2 paper's recipe with layer decay {decay} and drop path {drop} out of its sweep; the score "
    "is the paper's, which does not say what it took"
)
_CASCADE_V2 = (
    "V1's Cascade protocol; lr and layer decay from the V2 paper's COCO sweep, the stronger decay of "
    "the two, as V1's Cascade recipes decay more than Mask R-CNN's"
)
_PAPERS_ADE20K = (
    "lr 1e-4, layer decay 0.9 and drop path {drop} out of the V2 paper's sweep, stage_wise as V1; "
)


def _small_drop_path(size: str) -> str:
    return (
        "its drop path too" if size == "tiny" else "less drop path, as so small a network underfits"
    )


def _mask_rcnn_v2(size: str) -> Recipe:
    variant, drop = f"convnextv2_{size}", _V2_DROP_PATH[size]
    if size == "base":
        return _recipe(
            "mask_rcnn", "coco_lsj_3x", variant, _FCMAE, 1e-4, 0.95, drop, "published",
            "MMDetection, projects/ConvNeXt-V2 (no weights published); the V2 paper has box AP 52.9, "
            "mask AP 46.6 and 486 GFLOPs",
            box_ap=52.9, mask_ap=46.4, gflops=486, memory_gb=22.5,
        )  # fmt: skip
    if size in _V2_BOX_AND_MASK:
        box_ap, mask_ap, gflops = _V2_BOX_AND_MASK[size]
        return _recipe(
            "mask_rcnn", "coco_lsj_3x", variant, _FCMAE, 1e-4, 0.95, drop, "untested",
            _PAPERS_COCO.format(decay=0.95, drop=drop),
            box_ap=box_ap, mask_ap=mask_ap, gflops=gflops,
        )  # fmt: skip
    return _recipe(
        "mask_rcnn", "coco_3x", variant, _FCMAE, 1e-4, 0.95, drop, "untested",
        _SMALL_V2 + _small_drop_path(size),
    )  # fmt: skip


def _cascade_v2(size: str) -> Recipe:
    return _recipe(
        "cascade_mask_rcnn", "coco_3x", f"convnextv2_{size}", _FCMAE, 1e-4, 0.9,
        _V2_DROP_PATH[size], "untested", _CASCADE_V2,
    )  # fmt: skip


def _upernet_v2(size: str) -> Recipe:
    drop = min(_V2_DROP_PATH[size], 0.4)
    miou, params, gflops = _V2_MIOU.get(size, (None, None, None))
    source = _PAPERS_ADE20K.format(drop=drop)
    source += (
        "the score is the paper's, with five scales (0.75 to 1.25)"
        if miou
        else "the paper has no score of this size"
    )
    return _recipe(
        "upernet", "ade20k_160k", f"convnextv2_{size}", _FINE_TUNED, 1e-4, 0.9, drop, "untested",
        source, miou_multiscale=miou, params=params, gflops=gflops,
    )  # fmt: skip


_V2_SIZES = tuple(v.size for v in VARIANTS.values() if v.version == 2)
_V2 = (
    *map(_mask_rcnn_v2, _V2_SIZES),
    *map(_cascade_v2, _V2_SIZES),
    *map(_upernet_v2, _V2_SIZES),
    _recipe("upernet", "ade20k_640_160k", "convnextv2_huge", _FCMAE_22K_FT, 1e-4, 0.9, 0.4,
            "untested",
            _PAPERS_ADE20K.format(drop=0.4) + "the score is the paper's, with five scales (0.75 to "
            "1.25) and weights that were never fine-tuned on ImageNet-1K, which are not published",
            miou_multiscale=57.0, params=707, gflops=5113),
)  # fmt: skip

# ---- detectors and segmentors of today -----------------------------------------------------------
_DETREX = "detrex, projects/dino (Detectron2), whose DINO has other position embeddings"
_AS_DETREX = "detrex's recipe for ConvNeXt's DINO with V2's weights of the same training data"
_MASK2FORMER = (
    "Mask2Former's own recipe; the backbone at a tenth of lr, as there and in OneFormer with "
    "ConvNeXt; "
)
_RTMDET = "MMDetection's recipe for RTMDet-l with ConvNeXt-B; "


def _dino(variant, tag, status, source, box_ap=None):
    return _recipe("dino", "coco_dino_12e", variant, tag, 1e-4, 1.0, 0.0, status, source,
                   backbone_lr=0.1, amp=False, box_ap=box_ap)  # fmt: skip


def _mask2former(protocol, variant, tag, drop_path, source):
    return _recipe("mask2former", protocol, variant, tag, 1e-4, 1.0, drop_path, "untested",
                   _MASK2FORMER + source, backbone_lr=0.1, amp=False)  # fmt: skip


def _rtmdet(variant, tag, drop_path, status, source, **more):
    return _recipe("rtmdet", "coco_rtmdet_100e", variant, tag, 1e-3, 0.8, drop_path, status, source,
                   amp=False, **more)  # fmt: skip


_MODERN = (
    _dino("convnext_tiny", _IN22K_FT, "published", _DETREX, 52.4),
    _dino("convnext_small", _IN22K_FT, "published", _DETREX, 54.2),
    _dino("convnext_base", _IN22K_FT, "published", _DETREX, 55.1),
    _dino("convnext_large", _IN22K_FT, "published", _DETREX, 55.5),
    _dino("convnextv2_tiny", _FCMAE_22K_FT, "untested", _AS_DETREX),
    _dino("convnextv2_base", _FCMAE_22K_FT, "untested", _AS_DETREX),
    *(
        _mask2former(protocol, variant, tag, drop_path, source)
        for protocol in ("coco_mask2former_50e", "ade20k_mask2former_160k")
        for variant, tag, drop_path, source in (
            ("convnext_tiny", _IN1K, 0.3, "drop path as for its Swin-T"),
            ("convnextv2_tiny", _FINE_TUNED, 0.3, "drop path as for its Swin-T"),
            ("convnextv2_base", _FCMAE_22K_FT, 0.4, "drop path as in OneFormer's ConvNeXt-L"),
        )
    ),
    _rtmdet("convnext_base", _IN22K_FT, 0.7, "published", "MMDetection, configs/rtmdet",
            box_ap=53.1),
    _rtmdet("convnext_tiny", _IN1K, 0.4, "untested", _RTMDET + "drop path as in V1-T's recipes"),
    _rtmdet("convnextv2_pico", _FINE_TUNED, 0.0, "untested",
            _RTMDET + "no drop path, as V2's authors fine-tune Pico; neck and head of RTMDet-s"),
    _rtmdet("convnextv2_tiny", _FINE_TUNED, 0.4, "untested",
            _RTMDET + "drop path as in V1-T's recipes"),
)  # fmt: skip


def _sem_seg_fpn(upernet: Recipe) -> Recipe:
    """Detectron2 has no UPerNet; its own segmentor is trained as UPerNet is."""
    return upernet._replace(
        name=upernet.name.replace("upernet", "sem_seg_fpn"), method="sem_seg_fpn",
        status="untested", source=f"the recipe of {upernet.name} on Detectron2's own head",
        miou=None, miou_multiscale=None, params=None, gflops=None, memory_gb=None, reruns="",
    )  # fmt: skip


_SEM_SEG_FPN = tuple(_sem_seg_fpn(r) for r in _V1 + _V2 if r.protocol == "ade20k_160k")

RECIPES = MappingProxyType({r.name: r for r in (*_V1, *_V2, *_MODERN, *_SEM_SEG_FPN)})


# Counted by tools/model_table.py on the OpenMMLab configs: million parameters, and 1e9
# multiply-accumulates at the protocol's flops_size. tests/test_configs.py counts them again.
COUNTED = MappingProxyType(
    {
        "coco_mask_rcnn_convnext_t": (48.1, 262.1),
        "coco_cascade_mask_rcnn_convnext_t": (85.9, 741.0),
        "coco_cascade_mask_rcnn_convnext_s": (107.6, 827.3),
        "coco_cascade_mask_rcnn_convnext_b": (145.8, 964.5),
        "coco_cascade_mask_rcnn_convnext_b_22k": (145.8, 964.5),
        "coco_cascade_mask_rcnn_convnext_l_22k": (254.7, 1354.4),
        "coco_cascade_mask_rcnn_convnext_xl_22k": (406.9, 1898.4),
        "coco_mask_rcnn_convnextv2_atto": (23.4, 180.6),
        "coco_mask_rcnn_convnextv2_femto": (24.9, 185.6),
        "coco_mask_rcnn_convnextv2_pico": (28.7, 198.1),
        "coco_mask_rcnn_convnextv2_nano": (35.2, 220.6),
        "coco_mask_rcnn_convnextv2_t": (48.1, 262.1),
        "coco_mask_rcnn_convnextv2_b": (108.1, 485.6),
        "coco_mask_rcnn_convnextv2_l": (217.1, 875.5),
        "coco_mask_rcnn_convnextv2_h": (678.7, 2524.6),
        "coco_cascade_mask_rcnn_convnextv2_atto": (61.3, 659.5),
        "coco_cascade_mask_rcnn_convnextv2_femto": (62.8, 664.5),
        "coco_cascade_mask_rcnn_convnextv2_pico": (66.5, 677.0),
        "coco_cascade_mask_rcnn_convnextv2_nano": (73.0, 699.5),
        "coco_cascade_mask_rcnn_convnextv2_t": (86.0, 741.0),
        "coco_cascade_mask_rcnn_convnextv2_b": (145.9, 964.5),
        "coco_cascade_mask_rcnn_convnextv2_l": (254.9, 1354.4),
        "coco_cascade_mask_rcnn_convnextv2_h": (716.6, 3003.5),
        "coco_rtmdet_convnext_b_22k": (113.7, 171.2),
        "coco_rtmdet_convnext_t": (44.4, 72.2),
        "coco_rtmdet_convnextv2_pico": (13.1, 20.6),
        "coco_rtmdet_convnextv2_t": (44.5, 72.2),
        "ade20k_upernet_convnext_t": (60.2, 938.9),
        "ade20k_upernet_convnext_s": (81.9, 1027.3),
        "ade20k_upernet_convnext_b": (122.1, 1169.8),
        "ade20k_upernet_convnext_b_22k": (122.1, 1827.9),
        "ade20k_upernet_convnext_l_22k": (235.0, 2458.2),
        "ade20k_upernet_convnext_xl_22k": (391.1, 3335.2),
        "ade20k_upernet_convnextv2_atto": (32.1, 851.8),
        "ade20k_upernet_convnextv2_femto": (34.1, 857.4),
        "ade20k_upernet_convnextv2_pico": (38.9, 871.3),
        "ade20k_upernet_convnextv2_nano": (46.3, 895.4),
        "ade20k_upernet_convnextv2_t": (60.3, 938.9),
        "ade20k_upernet_convnextv2_b": (122.2, 1169.8),
        "ade20k_upernet_convnextv2_l": (235.2, 1573.3),
        "ade20k_upernet_convnextv2_h": (706.8, 3272.4),
        "ade20k_upernet_convnextv2_h_22k": (706.8, 5113.1),
        "coco_dino_convnext_t_22k": (48.5, 282.2),
        "coco_dino_convnext_s_22k": (70.1, 368.5),
        "coco_dino_convnext_b_22k": (108.9, 505.3),
        "coco_dino_convnext_l_22k": (219.0, 894.4),
        "coco_dino_convnextv2_t_22k": (48.5, 282.2),
        "coco_dino_convnextv2_b_22k": (109.1, 505.3),
        "coco_mask2former_convnext_t": (47.7, 257.3),
        "coco_mask2former_convnextv2_t": (47.8, 257.3),
        "coco_mask2former_convnextv2_b_22k": (107.7, 480.8),
        "ade20k_mask2former_convnext_t": (47.7, 279.2),
        "ade20k_mask2former_convnextv2_t": (47.8, 279.2),
        "ade20k_mask2former_convnextv2_b_22k": (107.7, 508.0),
    }
)

# The same of Detectron2's LazyConfigs, parameters only; tests/test_model_zoo.py counts them again.
COUNTED_DETECTRON2 = MappingProxyType(
    {
        "coco_mask_rcnn_convnext_t": 48.1,
        "coco_cascade_mask_rcnn_convnext_t": 79.7,
        "coco_cascade_mask_rcnn_convnext_s": 101.3,
        "coco_cascade_mask_rcnn_convnext_b": 139.5,
        "coco_cascade_mask_rcnn_convnext_b_22k": 139.5,
        "coco_cascade_mask_rcnn_convnext_l_22k": 248.5,
        "coco_cascade_mask_rcnn_convnext_xl_22k": 400.6,
        "coco_mask_rcnn_convnextv2_atto": 23.4,
        "coco_mask_rcnn_convnextv2_femto": 24.9,
        "coco_mask_rcnn_convnextv2_pico": 28.7,
        "coco_mask_rcnn_convnextv2_nano": 35.2,
        "coco_mask_rcnn_convnextv2_t": 48.1,
        "coco_mask_rcnn_convnextv2_b": 108.1,
        "coco_mask_rcnn_convnextv2_l": 217.1,
        "coco_mask_rcnn_convnextv2_h": 678.7,
        "coco_cascade_mask_rcnn_convnextv2_atto": 55.0,
        "coco_cascade_mask_rcnn_convnextv2_femto": 56.5,
        "coco_cascade_mask_rcnn_convnextv2_pico": 60.3,
        "coco_cascade_mask_rcnn_convnextv2_nano": 66.8,
        "coco_cascade_mask_rcnn_convnextv2_t": 79.7,
        "coco_cascade_mask_rcnn_convnextv2_b": 139.7,
        "coco_cascade_mask_rcnn_convnextv2_l": 248.6,
        "coco_cascade_mask_rcnn_convnextv2_h": 710.3,
        "ade20k_sem_seg_fpn_convnext_t": 32.2,
        "ade20k_sem_seg_fpn_convnext_s": 53.8,
        "ade20k_sem_seg_fpn_convnext_b": 92.1,
        "ade20k_sem_seg_fpn_convnextv2_atto": 7.5,
        "ade20k_sem_seg_fpn_convnextv2_femto": 9.0,
        "ade20k_sem_seg_fpn_convnextv2_pico": 12.8,
        "ade20k_sem_seg_fpn_convnextv2_nano": 19.3,
        "ade20k_sem_seg_fpn_convnextv2_t": 32.2,
        "ade20k_sem_seg_fpn_convnextv2_b": 92.2,
        "ade20k_sem_seg_fpn_convnextv2_l": 201.2,
        "ade20k_sem_seg_fpn_convnextv2_h": 662.8,
    }
)


# ---- reading -------------------------------------------------------------------------------------
def get_recipe(name: str) -> Recipe:
    """The row of a name; ValueError names the nearest."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; {nearest(str(name), RECIPES)}")
    return RECIPES[name]


def protocol_of(name: str) -> dict:
    """A row of PROTOCOLS as plain values, with images_per_gpu and, counted out, iterations."""
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; {nearest(str(name), PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    return {
        **protocol._asdict(),
        "iterations": iterations(protocol),
        "images_per_gpu": protocol.batch // protocol.gpus,
    }


def recipe_of(name: str) -> dict:
    """Everything a config needs, as plain values: recipe, protocol (under "protocol" its name),
    the variant's dims, and iterations, images_per_gpu."""
    recipe = get_recipe(name)
    return {
        **protocol_of(recipe.protocol),
        **recipe._asdict(),
        "dims": list(VARIANTS[recipe.variant].dims),
    }


def iterations(protocol: Protocol) -> int:
    """Length of the schedule in steps; the last batch of an epoch may be smaller."""
    return protocol.iterations or protocol.epochs * iterations_per_epoch(protocol)


def iterations_per_epoch(protocol: Protocol) -> int:
    return math.ceil(protocol.train_images / protocol.batch)


def learning_rate(recipe: Recipe, iteration: int, scale: float = 1.0) -> float:
    """The rate in the step of this number, from 0, of a layer with this scale (see layer_scales).

    As MMEngine's schedulers count: the last step of the warm-up is at the full rate.
    """
    protocol = PROTOCOLS[recipe.protocol]
    unit = 1 if protocol.epochs is None else iterations_per_epoch(protocol)
    end = iterations(protocol)
    full = rate = recipe.lr * scale
    last = protocol.warmup_iterations - 1
    if iteration < last:
        rate *= protocol.warmup_factor + (1 - protocol.warmup_factor) * iteration / last
    rate *= 0.1 ** sum(iteration >= milestone * unit for milestone in protocol.milestones)
    if protocol.power is not None and iteration >= protocol.warmup_iterations:
        first = protocol.warmup_iterations
        rate *= (1 - (iteration - first) / (end - 1 - first)) ** protocol.power
    if protocol.cosine_from is not None and iteration >= protocol.cosine_from * unit:
        first, low = protocol.cosine_from * unit, protocol.final_lr
        progress = (iteration - first) / (end - first)
        rate = low + (full - low) * (1 + math.cos(math.pi * progress)) / 2
    return rate


def layer_scales(recipe: Recipe) -> list[tuple[str, float]]:
    """Where in the network, and what lr is multiplied by there: the stem, each stage, the heads.

    A stage of several layers gives its first and its last.
    """
    depths = VARIANTS[recipe.variant].depths

    def scale(name):
        decayed = learning_rate_scale(name, depths, recipe.layer_decay, recipe.decay_type)
        return decayed * (1.0 if name == "head" else recipe.backbone_lr)

    rows = [("stem", scale("downsample_layers.0.0.weight"))]
    for stage, depth in enumerate(depths):
        for block in sorted({0, depth - 1}):
            row = (f"stage{stage + 1}", scale(f"stages.{stage}.{block}.dwconv.weight"))
            if row not in rows:
                rows.append(row)
    return [*rows, ("heads", scale("head"))]
