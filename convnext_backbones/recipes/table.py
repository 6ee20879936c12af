"""How detectors and segmentors are trained: THE table, which every config is written from.

PROTOCOLS holds what recipes share: the data, its augmentation, the schedule. RECIPES holds the
rest, one row a network: initial weights, learning rate, layer decay, drop path, scores. Each row
says where its figures come from:

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

from types import MappingProxyType

from .schema import Dataset, DetrCrop, Method, Protocol, recipes

# ---- what all recipes share ----------------------------------------------------------------------
BETAS = (0.9, 0.999)  # of AdamW
LAYER_SCALE = 1.0  # where V1's begins; V2 has none
PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet's, of RGB values 0 to 255
PIXEL_STD = (58.395, 57.12, 57.375)
FLIP = 0.5  # how often a training picture is flipped
MILESTONE_FACTOR = 0.1  # of lr, at each milestone

DATASETS = MappingProxyType({"coco": Dataset("COCO", 80), "ade20k": Dataset("ADE20K", 150)})

METHODS = MappingProxyType(
    {
        "mask_rcnn": Method("Mask R-CNN", "", ("openmmlab", "detectron2")),
        "cascade_mask_rcnn": Method("Cascade Mask R-CNN", "", ("openmmlab", "detectron2")),
        "faster_rcnn": Method("Faster R-CNN", "1506.01497", ("openmmlab", "detectron2")),
        "cascade_rcnn": Method("Cascade R-CNN", "1712.00726", ("openmmlab", "detectron2")),
        "dino": Method("DINO", "2203.03605", ("openmmlab",), stages=(2, 3, 4)),
        "mask2former": Method("Mask2Former", "2112.01527", ("openmmlab",)),
        "rtmdet": Method("RTMDet", "2212.07784", ("openmmlab",), stages=(2, 3, 4)),
        "upernet": Method("UPerNet", "", ("openmmlab",)),
        "sem_seg_fpn": Method("SemSegFPN", "1901.02446", ("detectron2",)),
    }
)

# ---- protocols -----------------------------------------------------------------------------------
_COCO_3X = Protocol(
    "coco_3x",
    dataset="coco",
    train_images=117_266,
    batch=16,
    gpus=8,
    epochs=36,
    validate_every=1,
    warmup_iterations=1000,
    warmup_factor=1e-3,
    milestones=(27, 33),
    weight_decay=0.05,
    scale=(1333, 800),
    short_sides=tuple(range(480, 801, 32)),
    detr_crop=DetrCrop(0.5, short_sides=(400, 500, 600), long_side=1333, sides=(384, 600)),
    masks=True,
    flops_size=(800, 1280),
)
_COCO_BOXES_3X = _COCO_3X._replace(name="coco_boxes_3x", masks=False)
_COCO_LSJ_3X = Protocol(
    "coco_lsj_3x",
    dataset="coco",
    train_images=117_266,
    batch=32,
    gpus=8,
    epochs=36,
    validate_every=1,
    warmup_iterations=1000,
    warmup_factor=1e-3,
    milestones=(27, 33),
    weight_decay=0.05,
    scale=(1333, 800),
    ratio_range=(0.1, 2.0),
    crop_size=(1024, 1024),
    masks=True,
    soft_nms=True,
    flops_size=(800, 1280),
)
_COCO_DINO_12E = Protocol(
    "coco_dino_12e",
    dataset="coco",
    train_images=118_287,
    batch=16,
    gpus=8,
    epochs=12,
    validate_every=1,
    milestones=(11,),
    weight_decay=1e-4,
    clip_norm=0.1,
    scale=(1333, 800),
    short_sides=tuple(range(480, 801, 32)),
    detr_crop=DetrCrop(0.5, short_sides=(400, 500, 600), long_side=4200, sides=(384, 600)),
    flops_size=(800, 1280),
)
_COCO_MASK2FORMER_50E = Protocol(
    "coco_mask2former_50e",
    dataset="coco",
    train_images=117_266,
    batch=16,
    gpus=8,
    iterations=368_750,
    validate_every=5000,
    milestones=(327_778, 355_092),
    weight_decay=0.05,
    clip_norm=0.01,
    scale=(1333, 800),
    ratio_range=(0.1, 2.0),
    crop_size=(1024, 1024),
    masks=True,
    flops_size=(800, 1280),
)
_COCO_RTMDET_100E = Protocol(
    "coco_rtmdet_100e",
    dataset="coco",
    train_images=117_266,
    batch=128,
    gpus=4,
    epochs=100,
    validate_every=10,
    warmup_iterations=1000,
    warmup_factor=1e-5,
    cosine_from=50,
    final_lr=5e-5,
    weight_decay=0.05,
    scale=(640, 640),
    ratio_range=(0.1, 2.0),
    crop_size=(640, 640),
    mosaic=True,
    plain_epochs=10,
    average_momentum=2e-4,
    flops_size=(640, 640),
)
_ADE20K_160K = Protocol(
    "ade20k_160k",
    dataset="ade20k",
    train_images=20_210,
    batch=16,
    gpus=8,
    iterations=160_000,
    validate_every=16_000,
    warmup_iterations=1500,
    warmup_factor=1e-6,
    power=1.0,
    weight_decay=0.05,
    scale=(2048, 512),
    ratio_range=(0.5, 2.0),
    crop_size=(512, 512),
    one_class_at_most=0.75,
    slide_stride=(341, 341),
    multi_scale=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    flops_size=(512, 2048),
)
_ADE20K_640_160K = _ADE20K_160K._replace(
    name="ade20k_640_160k",
    scale=(2560, 640),
    crop_size=(640, 640),
    slide_stride=(426, 426),
    flops_size=(640, 2560),
)
_ADE20K_MASK2FORMER_160K = Protocol(
    "ade20k_mask2former_160k",
    dataset="ade20k",
    train_images=20_210,
    batch=16,
    gpus=8,
    iterations=160_000,
    validate_every=5000,
    power=0.9,
    weight_decay=0.05,
    clip_norm=0.01,
    scale=(2048, 512),
    short_sides=tuple(int(512 * tenths / 10) for tenths in range(5, 21)),  # 256 to 1024
    crop_size=(512, 512),
    one_class_at_most=0.75,
    multi_scale=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    flops_size=(512, 2048),
)

PROTOCOLS = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            _COCO_3X,
            _COCO_BOXES_3X,
            _COCO_LSJ_3X,
            _COCO_DINO_12E,
            _COCO_MASK2FORMER_50E,
            _COCO_RTMDET_100E,
            _ADE20K_160K,
            _ADE20K_640_160K,
            _ADE20K_MASK2FORMER_160K,
        )
    }
)

# ---- recipes: each part names its columns, then its rows, then what the rows share ---------------
# fmt: off

_OFFICIAL = "official ConvNeXt README and configs"

_MASK_RCNN_V1 = recipes(
    "init                             lr    layer_decay drop_path box_ap mask_ap params gflops memory_gb",
    ("convnext_tiny.fb_in1k_no_ema",  1e-4, 0.95,       0.4,      46.2,  41.7,   48,    262,   7.3),
    method="mask_rcnn", protocol="coco_3x", decay_type="layer_wise",
    status="published", source=_OFFICIAL,
)
_CASCADE_V1 = recipes(
    "init                             lr   layer_decay drop_path amp    box_ap mask_ap params gflops memory_gb",
    ("convnext_tiny.fb_in1k_no_ema",  2e-4, 0.7,       0.4,      True,  50.4,  43.7,   86,    741,   9.0),
    ("convnext_small.fb_in1k_no_ema", 2e-4, 0.7,       0.6,      True,  51.9,  45.0,   108,   827,   12.3),
    ("convnext_base.fb_in1k_no_ema",  2e-4, 0.8,       0.7,      True,  52.7,  45.6,   146,   964,   None),
    ("convnext_base.fb_in22k",        1e-4, 0.8,       0.6,      True,  54.0,  46.9,   146,   964,   None),
    ("convnext_large.fb_in22k",       1e-4, 0.7,       0.7,      False, 54.8,  47.6,   255,   1354,  None),
    ("convnext_xlarge.fb_in22k",      1e-4, 0.7,       0.8,      False, 55.2,  47.7,   407,   1898,  None),
    method="cascade_mask_rcnn", protocol="coco_3x", decay_type="layer_wise",
    status="published", source=_OFFICIAL,
)
_UPERNET_V1 = recipes(
    "init                             lr   layer_decay drop_path miou miou_multiscale params gflops memory_gb",
    ("convnext_tiny.fb_in1k_no_ema",  1e-4, 0.9,       0.4,      46.0, 46.7,          60,    939,   4.23),
    ("convnext_small.fb_in1k_no_ema", 1e-4, 0.9,       0.3,      48.7, 49.6,          82,    1027,  5.16),
    ("convnext_base.fb_in1k_no_ema",  1e-4, 0.9,       0.4,      49.1, 49.9,          122,   1170,  6.33),
    method="upernet", protocol="ade20k_160k", decay_type="stage_wise",
    status="published", source=_OFFICIAL,
)
_UPERNET_V1_22K = recipes(
    "init                        lr   layer_decay drop_path amp    miou miou_multiscale params gflops memory_gb",
    ("convnext_base.fb_in22k",   1e-4, 0.9,       0.4,      True,  52.6, 53.1,          122,   1828,  8.53),
    ("convnext_large.fb_in22k",  1e-4, 0.9,       0.4,      False, 53.2, 53.7,          235,   2458,  12.08),
    ("convnext_xlarge.fb_in22k", 8e-5, 0.9,       0.4,      False, 53.6, 54.0,          391,   3335,  26.16),
    method="upernet", protocol="ade20k_640_160k", decay_type="stage_wise",
    status="published", source=_OFFICIAL,
)

# Drop path of V2: below Tiny little, since V2's authors fine-tune these sizes with 0 to 0.1; Tiny as
# V1-T; Base as MMDetection's V2-B; above it the upper end of the paper's sweep, which is 0.4 on ADE20K.
_AS_V1_T = (
    "V1-T's recipe, whose layer decay lies in V2's sweep; its multi-scale data, as large-scale jitter "
    "wants larger networks; "
)
_SMALL = _AS_V1_T + "less drop path, as so small a network underfits"
_MMDETS_V2_B = (
    "MMDetection, projects/ConvNeXt-V2 (no weights published); the V2 paper has box AP 52.9, mask AP "
    "46.6 and 486 GFLOPs"
)
_PAPERS_COCO = (
    "the V2 paper's recipe, layer decay and drop path out of its sweep; the score is the paper's, which "
    "does not say what it took"
)
_MASK_RCNN_V2_SMALL = recipes(
    "init                      lr   layer_decay drop_path source",
    ("convnextv2_atto.fcmae",  1e-4, 0.95,      0.1,      _SMALL),
    ("convnextv2_femto.fcmae", 1e-4, 0.95,      0.1,      _SMALL),
    ("convnextv2_pico.fcmae",  1e-4, 0.95,      0.1,      _SMALL),
    ("convnextv2_nano.fcmae",  1e-4, 0.95,      0.2,      _SMALL),
    ("convnextv2_tiny.fcmae",  1e-4, 0.95,      0.4,      _AS_V1_T + "its drop path too"),
    method="mask_rcnn", protocol="coco_3x", decay_type="layer_wise", status="untested",
)
_MASK_RCNN_V2_LARGE = recipes(
    "init                      lr   layer_decay drop_path box_ap mask_ap gflops memory_gb status source",
    ("convnextv2_base.fcmae",  1e-4, 0.95,      0.4,      52.9,  46.4,   486,   22.5, "published", _MMDETS_V2_B),
    ("convnextv2_large.fcmae", 1e-4, 0.95,      0.5,      54.4,  47.7,   875,   None, "untested",  _PAPERS_COCO),
    ("convnextv2_huge.fcmae",  1e-4, 0.95,      0.5,      55.7,  48.9,   2525,  None, "untested",  _PAPERS_COCO),
    method="mask_rcnn", protocol="coco_lsj_3x", decay_type="layer_wise",
)
_CASCADE_V2 = recipes(
    "init                      lr   layer_decay drop_path",
    ("convnextv2_atto.fcmae",  1e-4, 0.9,       0.1),
    ("convnextv2_femto.fcmae", 1e-4, 0.9,       0.1),
    ("convnextv2_pico.fcmae",  1e-4, 0.9,       0.1),
    ("convnextv2_nano.fcmae",  1e-4, 0.9,       0.2),
    ("convnextv2_tiny.fcmae",  1e-4, 0.9,       0.4),
    ("convnextv2_base.fcmae",  1e-4, 0.9,       0.4),
    ("convnextv2_large.fcmae", 1e-4, 0.9,       0.5),
    ("convnextv2_huge.fcmae",  1e-4, 0.9,       0.5),
    method="cascade_mask_rcnn", protocol="coco_3x", decay_type="layer_wise", status="untested",
    source="V1's Cascade protocol; lr and layer decay from the V2 paper's COCO sweep, the stronger decay "
    "of the two, as V1's Cascade recipes decay more than Mask R-CNN's",
)

_PAPERS_ADE20K = "lr, layer decay and drop path out of the V2 paper's sweep, stage_wise as V1; "
_UNSCORED = _PAPERS_ADE20K + "the paper has no score of this size"
_SCORED = _PAPERS_ADE20K + "the score is the paper's, with five scales (0.75 to 1.25)"
_UPERNET_V2 = recipes(
    "init                              lr   layer_decay drop_path miou_multiscale params gflops source",
    ("convnextv2_atto.fcmae_ft_in1k",  1e-4, 0.9,       0.1,      None,           None,  None,  _UNSCORED),
    ("convnextv2_femto.fcmae_ft_in1k", 1e-4, 0.9,       0.1,      None,           None,  None,  _UNSCORED),
    ("convnextv2_pico.fcmae_ft_in1k",  1e-4, 0.9,       0.1,      None,           None,  None,  _UNSCORED),
    ("convnextv2_nano.fcmae_ft_in1k",  1e-4, 0.9,       0.2,      None,           None,  None,  _UNSCORED),
    ("convnextv2_tiny.fcmae_ft_in1k",  1e-4, 0.9,       0.4,      None,           None,  None,  _UNSCORED),
    ("convnextv2_base.fcmae_ft_in1k",  1e-4, 0.9,       0.4,      52.1,           122,   1170,  _SCORED),
    ("convnextv2_large.fcmae_ft_in1k", 1e-4, 0.9,       0.4,      53.7,           235,   1573,  _SCORED),
    ("convnextv2_huge.fcmae_ft_in1k",  1e-4, 0.9,       0.4,      55.0,           707,   3272,  _SCORED),
    method="upernet", protocol="ade20k_160k", decay_type="stage_wise", status="untested",
)
_UPERNET_V2_22K = recipes(
    "init                                       lr   layer_decay drop_path miou_multiscale params gflops",
    ("convnextv2_huge.fcmae_ft_in22k_in1k_384", 1e-4, 0.9,       0.4,      57.0,           707,   5113),
    method="upernet", protocol="ade20k_640_160k", decay_type="stage_wise", status="untested",
    source=_SCORED + " and weights that were never fine-tuned on ImageNet-1K, which are not published",
)

_DETREX = "detrex, projects/dino (Detectron2), whose DINO has other position embeddings"
_AS_DETREX = "detrex's recipe for ConvNeXt's DINO with V2's weights of the same training data"
_DINO = recipes(
    "init                                       lr  drop_path box_ap status       source",
    ("convnext_tiny.fb_in22k_ft_in1k_384",      1e-4, 0.0,    52.4,  "published", _DETREX),
    ("convnext_small.fb_in22k_ft_in1k_384",     1e-4, 0.0,    54.2,  "published", _DETREX),
    ("convnext_base.fb_in22k_ft_in1k_384",      1e-4, 0.0,    55.1,  "published", _DETREX),
    ("convnext_large.fb_in22k_ft_in1k_384",     1e-4, 0.0,    55.5,  "published", _DETREX),
    ("convnextv2_tiny.fcmae_ft_in22k_in1k_384", 1e-4, 0.0,    None,  "untested",  _AS_DETREX),
    ("convnextv2_base.fcmae_ft_in22k_in1k_384", 1e-4, 0.0,    None,  "untested",  _AS_DETREX),
    method="dino", protocol="coco_dino_12e", backbone_lr=0.1, layer_decay=1.0,
    decay_type="layer_wise", amp=False,
)

_MASK2FORMERS = (
    "Mask2Former's own recipe; the backbone at a tenth of lr, as there and in OneFormer with ConvNeXt; "
)
_AS_SWIN_T = _MASK2FORMERS + "drop path as for its Swin-T"
_AS_ONEFORMER = _MASK2FORMERS + "drop path as in OneFormer's ConvNeXt-L"
_MASK2FORMER = recipes(
    "protocol                    init                                       lr  drop_path source",
    ("coco_mask2former_50e",    "convnext_tiny.fb_in1k_no_ema",            1e-4, 0.3,     _AS_SWIN_T),
    ("coco_mask2former_50e",    "convnextv2_tiny.fcmae_ft_in1k",           1e-4, 0.3,     _AS_SWIN_T),
    ("coco_mask2former_50e",    "convnextv2_base.fcmae_ft_in22k_in1k_384", 1e-4, 0.4,     _AS_ONEFORMER),
    ("ade20k_mask2former_160k", "convnext_tiny.fb_in1k_no_ema",            1e-4, 0.3,     _AS_SWIN_T),
    ("ade20k_mask2former_160k", "convnextv2_tiny.fcmae_ft_in1k",           1e-4, 0.3,     _AS_SWIN_T),
    ("ade20k_mask2former_160k", "convnextv2_base.fcmae_ft_in22k_in1k_384", 1e-4, 0.4,     _AS_ONEFORMER),
    method="mask2former", backbone_lr=0.1, layer_decay=1.0, decay_type="layer_wise", amp=False,
    status="untested",
)

_MMDETS_RTMDET = "MMDetection's recipe for RTMDet-l with ConvNeXt-B; "
_V1_TS_DROP_PATH = _MMDETS_RTMDET + "drop path as in V1-T's recipes"
_RTMDET = recipes(
    "init                                  lr   layer_decay drop_path checkpointing box_ap status       source",
    ("convnext_base.fb_in22k_ft_in1k_384", 1e-3, 0.8,       0.7,      True,         53.1,  "published", "MMDetection, configs/rtmdet"),
    ("convnext_tiny.fb_in1k_no_ema",       1e-3, 0.8,       0.4,      False,        None,  "untested",  _V1_TS_DROP_PATH),
    method="rtmdet", protocol="coco_rtmdet_100e", decay_type="layer_wise", amp=False,
)
_RTMDET_PICO = (
    _MMDETS_RTMDET + "no drop path, as V2's authors fine-tune Pico; neck and head of RTMDet-s"
)
_RTMDET_AS_PICO = _MMDETS_RTMDET + "drop path, neck and head as for V2-Pico"
_RTMDET_V2 = recipes(
    "init                              lr   layer_decay drop_path small_head source",
    ("convnextv2_atto.fcmae_ft_in1k",  1e-3, 0.8,       0.0,      True,      _RTMDET_AS_PICO),
    ("convnextv2_femto.fcmae_ft_in1k", 1e-3, 0.8,       0.0,      True,      _RTMDET_AS_PICO),
    ("convnextv2_pico.fcmae_ft_in1k",  1e-3, 0.8,       0.0,      True,      _RTMDET_PICO),
    ("convnextv2_nano.fcmae_ft_in1k",  1e-3, 0.8,       0.0,      True,      _RTMDET_AS_PICO),
    ("convnextv2_tiny.fcmae_ft_in1k",  1e-3, 0.8,       0.4,      False,     _V1_TS_DROP_PATH),
    method="rtmdet", protocol="coco_rtmdet_100e", decay_type="layer_wise", amp=False, status="untested",
)

# What others got from the same recipe.
_RERUNS = {
    "coco_mask_rcnn_convnext_t": "MMDetection got box AP 46.2, mask AP 41.7",
    "coco_cascade_mask_rcnn_convnext_t": "MMDetection got box AP 50.3, mask AP 43.6",
    "coco_cascade_mask_rcnn_convnext_s": "MMDetection got box AP 51.8, mask AP 44.8",
    "ade20k_upernet_convnext_t": "MMSegmentation got mIoU 46.11, multi-scale 46.62",
    "ade20k_upernet_convnext_s": "MMSegmentation got mIoU 48.56, multi-scale 49.02",
    "ade20k_upernet_convnext_b": "MMSegmentation got mIoU 48.71, multi-scale 49.54",
    "ade20k_upernet_convnext_b_22k": "MMSegmentation got mIoU 52.13, multi-scale 52.66",
    "ade20k_upernet_convnext_l_22k": "MMSegmentation, in mixed precision, got mIoU 53.16, multi-scale 53.38",
    "ade20k_upernet_convnext_xl_22k": "MMSegmentation, in mixed precision, got mIoU 53.58, multi-scale 54.11",
}
# fmt: on

# Boxes alone: the recipes of the same networks with masks, without the mask heads and their scores.
_CASCADES = [
    row for row in (*_CASCADE_V1, *_CASCADE_V2) if row.variant.endswith(("atto", "tiny", "base"))
]
_WITHOUT_MASKS = tuple(
    with_masks._replace(
        name=with_masks.name.replace("mask_rcnn", "rcnn").replace("coco_rcnn", "coco_faster_rcnn"),
        method="cascade_rcnn" if "cascade" in with_masks.method else "faster_rcnn",
        protocol="coco_boxes_3x",
        status="untested",
        source=f"the recipe of {with_masks.name} without masks",
        **dict.fromkeys(("box_ap", "mask_ap", "params", "gflops", "memory_gb")),
    )
    for with_masks in (*_MASK_RCNN_V1, *_MASK_RCNN_V2_SMALL, *_CASCADES)
    if "in22k" not in with_masks.init
)

# Detectron2 has no UPerNet; its own segmentor is trained as UPerNet is.
_SEM_SEG_FPN = tuple(
    upernet._replace(
        name=upernet.name.replace("upernet", "sem_seg_fpn"),
        method="sem_seg_fpn",
        status="untested",
        source=f"the recipe of {upernet.name} on Detectron2's own head",
        miou=None,
        miou_multiscale=None,
        params=None,
        gflops=None,
        memory_gb=None,
    )
    for upernet in (*_UPERNET_V1, *_UPERNET_V2)
)

RECIPES = MappingProxyType(
    {
        recipe.name: recipe._replace(reruns=_RERUNS.get(recipe.name, ""))
        for recipe in (
            *_MASK_RCNN_V1,
            *_CASCADE_V1,
            *_UPERNET_V1,
            *_UPERNET_V1_22K,
            *_MASK_RCNN_V2_SMALL,
            *_MASK_RCNN_V2_LARGE,
            *_CASCADE_V2,
            *_WITHOUT_MASKS,
            *_UPERNET_V2,
            *_UPERNET_V2_22K,
            *_DINO,
            *_MASK2FORMER,
            *_RTMDET,
            *_RTMDET_V2,
            *_SEM_SEG_FPN,
        )
    }
)
