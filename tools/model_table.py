"""Published figures beside counted ones: parameters and multiply-accumulates of every network.

    python tools/model_table.py             # classifiers, backbones, detectors, segmentors
    python tools/model_table.py classifiers backbones

Parameters are counted on the model itself, multiply-accumulates by torch.utils.flop_counter
(convolutions and matrix products; it counts two operations for each) on the meta device, so that
nothing is computed. The column "extra" holds what the publishers counted besides:

    classifiers  nothing; convnextv2_tiny's 4.47 has fvcore's 5 operations per LayerNorm element
    backbones    the classifier's head, since the papers give classifiers
    detectors,   the greatest part of the elementwise work that MMCV 1's counter adds: 2 operations
    segmentors   per BatchNorm element, 1 per ReLU element

Exit status 1, and a mark, where counted and extra do not round to the published figure.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbones import VARIANTS, create_backbone, create_classifier

CONFIGS = Path(__file__).parent.parent / "configs"
SECTIONS = ("classifiers", "backbones", "detectors", "segmentors")
PROPOSALS, MASKS = 1000, 100  # per image, as MMDetection counts

# facebookresearch/ConvNeXt README: million parameters, 1e9 multiply-accumulates. Detectors at
# 1280x800, segmentors at height and width given here.
PUBLISHED_DETECTORS = {
    ("mask_rcnn", "tiny"): (48, 262),
    ("cascade_mask_rcnn", "tiny"): (86, 741),
    ("cascade_mask_rcnn", "small"): (108, 827),
    ("cascade_mask_rcnn", "base"): (146, 964),
    ("cascade_mask_rcnn", "large"): (255, 1354),
    ("cascade_mask_rcnn", "xlarge"): (407, 1898),
}
PUBLISHED_SEGMENTORS = {
    ("tiny", (512, 2048)): (60, 939),
    ("small", (512, 2048)): (82, 1027),
    ("base", (512, 2048)): (122, 1170),
    ("base", (640, 2560)): (122, 1828),
    ("large", (640, 2560)): (235, 2458),
    ("xlarge", (640, 2560)): (391, 3335),
}
LAYER_NORM = {nn.LayerNorm: 5}
BATCH_NORM_AND_RELU = {nn.modules.batchnorm._BatchNorm: 2, nn.ReLU: 1}


class Row(NamedTuple):
    """One network: millions of parameters and 1e9 multiply-accumulates; None: not published."""

    name: str
    published_parameters: float | None
    parameters: float
    published_gmacs: float | None
    gmacs: float
    extra: float

    def as_published(self) -> bool:
        """Whether the counted figures, rounded as the published ones are, equal them."""
        return _rounds_to(self.parameters, self.published_parameters) and _rounds_to(
            self.gmacs + self.extra, self.published_gmacs
        )

    def __str__(self) -> str:
        columns = (
            f"{self.name:30}"
            f"{_published(self.published_parameters)}{self.parameters:12.6f}"
            f"{_difference(self.parameters, self.published_parameters)}"
            f"{_published(self.published_gmacs)}{self.gmacs:13.6f}{self.extra:10.6f}"
            f"{_difference(self.gmacs + self.extra, self.published_gmacs)}"
        )
        return columns if self.as_published() else f"{columns}  <- differs"


HEADER = (
    f"{'':30}{'parameters, 1e6':^34}{'multiply-accumulates, 1e9':^45}\n{'':30}"
    f"{'published':>12}{'counted':>12}{'diff':>10}"
    f"{'published':>12}{'counted':>13}{'extra':>10}{'diff':>10}"
)


def _published(figure: float | None) -> str:
    return f"{'-' if figure is None else f'{figure:.10g}':>12}"


def _difference(counted: float, published: float | None) -> str:
    return f"{'' if published is None else f'{counted - published:+.4f}':>10}"


def _rounds_to(counted: float, published: float | None) -> bool:
    if published is None:
        return True
    decimals = len(f"{published:.10g}".partition(".")[2])
    return round(counted, decimals) == published


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


class Count(FlopCounterMode):
    """Counts multiply-accumulates, and `operations` per element of the output of some modules."""

    def __init__(self, operations: dict[type, int]):
        super().__init__(display=False)
        self.operations, self.extra = operations, 0.0

    def __enter__(self):
        self.hook = nn.modules.module.register_module_forward_hook(self._add)
        return super().__enter__()

    def __exit__(self, *error):
        self.hook.remove()
        return super().__exit__(*error)

    def _add(self, module, inputs, output):
        for kind, operations in self.operations.items():
            if isinstance(module, kind):
                self.extra += operations * output.numel() / 1e9

    @property
    def gmacs(self) -> float:
        return self.get_total_flops() / 2e9


def classifier_rows():
    for variant in VARIANTS.values():
        operations = LAYER_NORM if variant.name == "convnextv2_tiny" else {}
        with torch.device("meta"), Count(operations) as count:
            model = create_classifier(variant.name).eval()
            model(torch.empty(1, 3, 224, 224))
        yield Row(
            variant.name,
            variant.classifier_params / 1e6,
            millions(model),
            variant.published_gflops_224,
            count.gmacs,
            count.extra,
        )


def backbone_rows():
    """With all four output norms."""
    for variant in VARIANTS.values():
        operations = LAYER_NORM if variant.name == "convnextv2_tiny" else {}
        with torch.device("meta"), Count(operations) as count:
            model = create_backbone(variant.name, out_indices=(0, 1, 2, 3)).eval()
            model(torch.empty(1, 3, 224, 224))
        head = variant.dims[-1] * 1000 / 1e9
        yield Row(
            variant.name,
            None,
            millions(model),
            variant.published_gflops_224,
            count.gmacs,
            count.extra + head,
        )


def built(config, scope):
    """The model of a configuration on the meta device, with no weights read."""
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.utils import import_modules_from_strings

    import_modules_from_strings(config.custom_imports["imports"])
    init_default_scope(scope)
    config.model.backbone.pop("init_cfg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks', on their own deprecations
        return MODELS.build(config.model).eval().to("meta")


def detector_config(method: str, size: str):
    from mmengine import Config

    config = Config.fromfile(CONFIGS / "coco_mask_rcnn_convnext_t.py")
    model = config.model
    model.backbone.arch = size
    model.neck.in_channels = list(VARIANTS[f"convnext_{size}"].dims)
    if method == "cascade_mask_rcnn":
        # The official cascade: three stages, bounding-box heads of four convolutions (with batch
        # normalisation) and one fully connected layer, a mask head in every stage.
        head = model.roi_head
        box_head = dict(
            head.bbox_head,
            type="ConvFCBBoxHead",
            num_shared_convs=4,
            num_shared_fcs=1,
            conv_out_channels=256,
            norm_cfg={"type": "BN"},
        )
        model.type, head.type = "CascadeRCNN", "CascadeRoIHead"
        head.num_stages, head.stage_loss_weights = 3, [1, 0.5, 0.25]
        head.bbox_head = [dict(box_head) for _ in range(3)]
        model.train_cfg.rcnn = [model.train_cfg.rcnn] * 3
    return config


def detector_rows():
    """Backbone, neck and heads. RoIAlign and post-processing have no multiply-accumulates."""
    for (method, size), (parameters, published) in PUBLISHED_DETECTORS.items():
        model = built(detector_config(method, size), "mmdet")
        with torch.no_grad(), torch.device("meta"), Count(BATCH_NORM_AND_RELU) as count:
            maps = model.neck(model.backbone(torch.empty(1, 3, 800, 1280)))
            model.rpn_head(maps)
            for head in _all(model.roi_head.bbox_head):
                head(torch.empty(PROPOSALS, 256, 7, 7))
            for head in _all(model.roi_head.mask_head):
                head(torch.empty(MASKS, 256, 14, 14))
        name = f"{method} {size}"
        yield Row(name, parameters, millions(model), published, count.gmacs, count.extra)


def _all(head) -> list:
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def segmentor_rows():
    """What inference computes: backbone and UPerHead. Parameters with the auxiliary head."""
    from mmengine import Config
    from mmengine.model import revert_sync_batchnorm

    for (size, (height, width)), (parameters, published) in PUBLISHED_SEGMENTORS.items():
        config = Config.fromfile(CONFIGS / "ade20k_upernet_convnext_t.py")
        dims = list(VARIANTS[f"convnext_{size}"].dims)
        config.model.backbone.arch = size
        config.model.decode_head.in_channels = dims
        config.model.auxiliary_head.in_channels = dims[2]
        model = revert_sync_batchnorm(built(config, "mmseg"))
        with torch.no_grad(), torch.device("meta"), Count(BATCH_NORM_AND_RELU) as count:
            model(torch.empty(1, 3, height, width))
        name = f"upernet {size} {height}x{width}"
        yield Row(name, parameters, millions(model), published, count.gmacs, count.extra)


ROWS = dict(
    zip(SECTIONS, (classifier_rows, backbone_rows, detector_rows, segmentor_rows), strict=True)
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", help=f"which of {', '.join(SECTIONS)}; default all")
    sections = parser.parse_args().sections or SECTIONS
    for section in sections:
        if section not in ROWS:
            parser.error(f"unknown section {section!r}; choose from {', '.join(SECTIONS)}")
    print(HEADER)
    differing = 0
    for section in sections:
        print(section)
        for row in ROWS[section]():
            print(row, flush=True)
            differing += not row.as_published()
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
