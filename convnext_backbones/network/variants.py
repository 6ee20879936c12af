"""The published sizes of ConvNeXt (arXiv:2201.03545) and ConvNeXt V2 (arXiv:2301.00808).

THE table: nowhere else are depths, dims or published figures typed.
"""

import difflib
from collections.abc import Iterable
from types import MappingProxyType
from typing import NamedTuple


class Variant(NamedTuple):
    """One published network.

    classifier_params counts the 1000-class ImageNet classifier. published_gflops_224 are
    multiply-accumulates in 1e9 at 224x224, as the papers count them; published_in1k_top1 is the
    accuracy in percent of the ImageNet-1K model at 224x224. Both are None where no paper gives one.
    """

    name: str
    version: int
    size: str
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    classifier_params: int
    published_gflops_224: float | None
    published_in1k_top1: float | None
    source: str


OFFICIAL_V1 = "facebookresearch/ConvNeXt README"
OFFICIAL_V2 = "facebookresearch/ConvNeXt-V2 README"
TIMM = "timm 1.0.31 (no official model of this size)"

# name, depths, dims, parameters, GFLOPs, top-1, source
_ROWS = (
    ("convnext_atto", (2, 2, 6, 2), (40, 80, 160, 320), 3_695_520, None, None, TIMM),
    ("convnext_femto", (2, 2, 6, 2), (48, 96, 192, 384), 5_217_784, None, None, TIMM),
    ("convnext_pico", (2, 2, 6, 2), (64, 128, 256, 512), 9_045_672, None, None, TIMM),
    ("convnext_nano", (2, 2, 8, 2), (80, 160, 320, 640), 15_593_560, None, None, TIMM),
    ("convnext_tiny", (3, 3, 9, 3), (96, 192, 384, 768), 28_589_128, 4.5, 82.1, OFFICIAL_V1),
    ("convnext_small", (3, 3, 27, 3), (96, 192, 384, 768), 50_223_688, 8.7, 83.1, OFFICIAL_V1),
    ("convnext_base", (3, 3, 27, 3), (128, 256, 512, 1024), 88_591_464, 15.4, 83.8, OFFICIAL_V1),
    ("convnext_large", (3, 3, 27, 3), (192, 384, 768, 1536), 197_767_336, 34.4, 84.3, OFFICIAL_V1),
    ("convnext_xlarge", (3, 3, 27, 3), (256, 512, 1024, 2048), 350_196_968, 60.9, None, OFFICIAL_V1),
    ("convnextv2_atto", (2, 2, 6, 2), (40, 80, 160, 320), 3_708_400, 0.55, 76.7, OFFICIAL_V2),
    ("convnextv2_femto", (2, 2, 6, 2), (48, 96, 192, 384), 5_233_240, 0.78, 78.5, OFFICIAL_V2),
    ("convnextv2_pico", (2, 2, 6, 2), (64, 128, 256, 512), 9_066_280, 1.37, 80.3, OFFICIAL_V2),
    ("convnextv2_nano", (2, 2, 8, 2), (80, 160, 320, 640), 15_623_800, 2.45, 81.9, OFFICIAL_V2),
    ("convnextv2_tiny", (3, 3, 9, 3), (96, 192, 384, 768), 28_635_496, 4.47, 83.0, OFFICIAL_V2),
    ("convnextv2_base", (3, 3, 27, 3), (128, 256, 512, 1024), 88_717_800, 15.4, 84.9, OFFICIAL_V2),
    ("convnextv2_large", (3, 3, 27, 3), (192, 384, 768, 1536), 197_956_840, 34.4, 85.8, OFFICIAL_V2),
    ("convnextv2_huge", (3, 3, 27, 3), (352, 704, 1408, 2816), 660_289_640, 115, 86.3, OFFICIAL_V2),
)  # fmt: skip


def _variant(name, *figures) -> Variant:
    family, size = name.split("_")
    return Variant(name, 2 if family == "convnextv2" else 1, size, *figures)


VARIANTS = MappingProxyType({row[0]: _variant(*row) for row in _ROWS})


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of an error message: the nearest valid word, if any is near, and all valid ones."""
    valid = list(valid)
    near = near_word(word, valid)
    hint = f"did you mean {near!r}? " if near is not None else ""
    return f"{hint}Valid: {', '.join(map(repr, valid))}"


def near_word(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that is nearest, if any is near, in upper or lower case."""
    by_lower = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def get_variant(name: str) -> Variant:
    """The row of a full name such as "convnextv2_tiny"; ValueError names the nearest valid one."""
    if not isinstance(name, str) or name not in VARIANTS:
        size = str(name).partition(".")[0]
        if size in VARIANTS:  # as timm names a network and its weights in one
            raise ValueError(
                f"unknown variant {name!r}; did you mean {size!r}, with pretrained={name!r}?"
            )
        raise ValueError(f"unknown variant {name!r}; {nearest(str(name), VARIANTS)}")
    return VARIANTS[name]


def resolve_arch(arch: str | dict, version: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depths and dims of a size name ("tiny") or of dict(depths=..., dims=...), any stage count.

    The key `channels` is taken for `dims`, as MMPretrain configs write it.
    """
    family = "convnext" if version == 1 else "convnextv2"
    if isinstance(arch, str):
        sizes = [v.size for v in VARIANTS.values() if v.version == version]
        if arch not in sizes:
            raise ValueError(
                f"unknown arch {arch!r} for ConvNeXt V{version}; "
                f"{nearest(arch.lower().removeprefix(family + '_'), sizes)}, "
                "or dict(depths=(...), dims=(...))"
            )
        variant = VARIANTS[f"{family}_{arch}"]
        return variant.depths, variant.dims
    if not isinstance(arch, dict):
        raise TypeError(
            f"arch must be a size name such as 'tiny' or dict(depths=..., dims=...), got {arch!r}"
        )
    keys = set(arch)
    if keys != {"depths", "dims"} and keys != {"depths", "channels"}:
        raise ValueError(f"an arch dict has the keys depths and dims, got {sorted(map(str, keys))}")
    depths, dims = arch["depths"], arch.get("dims", arch.get("channels"))
    lists = isinstance(depths, (list, tuple)) and isinstance(dims, (list, tuple))
    if (
        not lists
        or not depths
        or len(depths) != len(dims)
        or not all(map(_counts, [*depths, *dims]))
    ):
        raise ValueError(
            "depths and dims must be lists of as many positive whole numbers each, one per stage, "
            f"got depths={depths!r}, dims={dims!r}"
        )
    return tuple(depths), tuple(dims)


def _counts(number) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0
