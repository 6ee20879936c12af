"""ConvNeXtModel, ConvNeXtForImageClassification and ConvNeXtBackbone: our networks with the faces of
transformers' ConvNextModel, ConvNextV2Model and their classifiers and backbones.

Nothing is computed here: `network` is the core's, and saved files hold the official names below it.
"""

import torch
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
from ...network.convnext import ConvNeXt, ConvNeXtV2, init_weights
from ...network.variants import nearest
from .configuration import ConvNeXtConfig, own_config
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

    def _init_weights(self, module: nn.Module) -> None:
        # transformers calls it for every layer that has no weights yet
        init_weights(module, self.config.initializer_range)

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs) -> None:
        for module in self.modules():
            if isinstance(module, (ConvNeXt, ConvNeXtClassifier)):
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


class ConvNeXtModel(ConvNeXtPreTrainedModel):
    """As transformers' ConvNextModel (version=1) and ConvNextV2Model (version=2): the maps, and the last
    one's mean after the final norm."""

    def __init__(self, config, **unknown):
        super().__init__(config, **unknown)
        options = classifier_options(self.config.network_values())
        options |= {"num_classes": 0, "output_stride": self.config.output_stride}
        self.network = ConvNeXtClassifier(**options)
        self.post_init()

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

    def whole_network(self):
        return self.network, "network.{}".format


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
            self._check_labels(labels, logits)
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states
        )

    def whole_network(self):
        network = self.convnext.network
        network.head = self.classifier
        return (
            network,
            lambda name: (
                f"classifier.{name[5:]}" if name.startswith("head.") else f"convnext.network.{name}"
            ),
        )

    def _check_labels(self, labels: Tensor, logits: Tensor) -> None:
        if not isinstance(labels, Tensor):
            raise UserError(
                f"labels must be a tensor, got a {type(labels).__name__}; write torch.tensor(labels)"
            )
        if self.config.num_labels == 0:
            raise UserError(
                "labels were given, and the classifier has no head (num_labels=0); give num_labels"
            )
        count, of_image = self.config.num_labels, tuple(logits.shape)
        whole = labels.dtype in (torch.long, torch.int)
        kind = self.config.problem_type or (
            "regression" if count == 1 else "single_label_classification" if whole else
            "multi_label_classification"
        )  # fmt: skip
        fits, expected = {
            "regression": (
                labels.is_floating_point() and labels.numel() == logits.numel(),
                f"{'x'.join(map(str, of_image))} floats",
            ),
            "single_label_classification": (
                labels.dtype == torch.long and labels.numel() == of_image[0],
                f"{of_image[0]} class numbers (int64)",
            ),
            "multi_label_classification": (
                labels.is_floating_point() and labels.shape == logits.shape,
                f"floats of shape {of_image}",
            ),
        }[kind]
        if not fits:
            raise UserError(
                f"the labels of {kind} are {expected}, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}; change them, or config.problem_type={self.config.problem_type!r}"
            )


class ConvNeXtBackbone(BackboneMixin, ConvNeXtPreTrainedModel):
    """As transformers' ConvNextBackbone and ConvNextV2Backbone, for the detectors and segmentors that take a
    `backbone_config`. Stages after the last selected one are not built, so that every parameter has a
    gradient; hidden_states end with it, too."""

    has_attentions = False

    def __init__(self, config, **unknown):
        super().__init__(config, **unknown)
        values = self.config.network_values(out_features=self.config.out_features)
        network = ConvNeXtV2 if self.config.version == 2 else ConvNeXt
        self.network = network(**backbone_options(values), output_stride=self.config.output_stride)
        self.num_features = [self.config.hidden_sizes[0], *self.config.hidden_sizes]
        self.post_init()

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

    def whole_network(self):
        return self.network, "network.{}".format
