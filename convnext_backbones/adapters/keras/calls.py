"""What a model is called with, and what it returns.

Pictures are (N, H, W, in_channels), as Keras has them, or (N, in_channels, H, W), as the TF classes of
transformers took them: the axis of in_channels numbers tells, and maps lie as the pictures do. A model
takes them alone, by keyword, or with the other arguments in a list or a dict, as those classes did:

    model(pixels)    model(pixel_values=pixels)    model([pixels])    model({"pixel_values": pixels})
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from ...errors import UserError
from ...network.variants import nearest

FLAGS = {"output_hidden_states": None, "return_dict": None}  # of every model, by default


class BackboneOutput(NamedTuple):
    """feature_maps: one normed map per selected feature. hidden_states: the maps without norms of the stem
    and of every stage up to the last selected one, where asked for."""

    feature_maps: tuple
    hidden_states: tuple | None = None


class ModelOutput(NamedTuple):
    """As TFBaseModelOutputWithPooling: the last stage's map, its mean after the final norm (N, C), and
    where asked for the maps of the stem and every stage."""

    last_hidden_state: Any
    pooler_output: Any
    hidden_states: tuple | None = None


class ClassifierOutput(NamedTuple):
    """As TFImageClassifierOutput: loss (N,), where labels are given, and logits (N, num_classes)."""

    loss: Any
    logits: Any
    hidden_states: tuple | None = None


def bound(given, **others) -> dict:
    """The arguments by name: of a list or dict given in the first one, pixel_values, and of `others`, in the
    order that they have in a list.

    Raises:
        UserError: no pictures, a name that there is not, too many, one given twice, or no flag.
    """
    names = ("pixel_values", *others)
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise UserError(f"the model takes no {name!r}; {nearest(str(name), names)}")
        inside = dict(given)
    elif isinstance(given, (list, tuple)):
        if len(given) > len(names):
            raise UserError(
                f"a list holds the arguments in their order, {', '.join(names)}, and this one has "
                f"{len(given)} entries; pictures are one array (N, H, W, C): np.stack(pictures)"
            )
        inside = dict(zip(names, given, strict=False))
    else:
        inside = {"pixel_values": given}
    arguments = {"pixel_values": None, **others}
    for name, value in inside.items():
        if value is not None and arguments[name] is not None:
            raise UserError(f"{name} came twice, in the first argument and by itself; give it once")
        if value is not None:
            arguments[name] = value
    if arguments["pixel_values"] is None:
        raise UserError("no pictures were given; call the model with pixel_values")
    for name in FLAGS:
        if not isinstance(arguments[name], (bool, type(None))):
            raise UserError(
                f"{name} is True or False, got a {type(arguments[name]).__name__}; a list holds the "
                f"arguments in their order, {', '.join(names)}"
            )
    return arguments


def channels_last(images, in_channels: int, smallest: int):
    """(N, H, W, in_channels) pictures in Keras's tensors, and whether they came as (N, in_channels, H, W).

    Raises:
        UserError: another shape, smaller than `smallest` pixels, or whole numbers.
    """
    images = _tensor(images)
    dtype = keras.backend.standardize_dtype(images.dtype)
    if "float" not in dtype:
        raise UserError(
            f"pictures are {dtype}; give normalised floating-point pixels, (pictures / 255 - mean) / std: "
            "the numbers stand in convnext_backbones.network.preprocessing"
        )
    shape = tuple(images.shape)
    expected = f"(N, H, W, {in_channels}) or (N, {in_channels}, H, W)"
    if len(shape) != 4:
        fix = "add the first axis: pictures[None]" if len(shape) == 3 else "give a batch"
        raise UserError(f"pictures must have shape {expected}, got {shape}; {fix}")
    last, first = shape[3] == in_channels, shape[1] == in_channels
    if last == first:
        fix = (
            "both axes fit: resize to a height and width of other numbers"
            if last
            else "give pictures, or in_channels, that fit"
        )
        raise UserError(f"pictures must have shape {expected}, got {shape}; {fix}")
    size = shape[2:] if first else shape[1:3]
    if any(isinstance(side, int) and side < smallest for side in size):  # others are symbols
        raise UserError(
            f"pictures are {size[0]}x{size[1]}; this network needs at least {smallest}x{smallest} "
            "pixels: resize or pad"
        )
    return (ops.transpose(images, (0, 2, 3, 1)) if first else images), first


def as_it_came(x, channels_first: bool):
    """A map (N, H, W, C), or (N, C, H, W) where the pictures came so."""
    return ops.transpose(x, (0, 3, 1, 2)) if channels_first else x


def classification_loss(labels, logits, num_classes: int):
    """The loss of every picture (N,), as the TF classes have it, by the number of classes and the labels'
    type: squared error for one class, cross-entropy for class numbers (N,), binary cross-entropy, the mean
    over classes, for floats (N, num_classes). The mean over pictures is the torch classifier's loss.

    Raises:
        UserError: no head, or labels of another shape.
    """
    if num_classes == 0:
        raise UserError("labels were given, and the classifier has no head; give num_classes")
    labels = _tensor(labels)
    logits = ops.cast(logits, "float32")
    shape, dtype = tuple(labels.shape), keras.backend.standardize_dtype(labels.dtype)
    if num_classes == 1:
        if shape not in ((logits.shape[0],), tuple(logits.shape)):
            raise UserError(f"labels have shape {shape}; for one class give one number a picture")
        labels = ops.reshape(ops.cast(labels, logits.dtype), (-1, 1))
        return keras.losses.mean_squared_error(labels, logits)
    if "int" in dtype:
        if len(shape) != 1:
            raise UserError(
                f"class numbers have shape (N,), got {shape}; labels of several classes at once are "
                "floats (N, num_classes)"
            )
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if len(shape) != 2 or shape[1] != num_classes:
        raise UserError(
            f"labels that are {dtype} have shape (N, {num_classes}), got {shape}; class numbers are whole "
            "numbers (N,)"
        )
    labels = ops.cast(labels, logits.dtype)
    return keras.losses.binary_crossentropy(labels, logits, from_logits=True)


def without_none(output: NamedTuple) -> tuple:
    """What return_dict=False gives."""
    return tuple(value for value in output if value is not None)


def _tensor(value):
    return value if isinstance(value, keras.KerasTensor) else ops.convert_to_tensor(value)
