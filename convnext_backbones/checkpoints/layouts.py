"""How each source names the same weights: one table per layout, read in both directions.

A row is (our name, their name) or (our name, their name, form). In a name, {i} counts stages, {j}
blocks, {k} the two modules of a stem or a downsampling, and {p} is weight or bias; {2i+1} is computed.
Their names start below the layout's own prefix, or with "/" at the root of the whole model. A form
says how their shape differs from ours. Where several rows have our name, the first is written and
all are read.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Form(NamedTuple):
    """Another shape of the same values."""

    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]


def _sparse_depthwise(kernel: Tensor) -> Tensor:  # (K*K, C) -> (C, 1, K, K)
    size = round(kernel.shape[0] ** 0.5)
    return kernel.permute(1, 0).reshape(kernel.shape[1], 1, size, size).transpose(3, 2)


def _sparse(kernel: Tensor) -> Tensor:  # (K*K, in, out) -> (out, in, K, K)
    size = round(kernel.shape[0] ** 0.5)
    return kernel.permute(2, 1, 0).reshape(*kernel.shape[:0:-1], size, size).transpose(3, 2)


# GRN and layer scale are 1-D here.
FLAT = Form(Tensor.flatten, Tensor.flatten)
AS_4D = Form(Tensor.flatten, lambda x: x.reshape(1, 1, 1, -1))
AS_ROW = Form(Tensor.flatten, lambda x: x.reshape(1, -1))
AS_COLUMN = Form(Tensor.flatten, lambda x: x.reshape(-1, 1, 1))
LINEAR = Form(lambda x: x.flatten(1), lambda x: x)  # reads linear and 1x1 convolution alike
CONV_1X1 = Form(lambda x: x.flatten(1), lambda x: x[..., None, None])
SPARSE_DEPTHWISE = Form(_sparse_depthwise, lambda x: x.transpose(3, 2).flatten(1).permute(1, 0))
SPARSE = Form(_sparse, lambda x: x.transpose(3, 2).flatten(2).permute(2, 1, 0))

# facebookresearch/ConvNeXt and ConvNeXt-V2, and the detectors built on them.
OFFICIAL = (
    ("downsample_layers.{i}.{k}.{p}", "downsample_layers.{i}.{k}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "stages.{i}.{j}.dwconv.{p}"),
    ("stages.{i}.{j}.norm.{p}", "stages.{i}.{j}.norm.{p}"),
    ("stages.{i}.{j}.pwconv{k}.{p}", "stages.{i}.{j}.pwconv{k}.{p}"),
    ("stages.{i}.{j}.act.weight", "stages.{i}.{j}.act.weight"),  # of PReLU alone
    ("stages.{i}.{j}.grn.gamma", "stages.{i}.{j}.grn.gamma", AS_4D),
    ("stages.{i}.{j}.grn.beta", "stages.{i}.{j}.grn.beta", AS_4D),
    ("stages.{i}.{j}.gamma", "stages.{i}.{j}.gamma"),
    ("norm_stem.{p}", "norm_stem.{p}"),
    ("norm{i}.{p}", "norm{i}.{p}"),
    ("norm.{p}", "norm.{p}"),
    ("norm.{p}", "norms.3.{p}"),  # DINOv3's own files have the final norm under both names
    ("head.{p}", "head.{p}"),
)

# ConvNeXt-V2's self-supervised files: a sparse encoder of MinkowskiEngine's modules, prefix encoder.
FCMAE = (
    ("downsample_layers.0.{k}.{p}", "downsample_layers.0.{k}.{p}"),
    ("downsample_layers.{i}.0.{p}", "downsample_layers.{i}.0.ln.{p}"),
    ("downsample_layers.{i}.1.weight", "downsample_layers.{i}.1.kernel", SPARSE),
    ("downsample_layers.{i}.1.bias", "downsample_layers.{i}.1.bias", AS_ROW),
    ("downsample_layers.{i}.0.{p}", "downsample_layers.{i}.0.{p}"),
    ("stages.{i}.{j}.dwconv.weight", "stages.{i}.{j}.dwconv.kernel", SPARSE_DEPTHWISE),
    ("stages.{i}.{j}.dwconv.bias", "stages.{i}.{j}.dwconv.bias", AS_ROW),
    ("stages.{i}.{j}.norm.{p}", "stages.{i}.{j}.norm.ln.{p}"),
    ("stages.{i}.{j}.pwconv{k}.{p}", "stages.{i}.{j}.pwconv{k}.linear.{p}"),
    ("stages.{i}.{j}.grn.gamma", "stages.{i}.{j}.grn.gamma", AS_ROW),
    ("stages.{i}.{j}.grn.beta", "stages.{i}.{j}.grn.beta", AS_ROW),
    ("stages.{i}.{j}.gamma", "stages.{i}.{j}.gamma"),  # V1's; no official file has any
)

# transformers: ConvNextModel, ConvNextV2Model, their backbones, and classifiers around the model.
HUGGINGFACE = (
    ("downsample_layers.0.0.{p}", "embeddings.patch_embeddings.{p}"),
    ("downsample_layers.0.1.{p}", "embeddings.layernorm.{p}"),
    ("downsample_layers.{i}.{k}.{p}", "encoder.stages.{i}.downsampling_layer.{k}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "encoder.stages.{i}.layers.{j}.dwconv.{p}"),
    ("stages.{i}.{j}.norm.{p}", "encoder.stages.{i}.layers.{j}.layernorm.{p}"),
    ("stages.{i}.{j}.pwconv{k}.{p}", "encoder.stages.{i}.layers.{j}.pwconv{k}.{p}"),
    ("stages.{i}.{j}.act.weight", "encoder.stages.{i}.layers.{j}.act.weight"),
    ("stages.{i}.{j}.grn.gamma", "encoder.stages.{i}.layers.{j}.grn.weight", AS_4D),
    ("stages.{i}.{j}.grn.beta", "encoder.stages.{i}.layers.{j}.grn.bias", AS_4D),
    ("stages.{i}.{j}.grn.gamma", "encoder.stages.{i}.layers.{j}.grn.gamma", AS_4D),
    ("stages.{i}.{j}.grn.beta", "encoder.stages.{i}.layers.{j}.grn.beta", AS_4D),
    ("stages.{i}.{j}.gamma", "encoder.stages.{i}.layers.{j}.layer_scale_parameter"),
    ("norm_stem.{p}", "hidden_states_norms.stem.{p}"),
    ("norm{i}.{p}", "hidden_states_norms.stage{i+1}.{p}"),
    ("norm.{p}", "layernorm.{p}"),
    ("head.{p}", "/classifier.{p}"),
)

# adapters/huggingface: the official names below network, and the head of its classifier beside it.
CONVNEXT_BACKBONES = (
    *((ours, f"network.{theirs}", *(FLAT for _ in form)) for ours, theirs, *form in OFFICIAL[:-1]),
    ("head.{p}", "/classifier.{p}"),
    ("head.{p}", "network.head.{p}"),
)

# transformers: DINOv3ConvNextModel.
DINOV3 = (
    ("downsample_layers.{i}.{k}.{p}", "stages.{i}.downsample_layers.{k}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "stages.{i}.layers.{j}.depthwise_conv.{p}"),
    ("stages.{i}.{j}.norm.{p}", "stages.{i}.layers.{j}.layer_norm.{p}"),
    ("stages.{i}.{j}.pwconv{k}.{p}", "stages.{i}.layers.{j}.pointwise_conv{k}.{p}"),
    ("stages.{i}.{j}.gamma", "stages.{i}.layers.{j}.gamma"),
    ("norm.{p}", "/layer_norm.{p}"),
)

# timm, and open_clip's trunks, whose prefix is visual.trunk.
TIMM = (
    ("downsample_layers.0.{k}.{p}", "stem.{k}.{p}"),
    ("downsample_layers.{i}.{k}.{p}", "stages.{i}.downsample.{k}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "stages.{i}.blocks.{j}.conv_dw.{p}"),
    ("stages.{i}.{j}.norm.{p}", "stages.{i}.blocks.{j}.norm.{p}"),
    ("stages.{i}.{j}.pwconv{k}.weight", "stages.{i}.blocks.{j}.mlp.fc{k}.weight", LINEAR),
    ("stages.{i}.{j}.pwconv{k}.bias", "stages.{i}.blocks.{j}.mlp.fc{k}.bias"),
    ("stages.{i}.{j}.grn.gamma", "stages.{i}.blocks.{j}.mlp.grn.weight", FLAT),
    ("stages.{i}.{j}.grn.beta", "stages.{i}.blocks.{j}.mlp.grn.bias", FLAT),
    ("stages.{i}.{j}.gamma", "stages.{i}.blocks.{j}.gamma"),
    ("norm.{p}", "head.norm.{p}"),
    ("head.{p}", "head.fc.{p}"),
)
# timm's smaller models ("conv_mlp") have 1x1 convolutions for pointwise layers.
TIMM_CONV_MLP = tuple((*row[:2], CONV_1X1) if LINEAR in row else row for row in TIMM)

# timm's features_only=True puts the parts of stem and stages side by side.
TIMM_FEATURES = tuple(
    (row[0], re.sub(r"^(stem|stages)\.", r"\1_", row[1]), *row[2:])
    for row in TIMM
    if not row[1].startswith("head.")
)

# MMPretrain, and MMDetection and MMSegmentation models with its backbone.
_MMPRETRAIN_BODY = (
    ("downsample_layers.{i}.{k}.{p}", "downsample_layers.{i}.{k}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "stages.{i}.{j}.depthwise_conv.{p}"),
    ("stages.{i}.{j}.norm.{p}", "stages.{i}.{j}.norm.{p}"),
    ("stages.{i}.{j}.pwconv{k}.weight", "stages.{i}.{j}.pointwise_conv{k}.weight", LINEAR),
    ("stages.{i}.{j}.pwconv{k}.bias", "stages.{i}.{j}.pointwise_conv{k}.bias"),
    ("stages.{i}.{j}.grn.gamma", "stages.{i}.{j}.grn.gamma", FLAT),
    ("stages.{i}.{j}.grn.beta", "stages.{i}.{j}.grn.beta", FLAT),
    ("stages.{i}.{j}.gamma", "stages.{i}.{j}.gamma"),
)
MMPRETRAIN = (
    *_MMPRETRAIN_BODY,
    ("norm.{p}", "norm3.{p}"),
    ("head.{p}", "/head.fc.{p}"),
)
MMPRETRAIN_BACKBONE = (
    *_MMPRETRAIN_BODY,
    ("norm{i}.{p}", "norm{i}.{p}"),
)

TORCHVISION = (
    ("downsample_layers.0.{k}.{p}", "features.0.{k}.{p}"),
    ("downsample_layers.{i}.{k}.{p}", "features.{2i}.{k}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "features.{2i+1}.{j}.block.0.{p}"),
    ("stages.{i}.{j}.norm.{p}", "features.{2i+1}.{j}.block.2.{p}"),
    ("stages.{i}.{j}.pwconv1.{p}", "features.{2i+1}.{j}.block.3.{p}"),
    ("stages.{i}.{j}.pwconv2.{p}", "features.{2i+1}.{j}.block.5.{p}"),
    ("stages.{i}.{j}.gamma", "features.{2i+1}.{j}.layer_scale", AS_COLUMN),
    ("norm.{p}", "classifier.0.{p}"),
    ("head.{p}", "classifier.2.{p}"),
)

# torchvision's `features` alone, as detectors of torchvision have it for a body.
TORCHVISION_FEATURES = tuple(
    (row[0], row[1].removeprefix("features."), *row[2:])
    for row in TORCHVISION
    if row[1].startswith("features.")
)


class Layout(NamedTuple):
    """One way of naming.

    prefix is what the model's own names start with in a classifier's file; {family} in it is
    convnext or convnextv2. dropped matches names at the root that belong to no ConvNeXt.
    """

    name: str
    rows: tuple
    prefix: str = ""
    dropped: str = ""

    @property
    def anchor(self) -> str:
        """Their name of the first block's depthwise kernel, by which the layout is known."""
        theirs, _ = _renamed("stages.0.0.dwconv.weight", self.rows, "to")
        return theirs


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("official", OFFICIAL),
        Layout("fcmae", FCMAE, "encoder.", r"(decoder|proj|pred)\.|mask_token$"),
        Layout("huggingface", HUGGINGFACE, "{family}."),
        Layout("convnext_backbones", CONVNEXT_BACKBONES, "convnext."),
        Layout("dinov3", DINOV3, "model."),
        Layout("timm", TIMM),
        Layout("timm_conv_mlp", TIMM_CONV_MLP),
        Layout("timm_features", TIMM_FEATURES),
        Layout("mmpretrain", MMPRETRAIN, "backbone."),
        Layout("mmpretrain_backbone", MMPRETRAIN_BACKBONE),
        Layout("torchvision", TORCHVISION),
        Layout("torchvision_features", TORCHVISION_FEATURES, "features."),
    )
}

_FAMILIES = {1: "convnext", 2: "convnextv2"}

# What averages of weights hold beside them: torch's AveragedModel, MMEngine's.
COUNTERS = {"n_averaged", "steps"}


class Found(NamedTuple):
    """A ConvNeXt among the names of a file: its layout and what its names start with."""

    layout: Layout
    prefix: str


class Translated(NamedTuple):
    """Parameters under our names, by whichever of their names; and the names that were not taken.

    names: ours to theirs. outside: of other parts of the file's model, such as a detector's heads.
    dropped: of known parts that are no ConvNeXt's, counters of averages, and second names of what was
    taken. unknown: everything else.
    """

    state: dict[str, Tensor]
    names: dict[str, str]
    outside: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def find_layouts(names) -> list[Found]:
    """Every ConvNeXt whose first block's depthwise kernel is among the names, below any prefix."""
    names = set(names)
    found = []
    for name in names:
        matching = [a for a in _BY_ANCHOR if name == a or name.endswith(f".{a}")]
        if matching:
            anchor = max(matching, key=len)  # torchvision's ends in that of its features
            prefix = name.removesuffix(anchor)
            found.append(_variety(Found(_BY_ANCHOR[anchor], prefix), names))
    return sorted(found, key=lambda f: f.prefix)


def _variety(found: Found, names: set[str]) -> Found:
    """What the anchor alone does not tell: whether it is a whole classifier of MMPretrain, torchvision.

    MMPretrain's norm3 is the final norm in a classifier, an output norm in a detector.
    """
    layout, prefix = found
    if layout.name == "mmpretrain":
        classifier = f"{prefix.removesuffix('backbone.')}head.fc.weight" in names
        if not (prefix.endswith("backbone.") and classifier):
            return Found(LAYOUTS["mmpretrain_backbone"], prefix)
    if layout.name == "torchvision" and f"{prefix}classifier.0.weight" not in names:
        return Found(LAYOUTS["torchvision_features"], f"{prefix}features.")
    return found


def from_layout(state: dict[str, Tensor], found: Found) -> Translated:
    """Their names and shapes to ours."""
    result, names, outside, dropped, unknown = {}, {}, [], [], []
    root = root_of(found)
    for theirs, value in state.items():
        ours, form = our_name(theirs, found)
        if ours is not None and ours not in names:
            result[ours] = _reshaped(form, value)
            names[ours] = theirs
        elif ours is not None and _same(value, state[names[ours]]):
            dropped.append(theirs)  # one parameter under two names
        elif theirs.removeprefix(root) in COUNTERS or (
            found.layout.dropped and re.match(found.layout.dropped, theirs.removeprefix(root))
        ):
            dropped.append(theirs)
        elif theirs.startswith(found.prefix):
            unknown.append(theirs)
        else:
            outside.append(theirs)
    return Translated(result, names, tuple(outside), tuple(dropped), tuple(unknown))


def our_name(theirs: str, found: Found) -> tuple[str | None, Form | None]:
    """Our name of theirs, and how its shape differs; None where we have none."""
    root, ours = root_of(found), (None, None)
    if theirs.startswith(found.prefix):
        ours = _renamed(theirs.removeprefix(found.prefix), found.layout.rows, "from")
    if ours[0] is None and theirs.startswith(root):
        ours = _renamed("/" + theirs.removeprefix(root), found.layout.rows, "from")
    return ours


def root_of(found: Found) -> str:
    """What stands before the names of the whole model: the prefix without the layout's own."""
    own = [found.layout.prefix.format(family=family) for family in _FAMILIES.values()]
    return found.prefix.removesuffix(next((o for o in own if found.prefix.endswith(o)), ""))


def _same(value: Tensor, other: Tensor) -> bool:
    return value.dtype == other.dtype and torch.equal(value, other)


def to_layout(
    state: dict[str, Tensor], layout: str, *, version: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Our names and shapes to theirs, and which of ours have no place there.

    Where their classifiers have a prefix, a state without a head is written without it.
    """
    table = LAYOUTS[layout]
    bare = "head.weight" not in state and any(row[0] == "head.{p}" for row in table.rows)
    prefix = "" if bare else table.prefix.format(family=_FAMILIES[version])
    result, left = {}, []
    for ours, value in state.items():
        theirs, form = _renamed(ours, table.rows, "to")
        if theirs is None:
            left.append(ours)
            continue
        theirs = theirs[1:] if theirs.startswith("/") else prefix + theirs
        result[theirs] = (form.theirs(value) if form else value).contiguous()
    return result, tuple(left)


def _reshaped(form: Form | None, value: Tensor) -> Tensor:
    """In our shape; a value of a shape that no such file has stays as it is, to be refused later."""
    try:
        return form.ours(value) if form else value
    except (RuntimeError, IndexError):
        return value


def _renamed(name: str, rows: tuple, direction: str) -> tuple[str | None, Form | None]:
    """The name's other side in the first row that fits, and that row's form."""
    for ours, theirs, *form in rows:
        source, target = (ours, theirs) if direction == "to" else (theirs, ours)
        fields = _parsed(source, name)
        if fields is not None:
            return _formatted(target, fields), form[0] if form else None
    return None, None


_FIELD = re.compile(r"\{(2?)([ijkp])(\+1)?\}")


@cache
def _pattern(template: str) -> re.Pattern:
    parts = _FIELD.split(template)  # text, factor, letter, term, text, ...
    pattern = re.escape(parts[0])
    for letter, text in zip(parts[2::4], parts[4::4], strict=True):
        values = "weight|bias" if letter == "p" else r"0|[1-9]\d{0,3}"
        pattern += f"(?P<{letter}>{values}){re.escape(text)}"
    return re.compile(pattern)


def _parsed(template: str, name: str) -> dict | None:
    """The values of a template's fields in a name; None where the name is not of this kind."""
    match = _pattern(template).fullmatch(name)
    if not match:
        return None
    values = {}
    for factor, letter, term in _FIELD.findall(template):
        if letter == "p":
            values[letter] = match[letter]
            continue
        number, rest = divmod(int(match[letter]) - bool(term), 2 if factor else 1)
        if rest or number < 0:
            return None
        values[letter] = number
    return values


def _formatted(template: str, values: dict) -> str:
    """A template with its fields filled in."""

    def value(field: re.Match) -> str:
        factor, letter, term = field.groups()
        if letter == "p":
            return values[letter]
        return str(values[letter] * (2 if factor else 1) + bool(term))

    return _FIELD.sub(value, template)


# Two layouts of a family have one anchor; the first stands for both.
_BY_ANCHOR = {layout.anchor: layout for layout in reversed(LAYOUTS.values())}
