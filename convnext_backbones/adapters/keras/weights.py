"""Weights between PyTorch's names and memory and Keras's, both ways.

Keras has kernels as (height, width, in, out) and (in, out), PyTorch as (out, in, height, width) and
(out, in). Checkpoints are read, recognised and judged by checkpoints/, for the PyTorch network of the same
options on the meta device; the values that it would load go into Keras's variables.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import torch
from torch import Tensor

from ...checkpoints import LoadReport, inspect_checkpoint
from ...checkpoints.class_names import names_or_reason
from ...checkpoints.huggingface_config import activation_beside
from ...checkpoints.inspection import Inspected
from ...checkpoints.loading import judge_inspected
from ...errors import CheckpointError, UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.convnext import ConvNeXt, ConvNeXtV2, Trunk
from ...network.variants import get_variant
from .layers import GRN

logger = logging.getLogger("convnext_backbones")

# A layer's parameters: PyTorch's name, Keras's, and the axes of Keras's in PyTorch's order.
_NORM = (("weight", "gamma", (0,)), ("bias", "beta", (0,)))
_PARAMETERS = {
    keras.layers.Conv2D: (("weight", "kernel", (3, 2, 0, 1)), ("bias", "bias", (0,))),
    keras.layers.DepthwiseConv2D: (("weight", "kernel", (2, 3, 0, 1)), ("bias", "bias", (0,))),
    keras.layers.Dense: (("weight", "kernel", (1, 0)), ("bias", "bias", (0,))),
    keras.layers.LayerNormalization: _NORM,
    GRN: (("gamma", "gamma", (0,)), ("beta", "beta", (0,))),
}


def load_pretrained(
    model,
    source: str | Path,
    *,
    prefix: str | None = None,
    section: str | None = None,
    stem: str | None = None,
) -> LoadReport:
    """Load a checkpoint of any layout, all of it or nothing, as checkpoints.load_pretrained, and log its
    verdict.

    Args:
        model: a KerasConvNeXt, KerasConvNeXtModel or KerasConvNeXtClassifier.
        source, prefix, section, stem: as there.

    Raises:
        CheckpointError: as there, or another activation than GELU beside it; the model is as it was.
    """
    return load_inspected(
        model, inspect_checkpoint(source, prefix=prefix, section=section), stem=stem
    )


def load_inspected(model, file: Inspected, *, stem: str | None = None) -> LoadReport:
    """As load_pretrained, from a checkpoint that was read and inspected already."""
    activation = activation_beside(file.located.path)
    if activation not in (None, "gelu", "gelu_python"):
        raise CheckpointError(
            f"{file.source}: its config.json says hidden_act={activation!r}, and the Keras networks have the "
            "exact GELU alone; create_backbone and create_classifier take it in PyTorch"
        )
    values, report = judge_inspected(
        torch_twin(model.torch_class, model.options()), file, stem=stem
    )
    variables = {name: (variable, axes) for name, variable, axes in _named(model)}
    for name, value in values.items():
        variable, axes = variables[name]
        theirs = value.detach().to("cpu", torch.float32).numpy()
        variable.assign(np.transpose(theirs, np.argsort(axes)))
    if "head.weight" in values:
        names, reason = names_or_reason(
            file.located.weights, file.located.path, file.network.num_classes, file.class_names
        )
        model.class_names = names
        if reason:
            logger.info("class_names stay empty: %s", reason)
    # A licence that forbids commercial use is shown whether or not logging is set up.
    logger.log(logging.WARNING if report.non_commercial else logging.INFO, "%s", report)
    return report


def torch_state(model) -> dict[str, Tensor]:
    """The weights of a Keras model under the official names, as create_backbone and every converter of
    checkpoints take them: torch.save(torch_state(model), "weights.pth")."""
    return {
        name: torch.from_numpy(
            np.ascontiguousarray(np.transpose(keras.ops.convert_to_numpy(variable), axes))
        )
        for name, variable, axes in _named(model)
    }


def torch_twin(kind: str, options: dict) -> Trunk:
    """The PyTorch network of a Keras model's options, on the meta device; kind: backbone or classifier.

    Raises:
        ValueError, TypeError: options that no network has, each with a sentence.
    """
    arch, version = options["arch"], options["version"]
    if arch is None:
        raise UserError(
            "the network was not named: give a key of VARIANTS first, such as 'convnextv2_tiny' (name= is "
            "the name of the Keras layer)"
        )
    if isinstance(arch, str):
        variant = get_variant(arch)
        if version not in (None, variant.version):
            raise UserError(
                f"{arch} is of version {variant.version}; leave out version={version!r}"
            )
        arch, version = variant.size, variant.version
    elif version not in (1, 2):
        raise UserError(f"depths and dims need version=1 or version=2 beside them, got {version!r}")
    more = {name: value for name, value in options.items() if name not in ("arch", "version")}
    with torch.device("meta"):
        if kind == "classifier":
            return ConvNeXtClassifier(arch, version=version, **more)
        return (ConvNeXtV2 if version == 2 else ConvNeXt)(arch, **more)


def _named(model) -> Iterator[tuple[str, keras.Variable, tuple[int, ...]]]:
    """Every weight: its official name, the variable, and its axes in PyTorch's order."""
    for i, layer in enumerate(model.downsample_layers):
        parts = (layer.conv, layer.norm) if i == 0 else (layer.norm, layer.conv)
        for j, part in enumerate(parts):
            yield from _of_layer(f"downsample_layers.{i}.{j}", part)
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            place = f"stages.{i}.{j}"
            if block.gamma is not None:
                yield f"{place}.gamma", block.gamma, (0,)
            for name in ("dwconv", "norm", "pwconv1", "grn", "pwconv2"):
                if getattr(block, name) is not None:
                    yield from _of_layer(f"{place}.{name}", getattr(block, name))
    if model.torch_class == "backbone":
        for norm, index in zip(model.output_norms, model.out_indices, strict=False):
            yield from _of_layer("norm_stem" if index is None else f"norm{index}", norm)
    else:
        yield from _of_layer("norm", model.norm)
        if getattr(model, "head", None) is not None:
            yield from _of_layer("head", model.head)


def _of_layer(place: str, layer) -> Iterator[tuple[str, keras.Variable, tuple[int, ...]]]:
    for theirs, ours, axes in _PARAMETERS[type(layer)]:
        yield f"{place}.{theirs}", getattr(layer, ours), axes
