"""Which way a block is computed, and why not by a fast one: the same numbers, in less time and memory."""

import functools

import torch
from torch import Tensor, nn

from .block import fast_block
from .steps import Inside, Settings, Weights
from .triton import choice as triton_choice

enabled = True  # False: every block runs the plain steps of Block.forward
SMALLEST = 2**23  # N * C * C * H * W; below it a CPU spends more on more operators than it saves

NO_GELU = "the activation is not the exact GELU"

_CALL = nn.Module.__call__


def why_not(block: nn.Module, x: Tensor) -> str | None:
    """Why block(x) runs the plain steps of Block.forward; None where a fast path stands for them.

    The fast paths compute exactly the block that Block.__init__ builds. They stand aside where
    someone looked into or changed it, where the model is compiled, exported, traced or counted; on a
    CPU in float16, whose range is too small for weights times an initial layer scale of 1e-6; on a GPU
    where no table says that kernels pay, and, which this does not ask, where a batch is padded.
    """
    return weights_or_reason(block, x)[1]


def run(block: nn.Module, x: Tensor, inside: Inside) -> Tensor | None:
    """What block(x, inside) gives, (N, C, H, W) channels-last to the same; None: by the plain steps."""
    weights, reason = weights_or_reason(block, x)
    if reason is not None:
        return None
    padded = isinstance(inside, Tensor)
    kernels = _triton_kernels(block, x) if x.is_cuda and not padded else None
    if x.is_cuda and not kernels:
        return None
    return compute(block, x, inside, weights, kernels)


def compute(
    block: nn.Module, x: Tensor, inside: Inside, weights: Weights, kernels: dict | None
) -> Tensor:
    """As run, once that is settled: by these GPU kernels, or without any."""
    dtype = arithmetic(x)
    branch = dtype if weights.gamma is None else torch.promote_types(dtype, weights.gamma.dtype)
    keep = block.drop_path.factor(x.new_empty(len(x), 0, dtype=branch))
    settings = Settings(
        dilation=block.dwconv.dilation[0],
        norm_eps=block.norm.eps,
        grn_eps=0.0 if block.grn is None else block.grn.eps,
        dtype=dtype,
        stream=torch.promote_types(branch, x.dtype),
        kernels=kernels,
    )
    return fast_block(x, keep, inside, weights, settings)


def arithmetic(x: Tensor) -> torch.dtype:
    """The data type that convolutions and linear layers take for x: autocast's, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def weights_or_reason(block: nn.Module, x: Tensor) -> tuple[Weights | None, str | None]:
    """The block's weights, or why the fast paths stand aside. Runs at every call: cheapest first."""
    if not enabled:
        return None, "dispatch.enabled is False"
    if written_down():
        return None, "the model is being compiled, exported or traced"
    reason = _why_not_map(x)
    if reason is None and _intercepted():
        reason = "something watches or replaces the single operators: a counter, torch.func, a mode"
    if reason is not None:
        return None, reason
    for name, cls, forward in block.parts:
        part = block._modules.get(name)
        if type(part) is not cls:
            if name == "grn" and part is None and block.grn is None:
                continue
            return None, NO_GELU if name == "act" else f"{name} was replaced"
        if cls.forward is not forward:
            return None, f"{cls.__name__}.forward was replaced"
        if (what := changed(part)) is not None:
            return None, f"{name} has {what}"
    weights = _weights(block)
    reason = _why_not_weights(block, weights, x)
    if reason is None and x.is_cuda and not _triton_kernels(block, x):
        reason = "on this GPU no table says that kernels make such a block faster; see tune-kernels"
    return weights, reason


def _why_not_map(x: Tensor) -> str | None:
    if type(x) is not Tensor or x.layout is not torch.strided or x.dim() != 4 or x.numel() == 0:
        return "the input is no plain (N, C, H, W) tensor with values"
    kind = x.device.type
    if kind == "cpu":
        if x.numel() * x.shape[1] < SMALLEST:
            return "the map is so small that the plain steps are faster"
        if arithmetic(x) == torch.float16:
            return "float16 is too narrow for layer scale times a weight"
    elif kind != "cuda":
        return "the device is neither a CPU nor a CUDA GPU"
    return None


def _why_not_weights(block: nn.Module, weights: Weights, x: Tensor) -> str | None:
    conv, norm = block.dwconv, block.norm
    if block.act.approximate != "none":
        return NO_GELU
    channels, device, dtype = x.shape[1], x.device, x.dtype
    options = (
        *(conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups),
        *(conv.padding_mode, norm.normalized_shape),
    )
    if options != _standard_options(channels, conv.dilation):
        return "a part has other options than in Block"
    autocast = torch.is_autocast_enabled(device.type)
    if autocast and dtype == torch.float64:
        return "autocast leaves float64 alone"
    shapes = _standard_shapes(channels, weights.gamma is not None, block.grn is not None)
    for t, shape in zip(weights, shapes, strict=True):
        if t is None or shape is None:
            if t is not shape:
                return "a weight is missing, or there is one too many"
            continue
        if t.shape != shape:
            return "a weight has another shape than in Block"
        if type(t) not in _TENSORS or t.device != device:
            return "a weight is no plain tensor on the input's device"
        if t.dtype != dtype and (not autocast or t.dtype == torch.float64):
            return "a weight has another data type than the input"
    return None


_TENSORS = (nn.Parameter, Tensor)


@functools.cache
def _standard_options(channels: int, dilation: tuple[int, int]) -> tuple:
    padding = (3 * dilation[0], 3 * dilation[0])
    square = (dilation[0], dilation[0])
    return (7, 7), (1, 1), padding, square, channels, "zeros", (channels,)


@functools.cache
def _standard_shapes(c: int, scaled: bool, grn: bool) -> Weights:
    """The shapes of the weights of a block of V1, with layer scale or without, or of V2."""
    shapes = Weights(
        dwconv=(c, 1, 7, 7),
        dwconv_bias=(c,),
        norm=(c,),
        norm_bias=(c,),
        pwconv1=(4 * c, c),
        pwconv1_bias=(4 * c,),
        pwconv2=(c, 4 * c),
        pwconv2_bias=(c,),
    )
    if grn:
        return shapes._replace(grn_gamma=(4 * c,), grn_beta=(4 * c,))
    return shapes._replace(gamma=(c,)) if scaled else shapes


def _triton_kernels(block: nn.Module, x: Tensor) -> dict[str, dict]:
    """The kernels with which the block was measured to be faster on this device; see triton/choice.py."""
    if block.dwconv.dilation[0] != 1:
        return {}
    n, c, height, width = x.shape
    shape = (n, height, width, c, 1 if block.grn is None else 2)
    return triton_choice.tuned(x.device, arithmetic(x), *shape, training=torch.is_grad_enabled())


def _weights(block: nn.Module) -> Weights:
    grn = block.grn
    return Weights(
        dwconv=block.dwconv.weight,
        dwconv_bias=block.dwconv.bias,
        norm=block.norm.weight,
        norm_bias=block.norm.bias,
        pwconv1=block.pwconv1.weight,
        pwconv1_bias=block.pwconv1.bias,
        pwconv2=block.pwconv2.weight,
        pwconv2_bias=block.pwconv2.bias,
        gamma=block.gamma,
        grn_gamma=None if grn is None else grn.gamma,
        grn_beta=None if grn is None else grn.beta,
    )


def standard_parts(**classes: type) -> tuple[tuple[str, type, object], ...]:
    """A block's parts by name, for its attribute `parts`: class and the forward that it has now."""
    return tuple((name, cls, cls.forward) for name, cls in classes.items())


def changed(part: nn.Module) -> str | None:
    """What makes a module compute something else than its class says; None: nothing."""
    own = part.__dict__
    if "forward" in own or "_call_impl" in own or "_conv_forward" in own:
        return "a forward of its own"
    if "_compiled_call_impl" in own:
        return "a compiled forward"
    if (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    ):
        return "a hook"
    return None


def written_down() -> bool:
    """Is what runs being compiled, exported or traced, for images and batches of other sizes too?"""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def watched() -> bool:
    """Does something write down or count the operators of torch that run, and so must see them?"""
    return written_down() or torch._C._len_torch_dispatch_stack() > 0


def _intercepted() -> bool:
    """Does something watch the single operators: a FLOP counter, fake tensors, torch.func?"""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.nn.modules.module._has_any_global_hook()
        or torch.autograd.forward_ad._current_level >= 0
        or nn.Module.__call__ is not _CALL
    )
