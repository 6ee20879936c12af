"""Networks prepared for inference: folded, in the fastest dtype and layout, and no longer trained.

    fast = prepare_for_inference(model)                # a backbone, a classifier
    fast = prepare_for_inference(detector)             # the backbone inside a framework's model
    fast = prepare_for_inference(model, compile=True)  # needs a C++ compiler on a CPU

What is folded, all exact but for rounding: LayerNorm's affine into the layer behind it, layer scale
into the second pointwise layer, GRN's beta into its bias. Output norms and heads stay as they are.
"""

import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from ..errors import UserError
from ..kernels import cpp, processor
from ..kernels.dispatch import changed, watched, written_down
from ..kernels.grn import ROWS, energy, fast_energy, grn_scale
from ..kernels.linear import fuses, linear_add, linear_add_each, linear_gelu
from .classifier import ConvNeXtClassifier
from .convnext import (
    Block,
    ConvNeXt,
    ConvNeXtV2,
    Downsample,
    Stage,
    Stem,
    Trunk,
    through,
)
from .padding import Sizes


def prepare_for_inference(
    model: nn.Module,
    dtype: torch.dtype | None = None,
    *,
    compile: bool = False,
    capture: bool = False,
) -> nn.Module:
    """A copy of the model for inference alone, called as the original, which stays as it is.

    Args:
        model: a backbone, a classifier, or any model that holds one; of that model everything else
            is copied without change.
        dtype: of the arithmetic inside the network. None: bfloat16 where the processor computes in
            it (a CPU with AMX-BF16 or AVX512-BF16, a GPU from Ampere on), else the model's own.
            Images are taken and maps given in the model's own dtype all the same.
        compile: on an x86 CPU, in float32 with AVX2 and in bfloat16 with AVX512-BF16, build kernels with
            the system's C++ compiler (once: they are cached) and use them; elsewhere, torch.compile,
            with any image size.
        capture: on a GPU, record a CUDA graph for each shape of images, and replay it from then on.

    Blocks and stages with hooks, or with a part that was replaced, are computed as they were. Where
    image sizes are given (padding ignored), the folded steps run with masks, not compiled.

    The copy can be copied, pickled, and saved whole: torch.save(fast, path) and
    torch.load(path, weights_only=False), which executes what a file says: read only your own.

    Raises:
        UserError: a model without a ConvNeXt, or one already prepared; a dtype that is not floating;
            capture without a GPU.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"prepare_for_inference takes a model (torch.nn.Module), got a {type(model).__name__}"
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(
            f"dtype must be a floating-point type such as torch.bfloat16, or None to choose one, "
            f"got {dtype!r}"
        )
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    if not trunks:
        raise UserError(
            f"this {type(model).__name__} holds no ConvNeXt of convnext_backbones; give the "
            "backbone, the classifier, or a model built with one of them"
        )
    if any(isinstance(trunk, _Prepared) for trunk in trunks):
        raise UserError("this model is prepared already; prepare the original again instead")
    if capture and any(_device(trunk).type != "cuda" for trunk in trunks):
        raise UserError(
            "capture=True records CUDA graphs, and this model is not on a GPU; leave it"
        )

    with torch.no_grad():
        model = copy.deepcopy(model).eval().requires_grad_(False)
        for module in list(model.modules()):
            if isinstance(module, Trunk):
                _prepare(module, dtype or fastest_dtype(module), compile, capture)
    return model


def fastest_dtype(module: nn.Module) -> torch.dtype:
    """bfloat16 where the module's device has instructions for it, else the module's own dtype."""
    device = _device(module)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        fast = processor.computes_in_bfloat16()
    else:
        fast = False
    return torch.bfloat16 if fast else next(module.parameters()).dtype


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


# ---- the network


def _prepare(trunk: Trunk, dtype: torch.dtype, compile: bool, capture: bool) -> None:
    """Make a trunk in evaluation mode, whose parameters need no gradients, a prepared one."""
    first = trunk.first_layer()
    channels = None if first is None else first.in_channels
    weight = next(trunk.parameters()) if first is None else first.weight
    family = None
    if compile and weight.device.type == "cpu":
        family, reason = cpp.choice(dtype)
        _say_left_out(reason)
    plan = _Plan(channels, weight.dtype, dtype, compile, family, capture)
    _prepare_layers(trunk, plan)
    trunk.__class__ = prepared_class(type(trunk))
    trunk._begin(plan)


class _Plan(NamedTuple):
    """What a prepared network takes, and how it computes."""

    in_channels: int | None  # of the stem's convolution, if it has one
    outside: torch.dtype  # of the images that it takes and the maps that it gives
    dtype: torch.dtype  # of the arithmetic
    compile: bool
    family: str | None  # compile means these kernels for CPUs, not torch.compile
    capture: bool

    def checked(self) -> "_Plan":
        """Without the kernels where this machine cannot run them, with a warning."""
        if self.family is None or (reason := cpp.why_not(self.family)) is None:
            return self
        _say_left_out(reason)
        return self._replace(family=None)


def _say_left_out(reason: str | None) -> None:
    if reason is not None:
        warnings.warn(
            f"the kernels for CPUs are left out, torch.compile used: {reason}", stacklevel=4
        )


def _prepare_layers(trunk: Trunk, plan: _Plan) -> None:
    """Put the prepared layers in the place of the standard ones, and the others into a _Plain."""
    for i, layer in enumerate(trunk.downsample_layers):
        if not _is_standard(layer):
            trunk.downsample_layers[i] = _Plain(layer, plan)
        elif i == 0:
            trunk.downsample_layers[i] = _Stem(layer, plan.dtype, family=plan.family)
        else:
            trunk.downsample_layers[i] = _Downsample(layer, plan.dtype, family=plan.family)
    for i, stage in enumerate(trunk.stages):
        if type(stage) is not Stage or changed(stage):
            trunk.stages[i] = _Plain(stage, plan)
            continue
        for j, block in enumerate(stage):
            if _is_standard(block):
                stage[j] = PreparedBlock(block, plan.dtype, family=plan.family)
            else:
                stage[j] = _Plain(block, plan)


def _is_standard(module: nn.Module) -> bool:
    """Is it a stem, downsampling or block as this package builds it, with nothing hooked?"""
    try:
        with torch.device("meta"):
            reference = _fresh(module)
    except (AttributeError, TypeError, ValueError):  # of parts that the standard ones lack
        return False
    for part, standard in itertools.zip_longest(module.modules(), reference.modules()):
        if type(part) is not type(standard) or part.extra_repr() != standard.extra_repr():
            return False
        if changed(part):
            return False
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return (
        {name: t.shape for name, t in tensors}
        == {name: t.shape for name, t in reference.named_parameters()}
        and all(type(t) in (nn.Parameter, Tensor) for _, t in tensors)
        and len({(t.dtype, t.device) for _, t in tensors}) == 1
    )


def _fresh(module: nn.Module) -> nn.Module:
    """The stem, downsampling or block that has this one's options."""
    if type(module) is Block:
        return Block(
            module.dwconv.in_channels,
            version=1 if module.grn is None else 2,
            drop_path_rate=module.drop_path.rate,
            layer_scale_init_value=None if module.gamma is None else 1.0,
            dilation=module.dwconv.dilation[0],
        )
    if type(module) is Downsample:
        _, conv = module
        stride, dilation = conv.stride[0], conv.dilation[0]
        return Downsample(conv.in_channels, conv.out_channels, stride=stride, dilation=dilation)
    if type(module) is Stem:
        conv, _ = module
        return Stem(conv.in_channels, conv.out_channels, patch_size=conv.stride[0])
    raise TypeError(f"no layer of this package: {type(module).__name__}")


class _Prepared:
    """What a prepared backbone or classifier does in another way than its class."""

    def _begin(self, plan: _Plan) -> None:
        self._plan = plan
        run = self._unmasked_maps
        if plan.compile and plan.family is None:
            options = {"freezing": True} if _device(self).type == "cpu" else None
            run = torch.compile(run, dynamic=True, options=options)
        self._run = _Graphs(run) if plan.capture else run

    def __getstate__(self) -> dict:
        return {name: value for name, value in super().__getstate__().items() if name != "_run"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._begin(self._plan.checked())  # compiled and recorded again when called

    def stage_maps(
        self, images: Tensor, image_sizes: Sizes | None = None, *, count: int | None = None
    ) -> Sequence[Tensor]:
        """As Trunk's; the maps come in the dtype that the model had, and all stages are computed."""
        if isinstance(images, Proxy):
            raise UserError(
                "torch.fx cannot trace a model prepared for inference, whose steps depend on the "
                "images; trace the original, or use torch.jit.trace"
            )
        channels, outside, dtype, *_ = self._plan
        in_arithmetic = isinstance(images, Tensor) and images.dtype == dtype
        if channels is not None:
            self._check_images(images, channels, dtype if in_arithmetic else outside)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if image_sizes is None:
                maps = self._run(images)
            else:
                maps = self._maps(images, self._masks(images, image_sizes))
        return _InDtype(maps if count is None else maps[: count + 1], outside)

    def _unmasked_maps(self, x: Tensor) -> list[Tensor]:
        return self._maps(x, [None] * len(self.stages))

    def train(self, mode: bool = True):
        if mode:
            raise UserError(
                "a model prepared for inference cannot be trained; train the original, and prepare "
                "it again"
            )
        return nn.Module.train(self, False)

    def requires_grad_(self, requires_grad: bool = True):
        return self.train(requires_grad)

    def load_state_dict(self, *args, **kwargs):
        raise UserError(
            "a model prepared for inference takes no state dict, as its weights are folded; load it "
            "into the original, and prepare that"
        )

    def _load_from_state_dict(self, *args, **kwargs):  # what a model around this one calls
        self.load_state_dict()

    def reset_parameters(self):
        raise UserError(
            "a model prepared for inference has no initial values, as its weights are folded; reset "
            "the original, and prepare that"
        )


class PreparedConvNeXt(_Prepared, ConvNeXt):
    """A ConvNeXt as prepare_for_inference gives it."""


class PreparedConvNeXtV2(_Prepared, ConvNeXtV2):
    """A ConvNeXtV2 as prepare_for_inference gives it."""


class PreparedConvNeXtClassifier(_Prepared, ConvNeXtClassifier):
    """A ConvNeXtClassifier as prepare_for_inference gives it."""


@functools.cache
def prepared_class(kind: type[Trunk]) -> type[Trunk]:
    """The prepared class of a class of networks: one of those above, or one made for a subclass.

    An object of a class made here is pickled by the name of the original class.
    """
    for prepared in (PreparedConvNeXt, PreparedConvNeXtV2, PreparedConvNeXtClassifier):
        if prepared.__bases__[1] is kind:
            return prepared

    def reduce(self):
        return _empty, (kind,), self.__getstate__()

    return type(
        f"Prepared{kind.__name__}",
        (_Prepared, kind),
        {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": reduce},
    )


def _empty(kind: type[Trunk]) -> Trunk:
    """An object of the prepared class without its state, which the pickle goes on to fill in."""
    prepared = prepared_class(kind)
    return prepared.__new__(prepared)


class _InDtype(Sequence):
    """Maps, each converted when it is asked for."""

    def __init__(self, maps: Sequence[Tensor], dtype: torch.dtype):
        self.maps, self.dtype = maps, dtype

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, i: int) -> Tensor:
        return self.maps[i].to(self.dtype)

    def __iter__(self) -> Iterator[Tensor]:
        return (x.to(self.dtype) for x in self.maps)


class _Graphs:
    """A function of one tensor on a GPU as CUDA graphs, one for each shape it met."""

    def __init__(self, function: Callable[[Tensor], list[Tensor]]):
        self.function = function
        self.recorded = {}

    def __call__(self, x: Tensor) -> list[Tensor]:
        key = (x.device, tuple(x.shape))
        if key not in self.recorded:
            self.recorded[key] = self._record(x)
        graph, taken, given = self.recorded[key]
        taken.copy_(x)
        graph.replay()
        return [y.clone() for y in given]  # the next replay writes over what this one gave

    def _record(self, x: Tensor):
        taken = x.clone()
        aside = torch.cuda.Stream(x.device)
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):  # compiled, tuned and loaded before the recording
            for _ in range(3):
                self.function(taken)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            given = self.function(taken)
        return graph, taken, given


# ---- its layers


class _Plain(nn.Module):
    """A module as it was, in its own dtype, in the midst of prepared ones."""

    def __init__(self, module: nn.Module, plan: _Plan):
        super().__init__()
        self.module = module
        self.dtype, self.outside = plan.dtype, plan.outside

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        x = x.to(self.outside).contiguous(memory_format=torch.channels_last)
        return through(self.module, x, inside).to(self.dtype)


class _Stem(nn.Module):
    def __init__(self, stem: Stem, dtype: torch.dtype, *, family: str | None):
        super().__init__()
        self.conv, self.norm = stem
        self.kernel = None
        if family:
            self.kernel = cpp.CppStem(
                family, self.conv.weight, self.conv.bias, self.norm.weight, self.norm.bias,
                eps=self.norm.eps,
            )  # fmt: skip
        self.conv = self.conv.to(dtype=dtype, memory_format=torch.channels_last)
        self.norm = self.norm.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        if self.kernel is not None and self.kernel.takes(images):
            return self.kernel(images)
        x = images.to(self.conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        return self.norm(self.conv(x))


class _Downsample(nn.Module):
    """Downsample with LayerNorm's affine in the convolution, where it pads no zeros before it."""

    def __init__(self, layer: Downsample, dtype: torch.dtype, *, family: str | None):
        super().__init__()
        norm, conv = layer
        self.pad, self.eps = layer.pad, norm.eps
        self.stride, self.dilation = conv.stride, conv.dilation
        weight, bias = conv.weight.double(), conv.bias.double()
        if self.pad:
            self.register_buffer("norm_weight", norm.weight.to(dtype))
            self.register_buffer("norm_bias", norm.bias.to(dtype))
        else:
            self.norm_weight = self.norm_bias = None
            bias = bias + weight.sum((2, 3)) @ norm.bias.double()
            weight = weight * norm.weight.double()[:, None, None]
        self.kernel = None
        if family and not self.pad and self.stride == (2, 2):
            self.kernel = cpp.CppDownsample(family, weight, bias, eps=self.eps)
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        if self.kernel is not None and self.kernel.takes(x):  # stride 2 sees no padding
            return self.kernel(x)
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC
        x = F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, self.eps)
        x = x.permute(0, 3, 1, 2)  # NHWC -> NCHW
        if self.pad:
            if inside is not None:
                x = x * inside[:, None]
            x = F.pad(x, (0, self.pad, 0, self.pad))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation)


class PreparedBlock(nn.Module):
    """Block with what folds folded, and GRN's factor in the second weight of each image."""

    def __init__(self, block: Block, dtype: torch.dtype, *, family: str | None = None):
        super().__init__()
        self.channels = block.norm.normalized_shape[0]
        self.dilation, self.padding = block.dwconv.dilation, block.dwconv.padding
        self.eps = block.norm.eps
        self.grn_eps = block.grn.eps if block.grn is not None else None
        weight1, bias1 = block.pwconv1.weight.double(), block.pwconv1.bias.double()
        weight2, bias2 = block.pwconv2.weight.double(), block.pwconv2.bias.double()
        bias1 = bias1 + weight1 @ block.norm.bias.double()
        weight1 = weight1 * block.norm.weight.double()
        grn_gamma = None
        if block.grn is not None:
            grn_gamma = block.grn.gamma
            bias2 = bias2 + weight2 @ block.grn.beta.double()
        if block.gamma is not None:
            weight2 = weight2 * block.gamma.double()[:, None]
            bias2 = bias2 * block.gamma.double()
        wide = torch.promote_types(dtype, torch.float32)
        depthwise = block.dwconv.weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.register_buffer("depthwise", depthwise)
        self.register_buffer("depthwise_bias", block.dwconv.bias.to(dtype))
        self.register_buffer("weight1", weight1.to(dtype))
        self.register_buffer("bias1", bias1.to(dtype))
        # In float32 beside GRN, so that the product with its factor is rounded once.
        self.register_buffer("weight2", weight2.to(dtype if grn_gamma is None else wide))
        self.register_buffer("bias2", bias2.to(dtype))
        self.register_buffer("grn_gamma", None if grn_gamma is None else grn_gamma.to(wide))
        self.kernel = None
        if family and self.channels % 8 == 0:
            self.kernel = cpp.CppBlock(
                family, block.dwconv.weight, block.dwconv.bias, weight1, bias1, weight2, bias2,
                grn_gamma, dilation=self.dilation[0], eps=self.eps, grn_eps=self.grn_eps or 0.0,
            )  # fmt: skip

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        if self.kernel is not None and inside is None and self.kernel.takes(x):
            return self.kernel(x)
        seen = x if inside is None else x * inside[:, None]
        y = F.conv2d(
            seen, self.depthwise, self.depthwise_bias, 1, self.padding, self.dilation, self.channels
        )
        y = y.permute(0, 2, 3, 1)  # NCHW -> NHWC
        y = F.layer_norm(y, y.shape[-1:], None, None, self.eps)
        if fuses(y) and not watched():
            return self._fused(y, inside, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = F.gelu(F.linear(y, self.weight1, self.bias1))
        if self.grn_gamma is None:
            y = F.linear(y, self.weight2, self.bias2)
        else:
            weight = self._weights(y, inside)
            if len(y) == 1 and not torch.jit.is_tracing():
                y = F.linear(y, weight[0], self.bias2)
            else:
                tokens = y.flatten(1, 2)
                y = torch.baddbmm(self.bias2, tokens, weight.transpose(1, 2)).view(
                    *y.shape[:3], self.channels
                )
        return y.permute(0, 3, 1, 2) + x  # NHWC -> NCHW

    def _fused(self, y: Tensor, inside: Tensor | None, shortcut: Tensor) -> Tensor:
        """The same behind LayerNorm, (N, H, W, C), with GELU and the residual sum in the products."""
        y = linear_gelu(y, self.weight1, self.bias1)
        if self.grn_gamma is None:
            return linear_add(y, self.weight2, self.bias2, shortcut)
        return linear_add_each(y, self._weights(y, inside), self.bias2, shortcut)

    def _weights(self, y: Tensor, inside: Tensor | None) -> Tensor:
        """The second weight of each image, (N, C, 4C)."""
        return (self.weight2 * self._scale(y, inside)[:, None]).to(y.dtype)

    def _scale(self, y: Tensor, inside: Tensor | None) -> Tensor:
        """GRN's factors (N, 4C) for its input (N, H, W, 4C)."""
        tokens = y.flatten(1, 2)
        if inside is not None:
            tokens = tokens * inside.flatten(1)[..., None]
        pieces = [tokens]
        if y.is_cuda and not written_down():
            return grn_scale(fast_energy(tokens), self.grn_gamma, self.grn_eps)[0]
        if y.device.type == "cpu" and not written_down():
            pieces = tokens.split(ROWS, dim=1)  # their squares stay in the cache
        return grn_scale(sum(map(energy, pieces)), self.grn_gamma, self.grn_eps)[0]
