"""KerasConvNeXt, KerasConvNeXtModel and KerasConvNeXtClassifier: Keras models of both papers' networks."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import ops

from ...checkpoints import inspect_checkpoint
from ...checkpoints.huggingface_config import config_beside, read_config
from ...errors import UserError
from ...network.refusals import refuse_unknown_options
from ...network.selection import feature_names
from ...network.variants import nearest
from .calls import (
    FLAGS,
    BackboneOutput,
    ClassifierOutput,
    ModelOutput,
    as_it_came,
    bound,
    channels_last,
    classification_loss,
    without_none,
)
from .layers import EPS, Block, Downsample, Stage, Stem, draw, layer_norm
from .weights import load_inspected, load_pretrained, torch_twin


class Trunk(keras.Model):
    """The stem and the stages, their options, saving and loading; what the models below have in common.

    Which options are refused, and what follows from them, is asked of the PyTorch network.
    """

    def __init__(
        self,
        arch: str | dict | None,
        *,
        version: int | None = None,
        pretrained: str | Path | None = None,
        in_channels: int = 3,
        patch_size: int = 4,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        name: str | None = None,
        dtype=None,
        trainable: bool = True,
        **own,
    ):
        options = {
            "arch": arch,
            "version": version,
            "in_channels": in_channels,
            "patch_size": patch_size,
            "drop_path_rate": drop_path_rate,
            "layer_scale_init_value": layer_scale_init_value,
            **own,
        }
        network = torch_twin(type(self).torch_class, options)
        super().__init__(
            name=name or (arch if isinstance(arch, str) else None), dtype=dtype, trainable=trainable
        )
        self._options = json.dumps(options)  # as text: Keras wraps lists and dicts that it is given
        self.version, self.depths, self.dims = network.version, network.depths, network.dims
        self.feature_strides = network.feature_strides
        self.in_channels = in_channels
        policy = self.dtype_policy
        self.downsample_layers = [
            Stem(in_channels, self.dims[0], patch_size=patch_size, name="stem", dtype=policy)
        ]
        self.stages = []
        for i, stage in enumerate(network.stages):
            if i > 0:
                self.downsample_layers.append(
                    Downsample(
                        self.dims[i - 1], self.dims[i], name=f"downsample{i + 1}", dtype=policy
                    )
                )
            blocks = [
                Block(
                    self.dims[i],
                    version=self.version,
                    drop_path_rate=block.drop_path.rate,
                    layer_scale_init_value=layer_scale_init_value,
                    name=f"block{j + 1}",
                    dtype=policy,
                )
                for j, block in enumerate(stage)
            ]
            self.stages.append(Stage(blocks, name=f"stage{i + 1}", dtype=policy))
        self._add_heads(network)
        self.build((None, None, None, in_channels))
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def __call__(self, *args, **kwargs):
        # Keras takes nothing but tensors by position and in lists; call() is reached without this, too
        names = list(inspect.signature(self.call).parameters)
        if len(args) > len(names):
            raise UserError(
                f"the model takes {len(names)} arguments, {', '.join(names)}, got {len(args)}"
            )
        for name in kwargs.keys() - set(names):
            raise UserError(f"the model takes no {name!r}; {nearest(name, names)}")
        given = dict(zip(names, args, strict=False)) | kwargs
        training = given.pop("training", None)
        arguments = bound(given.pop("pixel_values", None), **dict.fromkeys(names[1:-1]) | given)
        tensors = {name: value for name, value in arguments.items() if value is not None}
        return super().__call__(tensors.pop("pixel_values"), training=training, **tensors)

    def build(self, input_shape=None):
        if self.built:
            return
        for layer in self.downsample_layers + self.stages:
            layer.build(None)
        for layer, dim in self._heads():
            layer.build((None, dim))
        self.built = True

    def options(self) -> dict:
        """The constructor's, without those of every Keras model."""
        return json.loads(self._options)

    def get_config(self) -> dict:
        policy = keras.saving.serialize_keras_object(self.dtype_policy)
        return {**self.options(), "name": self.name, "dtype": policy, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config: dict):
        config = dict(config)
        config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        return cls(**config)

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **more):
        """As keras.Model.export; without input_signature for pictures (N, H, W, in_channels) of any size.

        Raises:
            UserError: Keras's torch backend, which needs torch_xla for a SavedModel.
        """
        if format == "tf_saved_model" and keras.backend.backend() == "torch":
            raise UserError(
                "Keras on torch writes a SavedModel by torch_xla alone; save('model.keras'), load it with "
                "KERAS_BACKEND=tensorflow, and export it there"
            )
        if input_signature is None:
            shape = (None, None, None, self.in_channels)
            input_signature = [keras.InputSpec(shape=shape, dtype=self.input_dtype)]
        super().export(filepath, format, verbose, input_signature, **more)

    def maps(self, images, training):
        """(N, H, W, in_channels) to the maps of the stem and of every built stage."""
        x = self.downsample_layers[0](images)
        maps = [x]
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.downsample_layers[i](x)
            x = stage(x, training=training)
            maps.append(x)
        return maps

    def _pictures(self, images):
        return channels_last(images, self.in_channels, self.feature_strides[len(self.stages)])

    def _map_specs(self, images) -> tuple[keras.KerasTensor, ...]:
        """The shapes of the maps of symbolic pictures, whose sizes may be None. Keras would find them by a
        trial, and on torch take 83 and 89 pixels, both 2 at stride 32, for a map that is always of 2."""
        images, first = self._pictures(images)
        number, *sides = images.shape[:3]
        specs = []
        for stride, channels in zip(
            self.feature_strides, (self.dims[0], *self.dims[: len(self.stages)]), strict=False
        ):
            size = [side // stride if isinstance(side, int) else None for side in sides]
            shape = (number, channels, *size) if first else (number, *size, channels)
            specs.append(keras.KerasTensor(shape, dtype=self.compute_dtype))
        return tuple(specs)


@keras.saving.register_keras_serializable("convnext_backbones")
class KerasConvNeXt(Trunk):
    """ConvNeXt or ConvNeXt V2 as a backbone: pictures to a tuple of feature maps.

    Args:
        arch: a key of VARIANTS, e.g. "convnextv2_tiny"; or dict(depths=..., dims=...) with version.
        version: 1 or 2, of depths and dims; a name says its own.
        out_features: names out of "stem", "stage1".."stageN", in network order.
        out_indices: stage indices instead; 0 is stage1, negative ones count from the end.
            Neither given: the last stage. Both given: they must agree.
        pretrained: weights: a name of the catalogue, a file, a Hugging Face folder or a URL; see
            load_pretrained, whose verdict is logged.
        output_norm: give each selected feature a LayerNorm of its own.
        in_channels, patch_size, drop_path_rate, layer_scale_init_value: as for ConvNeXt.
        name, dtype, trainable: as for every Keras model.

    Attributes:
        out_features, out_indices, channels, strides: of the returned maps, in order.

    Stages after the last selected one are not built, so that every weight has a gradient.
    """

    torch_class = "backbone"

    def __init__(
        self,
        arch: str | dict | None = None,
        *,
        out_features: list[str] | tuple[str, ...] | None = None,
        out_indices: list[int] | tuple[int, ...] | None = None,
        output_norm: bool = True,
        **shared,
    ):
        refuse_unknown_options(type(self).__name__, shared, KerasConvNeXt.__init__, Trunk.__init__)
        super().__init__(
            arch,
            out_features=out_features,
            out_indices=out_indices,
            output_norm=output_norm,
            **shared,
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, **options):
        """The backbone that a checkpoint of any layout holds, with its weights; options win.

        Raises:
            CheckpointError: as load_pretrained.
        """
        file = inspect_checkpoint(source)
        model = cls(**{**_options_of(file), **options})
        load_inspected(model, file)
        return model

    def call(self, pixel_values=None, output_hidden_states=None, return_dict=None, training=None):
        """Pictures to one map (N, H // s_i, W // s_i, C_i) per selected feature.

        With output_hidden_states or return_dict a BackboneOutput. Maps lie as the pictures do: (N, C, H, W)
        gives (N, C_i, H // s_i, W // s_i). calls.py tells in which forms arguments are taken.
        """
        given = bound(
            pixel_values, output_hidden_states=output_hidden_states, return_dict=return_dict
        )
        images, first = self._pictures(given["pixel_values"])
        maps = self.maps(images, training)
        outputs = [maps[position] for position in self.positions]
        for i, norm in enumerate(self.output_norms):
            outputs[i] = norm(outputs[i])
        outputs, maps = (tuple(as_it_came(x, first) for x in xs) for xs in (outputs, maps))
        return self._answer(outputs, maps, given)

    def compute_output_spec(self, pixel_values=None, training=None, **others):
        given = bound(pixel_values, **FLAGS | others)
        maps = self._map_specs(given["pixel_values"])
        return self._answer(tuple(maps[position] for position in self.positions), maps, given)

    def _answer(self, outputs: tuple, maps: tuple, given: dict):
        if not given["output_hidden_states"]:
            return BackboneOutput(outputs) if given["return_dict"] else outputs
        output = BackboneOutput(outputs, maps)
        return without_none(output) if given["return_dict"] is False else output

    def _add_heads(self, network):
        self.out_features, self.out_indices = network.out_features, network.out_indices
        self.channels, self.strides = network.channels, network.strides
        names = feature_names(len(self.depths))
        self.positions = tuple(names.index(feature) for feature in self.out_features)
        selected = self.out_features if network.output_norm else ()
        self.output_norms = [layer_norm(f"norm_{name}", self.dtype_policy) for name in selected]

    def _heads(self):
        return list(zip(self.output_norms, self.channels, strict=False))


class Pooled(Trunk):
    """All stages, and the mean of the last one after the final norm."""

    torch_class = "classifier"

    @classmethod
    def from_pretrained(cls, source: str | Path, **options):
        """The model that a checkpoint of any layout holds, with its weights; options win.

        Raises:
            CheckpointError: as load_pretrained.
            UserError: the checkpoint has no final norm, or no head.
        """
        file = inspect_checkpoint(source)
        missing = [part for part in cls.parts if f"{part}.weight" not in file.state]
        if missing and "num_classes" not in options:
            raise UserError(
                f"{file.source} has no {' and no '.join(missing)}, which would stay as initialised; take a "
                f"classifier's weights, or KerasConvNeXt for a backbone, or write {cls.__name__}"
                f"({file.network.variant!r}, pretrained=...) to train it"
            )
        model = cls(**{**_options_of(file), **cls._own_options(file), **options})
        load_inspected(model, file)
        return model

    @classmethod
    def _own_options(cls, file) -> dict:
        config = config_beside(file.located.path)
        return {} if config is None else {"norm_eps": read_config(config)["layer_norm_eps"]}

    def features(self, images, training, output_hidden_states) -> ModelOutput:
        images, first = self._pictures(images)
        maps = self.maps(images, training)
        pooled = self.norm(ops.mean(maps[-1], axis=(1, 2)))
        kept = tuple(as_it_came(x, first) for x in maps) if output_hidden_states else None
        return ModelOutput(as_it_came(maps[-1], first), pooled, kept)

    def feature_specs(self, images, output_hidden_states) -> ModelOutput:
        maps = self._map_specs(images)
        pooled = keras.KerasTensor((maps[-1].shape[0], self.dims[-1]), dtype=self.compute_dtype)
        return ModelOutput(maps[-1], pooled, maps if output_hidden_states else None)

    def _add_heads(self, network):
        self.norm = layer_norm("norm", self.dtype_policy, network.norm.eps)

    def _heads(self):
        return [(self.norm, self.dims[-1])]


@keras.saving.register_keras_serializable("convnext_backbones")
class KerasConvNeXtModel(Pooled):
    """All stages and the pooled last one, as TFConvNextModel and TFConvNextV2Model.

    Args:
        norm_eps: of the final norm; 1e-6 in the official models, 1e-12 in Hugging Face's.
        arch, shared: as for KerasConvNeXt.
    """

    parts = ("norm",)

    def __init__(self, arch: str | dict | None = None, *, norm_eps: float = EPS, **shared):
        refuse_unknown_options(
            type(self).__name__, shared, KerasConvNeXtModel.__init__, Trunk.__init__
        )
        super().__init__(arch, norm_eps=norm_eps, num_classes=0, **shared)

    def get_config(self) -> dict:
        config = super().get_config()
        del config["num_classes"]
        return config

    def call(self, pixel_values=None, output_hidden_states=None, return_dict=None, training=None):
        """Pictures to a ModelOutput, or with return_dict=False a tuple without what is not there."""
        given = bound(
            pixel_values, output_hidden_states=output_hidden_states, return_dict=return_dict
        )
        output = self.features(given["pixel_values"], training, given["output_hidden_states"])
        return without_none(output) if given["return_dict"] is False else output

    def compute_output_spec(self, pixel_values=None, training=None, **others):
        given = bound(pixel_values, **FLAGS | others)
        output = self.feature_specs(given["pixel_values"], given["output_hidden_states"])
        return without_none(output) if given["return_dict"] is False else output


@keras.saving.register_keras_serializable("convnext_backbones")
class KerasConvNeXtClassifier(Pooled):
    """ConvNeXt or ConvNeXt V2 with its classification head, as TFConvNextForImageClassification.

    Args:
        num_classes: outputs of the head; 0 for none, the logits are then the pooled features.
        class_names: a name for each class; those of a pretrained head where they are known.
        norm_eps: as for KerasConvNeXtModel.
        arch, shared: as for KerasConvNeXt. A pretrained head of another size stays as initialised.
    """

    parts = ("norm", "head")

    def __init__(
        self,
        arch: str | dict | None = None,
        *,
        num_classes: int = 1000,
        class_names: Sequence[str] | None = None,
        norm_eps: float = EPS,
        **shared,
    ):
        refuse_unknown_options(
            type(self).__name__, shared, KerasConvNeXtClassifier.__init__, Trunk.__init__
        )
        if class_names is not None and len(class_names) != num_classes:
            raise UserError(
                f"class_names are {len(class_names)} names, and num_classes is {num_classes!r}; give one "
                "name a class"
            )
        super().__init__(arch, num_classes=num_classes, norm_eps=norm_eps, **shared)
        if class_names is not None:
            self.class_names = tuple(class_names)

    def get_config(self) -> dict:
        return {**super().get_config(), "class_names": self.class_names}

    @classmethod
    def _own_options(cls, file) -> dict:
        return {**super()._own_options(file), "num_classes": file.network.num_classes or 0}

    def call(
        self,
        pixel_values=None,
        output_hidden_states=None,
        return_dict=None,
        labels=None,
        training=None,
    ):
        """Pictures to logits (N, num_classes).

        With labels, output_hidden_states or return_dict=True a ClassifierOutput, with return_dict=False a
        tuple of what of it is there. labels: see classification_loss, whose mean is also added to the
        losses of the model, so that fit takes a dict with labels where compile was given no loss.
        """
        given = bound(
            pixel_values,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            labels=labels,
        )
        features = self.features(given["pixel_values"], training, given["output_hidden_states"])
        logits = features.pooler_output if self.head is None else self.head(features.pooler_output)
        loss = None
        if given["labels"] is not None:
            loss = classification_loss(given["labels"], logits, self.num_classes)
            self.add_loss(ops.mean(loss))
        return self._answer(ClassifierOutput(loss, logits, features.hidden_states), given)

    def compute_output_spec(self, pixel_values=None, training=None, **others):
        given = bound(pixel_values, **FLAGS | {"labels": None} | others)
        features = self.feature_specs(given["pixel_values"], given["output_hidden_states"])
        number, width = features.pooler_output.shape
        logits = keras.KerasTensor((number, self.num_classes or width), dtype=self.compute_dtype)
        has_labels = given["labels"] is not None
        loss = keras.KerasTensor((number,), dtype="float32") if has_labels else None
        return self._answer(ClassifierOutput(loss, logits, features.hidden_states), given)

    def _answer(self, output: ClassifierOutput, given: dict):
        if given["return_dict"] is False:
            return without_none(output)
        asked = given["return_dict"] or given["output_hidden_states"] or given["labels"] is not None
        return output if asked else output.logits

    def _add_heads(self, network):
        super()._add_heads(network)
        self.num_classes, self.head, self.class_names = network.num_classes, None, None
        if self.num_classes:
            self.head = keras.layers.Dense(
                self.num_classes, kernel_initializer=draw(), name="head", dtype=self.dtype_policy
            )

    def _heads(self):
        heads = super()._heads()
        return heads if self.head is None else [*heads, (self.head, self.dims[-1])]


def _options_of(file) -> dict:
    """The options of a network with a checkpoint's parameters."""
    network = file.network
    options = {"in_channels": network.in_channels, "patch_size": network.patch_size}
    if network.version == 1 and not any(name.endswith(".gamma") for name in file.state):
        options["layer_scale_init_value"] = None
    if network.variant:
        return {**options, "arch": network.variant}
    arch = {"depths": [*network.depths], "dims": [*network.dims]}
    return {**options, "arch": arch, "version": network.version}
