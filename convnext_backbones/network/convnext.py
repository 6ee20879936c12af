"""ConvNeXt and ConvNeXt V2, to be read beside the papers.

    ConvNeXt     "A ConvNet for the 2020s", arXiv:2201.03545
    ConvNeXt V2  "Co-designing and Scaling ConvNets with Masked Autoencoders", arXiv:2301.00808

N is the batch, C the channels, H and W the height and width of a map. Every map has NCHW shape and
lies channels-last in memory, so that the permutes around the pointwise layers copy nothing.

Parameter names and shapes are the official ones. Departure: grn.gamma and grn.beta are (4C,), not
(1, 1, 1, 4C), so that every optimizer's "no weight decay on 1-D parameters" rule holds for them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.fx import Proxy
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..kernels import dispatch
from ..kernels.depthwise import in_its_layout
from ..kernels.grn import wide_dtype
from ..kernels.steps import Inside, mask_of, norm_is_wide
from .activations import ACTIVATIONS, check_activation
from .geometry import drop_path_rates, strides_and_dilations
from .padding import Sizes, inside_masks
from .refusals import (
    check_frozen_stages,
    check_images,
    check_options,
    check_takes_mask,
    refuse_in_graph,
    refuse_unknown_options,
)
from .selection import feature_names, select_features
from .variants import resolve_arch

EPS = 1e-6  # of every LayerNorm and GRN
INIT_STD = 0.02  # of the initial weights of convolutions and linear layers

# One step each of a traced graph, which does not know its tensors' types.
torch.fx.wrap("wide_dtype")
torch.fx.wrap("in_its_layout")


@torch.fx.wrap
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension of x.

    On a CPU, torch sums the gradients of weight and bias in the data type of x. In bfloat16 they come to
    rest after a few hundred positions: half of a gradient is lost at 320x320 pixels. So x is float32 there.
    """
    if norm_is_wide(x) and torch.is_grad_enabled():
        y = F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps)
        return y.to(x.dtype)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of an (N, H, W, C) map."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class LayerNorm2d(LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC
        x = super().forward(x)
        return x.permute(0, 3, 1, 2)  # NHWC -> NCHW


class GRN(nn.Module):
    """Global response normalisation of an (N, H, W, C) map (V2 paper, section 4).

    Each channel is scaled by its spatial L2 norm relative to the mean norm of all channels. The
    norms are computed in float32 at least: in float16 they overflow from |x| = 300 on. Given
    `inside`, (N, H, W), they are those of its True positions.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))
        self.beta = nn.Parameter(torch.empty(dim))
        self.eps = EPS  # an attribute: torch.compile cannot lift a global float into a checkpoint
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        energy = x.to(wide_dtype(x)).square()
        if inside is not None:
            energy = energy * inside[..., None]
        energy = energy.sum(dim=(1, 2), keepdim=True)
        norm = energy.clamp_min(1e-30).sqrt()  # the clamp keeps the gradient of an all-zero map 0
        relative = norm / (norm.mean(dim=-1, keepdim=True) + self.eps)  # (N, 1, 1, C)
        scale = 1 + self.gamma * relative  # gamma * (x * relative) + beta + x, in one multiply
        return x * scale.to(x.dtype) + self.beta.to(x.dtype)


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, whose weight's gradient lies in memory as the weight does."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, in_its_layout(weight), bias)


class DropPath(nn.Module):
    """Stochastic depth: in training, zero a residual branch for a whole sample (arXiv:1603.09382).

    Kept samples are divided by the keep probability, so that the expectation stays.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor(x)
        return x if factor is None else x * factor

    def factor(self, x: Tensor) -> Tensor | None:
        """(N, 1, 1, 1), what each sample's branch is multiplied by; None where that is 1."""
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep)
        return mask / keep if keep > 0.0 else mask

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, pointwise C -> 4C, GELU, [V2: GRN], pointwise 4C -> C, residual.

    V1 scales the branch by gamma (layer scale, arXiv:2103.17239); V2 has GRN instead. The
    depthwise convolution sees zeros where `inside`, (N, H, W), is False, as it does beyond the map.
    Of a masked autoencoder's Visible the fast paths compute the visible positions alone.
    """

    parts = dispatch.standard_parts(  # which a fast path takes as they are here, and no others
        dwconv=DepthwiseConv2d,
        norm=LayerNorm,
        pwconv1=nn.Linear,
        act=nn.GELU,
        grn=GRN,
        pwconv2=nn.Linear,
        drop_path=DropPath,
    )

    def __init__(
        self,
        dim: int,
        *,
        version: int,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        dilation: int = 1,
        activation: str = "gelu",
    ):
        super().__init__()
        self.dwconv = DepthwiseConv2d(
            dim, dim, kernel_size=7, padding=3 * dilation, dilation=dilation, groups=dim
        )
        self.norm = LayerNorm(dim, eps=EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = ACTIVATIONS[activation]()
        self.grn = GRN(4 * dim) if version == 2 else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        scaled = version == 1 and layer_scale_init_value is not None and layer_scale_init_value > 0
        self.gamma = nn.Parameter(torch.empty(dim)) if scaled else None
        self.layer_scale_init_value = layer_scale_init_value
        self.drop_path = DropPath(drop_path_rate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set layer scale to its initial value; the parts have a reset_parameters of their own."""
        if self.gamma is not None:
            nn.init.constant_(self.gamma, self.layer_scale_init_value)

    def forward(self, x: Tensor, inside: Inside = None) -> Tensor:
        fast = dispatch.run(self, x, inside)  # the steps below in another arrangement, faster
        if fast is not None:
            return fast
        shortcut, inside = x, mask_of(inside)
        if inside is not None:
            x = x * inside[:, None]
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC
        x = self.norm(x)
        x = self.pwconv1(x)
        x = self.act(x)
        if self.grn is not None:
            x = self.grn(x, inside)
        x = self.pwconv2(x)
        if self.gamma is not None:
            x = self.gamma * x
        x = x.permute(0, 3, 1, 2)  # NHWC -> NCHW
        return self.drop_path(x) + shortcut  # in this order the sum stays channels-last


class Stem(nn.Sequential):
    """Images to a map: a convolution of patches that do not overlap, and LayerNorm."""

    def __init__(self, in_channels: int, dim: int, *, patch_size: int):
        super().__init__(
            nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size),
            LayerNorm2d(dim, eps=EPS),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 2, 3, 1).contiguous()  # channels-last, as all maps after it
        return super().forward(x.permute(0, 3, 1, 2))  # in steps that torch.func.vmap knows


class Downsample(nn.Sequential):
    """LayerNorm and a 2x2 convolution of stride 2, between two stages.

    With stride 1 (output_stride), the map is padded right and below, so that position (i, j) sees
    what it would see with stride 2; dilation makes up for strides left out before. It sees
    zeros there, as where `inside`, (N, H, W), is False. With stride 2, no position in an image sees
    beyond it.
    """

    def __init__(self, in_dim: int, out_dim: int, *, stride: int = 2, dilation: int = 1):
        super().__init__(
            LayerNorm2d(in_dim, eps=EPS),
            nn.Conv2d(in_dim, out_dim, kernel_size=2, stride=stride, dilation=dilation),
        )
        self.pad = dilation if stride == 1 else 0

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        x = self[0](x)
        if self.pad:
            if inside is not None:
                x = x * inside[:, None]
            x = F.pad(x, (0, self.pad, 0, self.pad))
        return self[1](x)


class Stage(nn.Sequential):
    """Blocks one after another, between two changes of resolution.

    with_cp: in training, recompute each block in the backward pass instead of keeping its
    activations.
    """

    with_cp = False

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        for block in self:
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(through, block, x, inside, use_reentrant=False)
            else:
                x = through(block, x, inside)
        return x


def through(layer: nn.Module, x: Tensor, inside: Tensor | None) -> Tensor:
    """layer(x), or layer(x, inside) where images are padded.

    So that any module that takes a map can stand in the place of one of ours. With padded images
    it must take the mask too, or be nn.Identity.
    """
    if inside is None or isinstance(layer, nn.Identity):
        return layer(x)
    check_takes_mask(layer)
    return layer(x, inside)


class Trunk(nn.Module):
    """The stem and the first `num_built` stages: what the backbones and the classifier share."""

    def __init__(
        self,
        depths: tuple[int, ...],
        dims: tuple[int, ...],
        *,
        version: int,
        num_built: int,
        in_channels: int,
        patch_size: int,
        output_stride: int | None,
        drop_path_rate: float,
        layer_scale_init_value: float | None,
        activation: str,
        init_std: float,
        with_cp: bool,
    ):
        super().__init__()
        check_options(in_channels, patch_size, drop_path_rate, layer_scale_init_value, init_std)
        check_activation(activation)
        strides, dilations = strides_and_dilations(len(depths), patch_size, output_stride)
        rates = drop_path_rates(drop_path_rate, depths)  # over all stages, built or not
        self.depths, self.dims, self.version = depths, dims, version
        self.activation, self.init_std = activation, init_std
        self.feature_strides = (patch_size, *strides)  # of the stem and of every stage

        stem = Stem(in_channels, dims[0], patch_size=patch_size)
        self.downsample_layers = nn.ModuleList([stem])
        self.stages = nn.ModuleList()
        for i in range(num_built):
            if i > 0:
                stride = strides[i] // strides[i - 1]
                self.downsample_layers.append(
                    Downsample(dims[i - 1], dims[i], stride=stride, dilation=dilations[i - 1])
                )
            blocks = [
                Block(
                    dims[i],
                    version=version,
                    drop_path_rate=rate,
                    layer_scale_init_value=layer_scale_init_value,
                    dilation=dilations[i],
                    activation=activation,
                )
                for rate in rates[i]
            ]
            self.stages.append(Stage(*blocks))
        self.with_cp = with_cp
        self.apply(self._init_weights)

    @property
    def with_cp(self) -> bool:
        """Recompute each block in the backward pass; can be set at any time."""
        return self._with_cp

    @with_cp.setter
    def with_cp(self, with_cp: bool) -> None:
        self._with_cp = with_cp
        for stage in self.stages:
            stage.with_cp = with_cp

    def reset_parameters(self) -> None:
        """Draw all initial values again, or for the first time after to_empty(): see init_weights."""
        self.apply(self._init_weights)

    def _init_weights(self, layer: nn.Module) -> None:
        init_weights(layer, self.init_std)

    def stage_maps(
        self, images: Tensor, image_sizes: Sizes | None = None, *, count: int | None = None
    ) -> list[Tensor]:
        """(N, in_channels, H, W) images to the maps of the stem and of every built stage, or of the
        first `count`."""
        if isinstance(image_sizes, Proxy):  # torch.fx traces arguments that were left out, too
            images, image_sizes = refuse_in_graph(images, "image_sizes", image_sizes), None
        if (first := self.first_layer()) is not None:
            self._check_images(images, first.in_channels, first.weight.dtype)
        return self._maps(images, self._masks(images, image_sizes)[:count])

    def first_layer(self) -> nn.Conv2d | None:
        """The stem's convolution, in whatever wraps it; None where another kind of layer replaces it."""
        layers = self.downsample_layers[0].modules()
        return next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)

    def _check_images(self, images: Tensor, channels: int, dtype: torch.dtype) -> None:
        check_images(images, channels, dtype, smallest=self.feature_strides[len(self.stages)])

    def _masks(self, images: Tensor, image_sizes: Sizes | None) -> list[Tensor | None]:
        return inside_masks(images, image_sizes, self.feature_strides[1 : len(self.stages) + 1])

    def _maps(self, images: Tensor, masks: list[Tensor | None]) -> list[Tensor]:
        x = self.downsample_layers[0](images)
        maps = [x]
        for i, (stage, inside) in enumerate(zip(self.stages, masks, strict=False)):
            if i > 0:
                x = through(self.downsample_layers[i], x, inside)
            x = through(stage, x, inside)
            maps.append(x)
        return maps


class ConvNeXt(Trunk):
    """ConvNeXt as a backbone: images to a tuple of feature maps.

    Args:
        arch: a size, "atto" to "xlarge", or dict(depths=..., dims=...) with any number of stages.
        in_channels: channels of the images.
        patch_size: kernel and stride of the stem, in pixels.
        out_features: names out of "stem", "stage1".."stageN", in network order.
        out_indices: stage indices instead; 0 is stage1, negative ones count from the end.
            Neither given: the last stage. Both given: they must agree.
        drop_path_rate: stochastic depth rate of the last block; grows linearly from 0.
        layer_scale_init_value: initial layer scale; 0 or None for none. V2 has none and ignores it.
        activation: of the blocks, a name of activations.ACTIVATIONS; only "gelu" has fast paths.
        init_std: standard deviation of the initial weights.
        output_norm: give each selected feature a LayerNorm of its own (norm_stem, norm0, norm1..).
        output_stride: cap the stride (8, 16 or 32) by dilating the later stages, same weights.
        frozen_stages: k > 0 freezes the stem and the first k stages with their downsampling and
            output norms, in every mode.
        with_cp: recompute each block in the backward pass instead of keeping its activations.

    Attributes:
        out_features, out_indices, channels, strides: of the returned maps, in order; they follow
            from the selection and cannot be set. out_indices holds None for the stem.

    Stages after the last selected one are not built, so that every parameter has a gradient.
    Source of network and initialisation: facebookresearch/ConvNeXt, models/convnext.py.
    """

    version = 1

    def __init__(
        self,
        arch: str | dict = "tiny",
        *,
        in_channels: int = 3,
        patch_size: int = 4,
        out_features: list[str] | tuple[str, ...] | None = None,
        out_indices: list[int] | tuple[int, ...] | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        activation: str = "gelu",
        init_std: float = INIT_STD,
        output_norm: bool = True,
        output_stride: int | None = None,
        frozen_stages: int = 0,
        with_cp: bool = False,
        **unknown,
    ):
        refuse_unknown_options(type(self).__name__, unknown, ConvNeXt.__init__)
        version = type(self).version
        depths, dims = resolve_arch(arch, version)
        names = feature_names(len(depths))
        selected = select_features(len(depths), out_features, out_indices)
        positions = [names.index(name) for name in selected]  # 0 is the stem
        super().__init__(
            depths,
            dims,
            version=version,
            num_built=positions[-1],
            in_channels=in_channels,
            patch_size=patch_size,
            output_stride=output_stride,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            activation=activation,
            init_std=init_std,
            with_cp=with_cp,
        )
        self._positions = tuple(positions)
        if output_norm:
            for position, channels in zip(positions, self.channels, strict=True):
                self.add_module(_norm_name(position), LayerNorm2d(channels, eps=EPS))
        self.output_norm = output_norm
        check_frozen_stages(frozen_stages, len(depths))
        self.frozen_stages = frozen_stages
        self._freeze()

    @property
    def out_features(self) -> tuple[str, ...]:
        names = feature_names(len(self.depths))
        return tuple(names[p] for p in self._positions)

    @property
    def out_indices(self) -> tuple[int | None, ...]:
        return tuple(p - 1 if p > 0 else None for p in self._positions)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple((self.dims[0], *self.dims)[p] for p in self._positions)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(self.feature_strides[p] for p in self._positions)

    def forward(self, images: Tensor, image_sizes: Sizes | None = None) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) to one (N, C_i, H // s_i, W // s_i) map per selected feature.

        image_sizes: (N, 2), the height h and width w in pixels of images that were padded right and
        below. The first h // s_i rows and w // s_i columns of their maps are then those of the
        image without padding, and no part of a map depends on how far it was padded.
        """
        return self.selected(self.stage_maps(images, image_sizes))

    def selected(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Of the maps of stem and stages the selected ones, each after its own norm."""
        return tuple(self._output(position, maps[position]) for position in self._positions)

    def _output(self, position: int, x: Tensor) -> Tensor:
        return getattr(self, _norm_name(position))(x) if self.output_norm else x

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages == 0:
            return
        k = self.frozen_stages
        frozen = [*self.downsample_layers[:k], *self.stages[:k]]
        frozen += [getattr(self, _norm_name(p), None) for p in range(k + 1)]
        for module in frozen:
            if module is not None:
                module.eval()
                module.requires_grad_(False)


class ConvNeXtV2(ConvNeXt):
    """ConvNeXt V2 as a backbone: GRN in every block, no layer scale. Otherwise as ConvNeXt.

    Sizes: "atto" to "huge". Source: facebookresearch/ConvNeXt-V2, models/convnextv2.py.
    """

    version = 2


def _norm_name(position: int) -> str:
    return "norm_stem" if position == 0 else f"norm{position - 1}"


def draw_weight(weight: Tensor, std: float) -> None:
    """Set the weight of a convolution or linear layer to its initial values, of which it has none
    under torch's FakeTensorMode; trunc_normal_ would look at them."""
    if not isinstance(weight, FakeTensor):
        nn.init.trunc_normal_(weight, std=std)


def init_weights(layer: nn.Module, std: float) -> None:
    """The official initial values: all layers' but those of a classifier's head, which it scales."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        draw_weight(layer.weight, std)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, (nn.LayerNorm, nn.PReLU, GRN, Block)):
        layer.reset_parameters()
