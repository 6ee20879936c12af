"""What timm is told: a model a size, a tag for each of its published weights."""

from collections.abc import Callable

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ...checkpoints.catalogue import CATALOGUE, Weights
from ...checkpoints.loading import STEM
from ...errors import UserError
from ...network.preprocessing import EvaluationTransform
from ...network.refusals import refuse_unknown_options
from ...network.variants import VARIANTS, nearest
from .model import TimmConvNeXt
from .weights import named_as_ours

PREFIX = "cb_"
PAPERS = {1: "arXiv:2201.03545", 2: "arXiv:2301.00808"}
REWRITING = ("list", "dict", "FeatureListNet", "FeatureDictNet")
# Options that build_model_with_cfg takes before the model.
OF_TIMM = {
    "features_only",
    "out_indices",
    "feature_cls",
    "pretrained_strict",
    "pretrained_model_args",
}
BY_OTHER_NAMES = {
    "arch": "leave it out: the model's name says it",
    "version": "leave it out: the model's name says it",
    "in_channels": "write in_chans",
    "layer_scale_init_value": "write ls_init_value",
    "activation": "write act_layer",
    "out_features": "write features_only=True, out_indices=..., 0 for stage1",
    "frozen_stages": "leave it out: timm.utils.freeze(model, ['downsample_layers.0', 'stages.0'])",
    "with_cp": "call model.set_grad_checkpointing()",
}


def _weights_of(variant: str) -> list[Weights]:
    """The default ones, which have 1000 classes, first."""
    rows = [w for w in CATALOGUE.values() if w.variant == variant and w.preprocessing is not None]
    return sorted(rows, key=lambda weights: weights.num_classes != 1000)


def _config(weights: Weights) -> dict:
    """The fields of timm's PretrainedCfg. `file` with `custom_load` is how timm has a model load itself."""
    transform = EvaluationTransform(**weights.preprocessing)
    size = transform.image_size
    return {
        "file": weights.name,
        "custom_load": True,
        "num_classes": weights.num_classes,
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": 1.0 if transform.warp else transform.crop_pct,
        "crop_mode": "squash" if transform.warp else "center",
        "interpolation": transform.interpolation.value,
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
        "first_conv": STEM,
        "classifier": "head",
        "license": weights.licence.lower(),
        "origin_url": weights.url,
        "paper_ids": PAPERS[VARIANTS[weights.variant].version],
    }


default_cfgs = generate_default_cfgs(
    {
        f"{PREFIX}{weights.name}": _config(weights)
        for variant in VARIANTS
        for weights in _weights_of(variant)
    }
)


def _create(
    name: str,
    pretrained: bool = False,
    *,
    pretrained_cfg=None,
    pretrained_cfg_overlay: dict | None = None,
    cache_dir: str | None = None,
    **options,
):
    """What timm.create_model calls."""
    variant, model = VARIANTS[name], f"{PREFIX}{name}"
    refuse_unknown_options(
        model, options.keys() - OF_TIMM, TimmConvNeXt.__init__,
        others="leave out what timm's convnext has for other networks", **BY_OTHER_NAMES,
    )  # fmt: skip
    tags = default_cfgs[model].cfgs
    if isinstance(pretrained_cfg, str) and pretrained_cfg not in ("", *tags):
        raise UserError(f"{model} has no tag {pretrained_cfg!r}; {nearest(pretrained_cfg, tags)}")
    overlay = dict(pretrained_cfg_overlay or {})
    if overlay.get("url"):
        overlay.setdefault("file", overlay["url"])  # our reader takes both
    elif overlay.get("hf_hub_id"):
        overlay.setdefault("file", None)  # else timm takes the catalogue's
    if overlay.get("file"):
        overlay.setdefault("custom_load", True)  # by our reader, of every layout
    if cache_dir is not None and pretrained:
        raise UserError(
            f"cache_dir={str(cache_dir)!r}: downloads go to torch's cache; set TORCH_HOME for another "
            "place, or give a file: pretrained_cfg_overlay=dict(file=...)"
        )
    features = options.get("feature_cls")
    features = getattr(features, "__name__", features)
    if options.get("features_only") and features in REWRITING:
        raise UserError(
            f"feature_cls={features!r} takes a model apart and calls its children one after another, which "
            "stages and downsampling layers here are not; leave it out, or give 'getter', 'hook' or 'fx'"
        )
    return build_model_with_cfg(
        TimmConvNeXt,
        model,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay or None,
        pretrained_filter_fn=lambda state, model: named_as_ours(state),
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        arch=variant.size,
        version=variant.version,
        **options,
    )


def _entrypoint(name: str) -> Callable:
    def build(pretrained: bool = False, **options):
        return _create(name, pretrained, **options)

    build.__name__ = build.__qualname__ = f"{PREFIX}{name}"
    build.__doc__ = f"{name} of convnext_backbones; options as of TimmConvNeXt."
    return register_model(build)


globals().update({f"{PREFIX}{name}": _entrypoint(name) for name in VARIANTS})
