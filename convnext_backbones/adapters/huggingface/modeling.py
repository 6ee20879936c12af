"""ConvNeXtModel, ConvNeXtForImageClassification and ConvNeXtBackbone: our networks with the faces of
transformers' ConvNextModel, ConvNextV2Model and their classifiers and backbones.

Nothing is computed here: `network` is the core's, and saved files hold the official names below it.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import (
    resolve_hidden_states_indices,
    selected_hidden_states,
)

from ...checkpoints.huggingface_config import backbone_options, classifier_options
from ...errors import OptionError, UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.convnext import ConvNeXt, ConvNeXtV2, Trunk, init_weights
from ...network.variants import nearest
from .configuration import ConvNeXtConfig, own_config
from .labels import check_labels
from .pretrained import LoadsWhole


class ConvNeXtPreTrainedModel(LoadsWhole, PreTrainedModel):
    """What the three have in common: initial values, loading, recomputing in the backward pass."""

    config_class = ConvNeXtConfig
    base_model_prefix = "convnext"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    model_tags = ["convnext_backbones"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # so that Trainer takes the loss as it is
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config, **unknown):
        if unknown:
            raise OptionError(
                f"{type(self).__name__} has no option {next(iter(unknown))!r}; it is built from a "
                f"configuration, whose fields are: {', '.join(ConvNeXtConfig.__annotations__)}"
            )
        super().__init__(own_config(config))

    @classmethod
    def core_network(cls, config: ConvNeXtConfig) -> Trunk:
        """The core's network with all that the model has of it."""
        raise NotImplementedError

    @staticmethod
    def own_name(name: str) -> str:
        """The model's name of a parameter of core_network."""
        return f"network.{name}"

    def _init_weights(self, module: nn.Module) -> None:
        # transformers calls it for every layer that has no weights yet
        init_weights(module, self.config.initializer_range)

    @property
    def gradient_checkpointing(self) -> bool:
        """What transformers sets to recompute in the backward pass, of a detector's backbone too."""
        return any(module.with_cp for module in self.modules() if isinstance(module, Trunk))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        for module in self.modules():
            if isinstance(module, Trunk):
                module.with_cp = enable

    def _hidden_states(self, maps, wanted: bool | list[int] | None):
        """All maps, None, or those of the wanted indices with None for the others."""
        wanted = self.config.output_hidden_states if wanted is None else wanted
        indices = selected_hidden_states(wanted)
        if indices is None:
            return tuple(maps) if wanted else None
        valid = range(-len(maps), len(maps))
        if any(index not in valid for index in indices):
            raise UserError(
                f"output_hidden_states={wanted!r} asks for a map that is not there: there are "
                f"{len(maps)}, from 0, the stem, to {len(maps) - 1}"
            )
        kept = resolve_hidden_states_indices(self, indices, num_hidden_states=len(maps))
        return tuple(x if i in kept else None for i, x in enumerate(maps))


def _checked(pixel_values: Tensor | None, unknown: dict) -> Tensor:
    """The images. What any model of transformers may be given, and a ConvNeXt has no use for, such as
    output_attentions, is left alone."""
    for name in unknown.keys() - TransformersKwargs.__annotations__.keys():
        raise OptionError(
            f"a ConvNeXt has no input {name!r}. "
            f"{nearest(name, ('pixel_values', 'labels', 'output_hidden_states', 'return_dict'))}"
        )
    if pixel_values is None:
        raise UserError(
            "pixel_values is missing: give the images, (N, num_channels, H, W), e.g. "
            "model(**processor(picture, return_tensors='pt'))"
        )
    return pixel_values


def _classifier(config: ConvNeXtConfig, *, num_classes: int) -> ConvNeXtClassifier:
    options = classifier_options(config.network_values())
    options |= {"num_classes": num_classes, "output_stride": config.output_stride}
    return ConvNeXtClassifier(**options)


class ConvNeXtModel(ConvNeXtPreTrainedModel):
    """As transformers' ConvNextModel (version=1) and ConvNextV2Model (version=2): the maps, and the last
    one's mean after the final norm."""

    def __init__(self, config, **unknown):
        super().__init__(config, **unknown)
        self.network = self.core_network(self.config)
        self.post_init()

    @classmethod
    def core_network(cls, config: ConvNeXtConfig) -> ConvNeXtClassifier:
        return _classifier(config, num_classes=0)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **unknown,
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """(N, num_channels, H, W) to last_hidden_state (N, C, H // 32, W // 32), pooler_output (N, C) and,
        where asked for, hidden_states: the stem's map and every stage's."""
        features = self.network.forward_features(_checked(pixel_values, unknown))
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=features.last_hidden_state,
            pooler_output=features.pooler_output,
            hidden_states=self._hidden_states(features.hidden_states, output_hidden_states),
        )


class ConvNeXtForImageClassification(ConvNeXtPreTrainedModel):
    """As transformers' ConvNextForImageClassification and ConvNextV2ForImageClassification."""

    def __init__(self, config, **unknown):
        super().__init__(config, **unknown)
        config = self.config
        self.num_labels = config.num_labels
        self.convnext = ConvNeXtModel(config)
        width = config.hidden_sizes[-1]
        self.classifier = (
            nn.Linear(width, config.num_labels) if config.num_labels else nn.Identity()
        )
        self.post_init()

    @classmethod
    def core_network(cls, config: ConvNeXtConfig) -> ConvNeXtClassifier:
        return _classifier(config, num_classes=config.num_labels)

    @staticmethod
    def own_name(name: str) -> str:
        in_head = name.startswith("head.")
        return name.replace("head.", "classifier.", 1) if in_head else f"convnext.network.{name}"

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **unknown,
    ) -> ImageClassifierOutputWithNoAttention:
        """(N, num_channels, H, W) to logits (N, num_labels), and with labels the loss of
        config.problem_type: "regression" (mean squared error, labels (N,) or (N, num_labels)),
        "single_label_classification" (cross-entropy, integers (N,)) or "multi_label_classification"
        (binary cross-entropy, floats (N, num_labels)); where it is None, transformers sets it by
        num_labels and the labels' type."""
        outputs = self.convnext(
            pixel_values, output_hidden_states=output_hidden_states, return_dict=True, **unknown
        )
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            if isinstance(self.classifier, nn.Identity):
                raise UserError(
                    "labels were given, and the classifier has no head; give num_labels"
                )
            check_labels(labels, logits, self.config.problem_type)
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states
        )


class ConvNeXtBackbone(BackboneMixin, ConvNeXtPreTrainedModel):
    """As transformers' ConvNextBackbone and ConvNextV2Backbone, for the detectors and segmentors that take a
    `backbone_config`. Stages after the last selected one are not built, so that every parameter has a
    gradient; hidden_states end with it, too."""

    has_attentions = False

    def __init__(self, config, **unknown):
        super().__init__(config, **unknown)
        self.network = self.core_network(self.config)
        self.num_features = [self.config.hidden_sizes[0], *self.config.hidden_sizes]
        self.post_init()

    @classmethod
    def core_network(cls, config: ConvNeXtConfig) -> ConvNeXt:
        options = backbone_options(config.network_values(out_features=config.out_features))
        network = ConvNeXtV2 if config.version == 2 else ConvNeXt
        return network(**options, output_stride=config.output_stride)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **unknown,
    ) -> BackboneOutput:
        """(N, num_channels, H, W) to feature_maps, one normed (N, C_i, H // s_i, W // s_i) for each of
        out_features, and where asked for hidden_states, the maps without norms."""
        images = _checked(pixel_values, unknown)
        if list(self.network.out_features) != self.config.out_features:
            raise UserError(
                f"the configuration says out_features={self.config.out_features}, and the backbone was "
                f"built with {list(self.network.out_features)}; build one with the other configuration"
            )
        wanted = (
            self.config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states
        )
        if wanted is False or wanted is None:
            return BackboneOutput(feature_maps=self.network(images))
        maps = self.network.stage_maps(images)
        return BackboneOutput(
            feature_maps=self.network.selected(maps),
            hidden_states=self._hidden_states(maps, wanted),
        )
