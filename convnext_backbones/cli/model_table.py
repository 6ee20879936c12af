"""Published figures beside counted ones: parameters and multiply-accumulates of every network.

    convnext-backbones model-table             # classifiers, backbones, detectors, segmentors
    convnext-backbones model-table classifiers backbones
    convnext-backbones model-table transformers                  # minutes: DINO, Mask2Former

Parameters are counted on the model itself, multiply-accumulates by torch.utils.flop_counter
(convolutions and matrix products; it counts two operations for each) on the meta device, so that
nothing is computed. DINO and Mask2Former depend on values: they run on random images. The column
"extra" holds what the publishers counted besides:

    classifiers  nothing; convnextv2_tiny's 4.47 has fvcore's 5 operations per LayerNorm element
    backbones    the classifier's head, since the papers give classifiers
    others       what MMCV 1's counter adds: 2 operations per BatchNorm element, 1 per ReLU element,
                 1 per element that a convolution adds its bias to

The configs' published figures are those of convnext_backbones/recipes/table.py. Exit status 1, and a mark,
where counted and extra do not round to the published figure.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import make_parser

if TYPE_CHECKING:
    from ..lab.counting import Row


SECTIONS = ("classifiers", "backbones", "detectors", "segmentors", "transformers")
DEFAULT_SECTIONS = SECTIONS[:-1]


def rows(section: str) -> Iterator["Row"]:
    """The networks of a section, one of SECTIONS."""
    from ..lab import counting

    if section == "classifiers":
        return counting.classifier_rows()
    if section == "backbones":
        return counting.backbone_rows()
    from ._counted_recipes import recipe_rows

    datasets = {"detectors": "coco", "segmentors": "ade20k", "transformers": None}
    return recipe_rows(datasets[section], transformers=section == "transformers")


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("model-table", __doc__)
    parser.add_argument(
        "sections", nargs="*", help=f"which of {', '.join(SECTIONS)}; default all but the last"
    )
    sections = parser.parse_args(argv).sections or DEFAULT_SECTIONS
    for section in sections:
        if section not in SECTIONS:
            parser.error(f"unknown section {section!r}; choose from {', '.join(SECTIONS)}")
    from ..lab.counting import HEADER

    print(HEADER)
    differing = 0
    for section in sections:
        print(section)
        for row in rows(section):
            print(row, flush=True)
            differing += not row.as_published()
    return 1 if differing else 0
