"""When a fast path stands for Block.forward: the same numbers, in less time and memory."""

import torch
from torch import Tensor, nn

from .block import Settings, Weights, fast_block
from .triton import choice as triton_choice

enabled = True  # False: every block runs the plain steps of Block.forward
SMALLEST = 2**23  # N * C * C * H * W; below it a CPU spends more on more operators than it saves


def can_run(module: nn.Module, x: Tensor, parts: tuple[type, ...]) -> bool:
    """Can `run` stand for module(x), a Block whose submodules should be of the classes `parts`?

    Not while the model is compiled, exported, traced or counted, nor where a part was replaced,
    parametrized or hooked: the plain steps then do what was asked for. Nor in float16, whose range
    is too small for a residual stream and for weights times an initial layer scale of 1e-6.
    """
    if not enabled or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if type(x) is not Tensor or x.numel() == 0 or x.device.type not in ("cpu", "cuda"):
        return False
    if x.device.type == "cpu" and x.numel() * x.shape[1] < SMALLEST:
        return False
    if _arithmetic(x) == torch.float16 or _intercepted():
        return False
    if any(type(part) not in parts or hooked(part) for part in module.children()):
        return False
    weights = [t for t in _weights(module) if t is not None]
    if len(weights) < (10 if module.grn is not None else 8) or module.act.approximate != "none":
        return False
    if any(type(t) not in (nn.Parameter, Tensor) or t.device != x.device for t in weights):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return x.dtype != torch.float64  # which autocast leaves alone
    return all(t.dtype == x.dtype for t in weights)


def run(module: nn.Module, x: Tensor, inside: Tensor | None) -> Tensor:
    """What module(x, inside) gives: (N, C, H, W) channels-last to the same."""
    weights, keep = _weights(module), module.drop_path.factor(x)
    grn_eps = 0.0 if module.grn is None else module.grn.eps
    if inside is None and _has_triton_kernels(module, x):
        return _triton(x, keep, weights, module.norm.eps, grn_eps)
    settings = Settings(module.dwconv.dilation[0], module.norm.eps, grn_eps, _arithmetic(x))
    return fast_block(x, keep, inside, weights, settings)


def _has_triton_kernels(module: nn.Module, x: Tensor) -> bool:
    """Was a kernel measured to be faster on this device, at this shape? See triton_choice."""
    if not x.is_cuda or module.dwconv.dilation != (1, 1) or not triton_choice.available(x.device):
        return False
    n, c, height, width = x.shape
    version = 1 if module.grn is None else 2
    return bool(triton_choice.tuned(x.device, _arithmetic(x), n, height, width, c, version))


def _triton(x: Tensor, keep: Tensor | None, w: Weights, norm_eps: float, grn_eps: float) -> Tensor:
    from .triton.ops import triton_block  # here: Triton is large, and not everywhere

    out = triton_block(
        x.permute(0, 2, 3, 1),
        w.dwconv,
        w.dwconv_bias,
        w.norm,
        w.norm_bias,
        norm_eps,
        w.pwconv1,
        w.pwconv1_bias,
        w.pwconv2,
        w.pwconv2_bias,
        layer_scale=w.gamma,
        grn_gamma=w.grn_gamma,
        grn_beta=w.grn_beta,
        grn_eps=grn_eps,
        keep=None if keep is None else keep.flatten(),
    )
    return out.permute(0, 3, 1, 2)  # NHWC -> NCHW


def _arithmetic(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _weights(module: nn.Module) -> Weights:
    grn = module.grn
    return Weights(
        dwconv=module.dwconv.weight,
        dwconv_bias=module.dwconv.bias,
        norm=module.norm.weight,
        norm_bias=module.norm.bias,
        pwconv1=module.pwconv1.weight,
        pwconv1_bias=module.pwconv1.bias,
        pwconv2=module.pwconv2.weight,
        pwconv2_bias=module.pwconv2.bias,
        gamma=module.gamma,
        grn_gamma=None if grn is None else grn.gamma,
        grn_beta=None if grn is None else grn.beta,
    )


def hooked(part: nn.Module) -> bool:
    """Does something watch or change what this module computes?"""
    return bool(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
    )


def _intercepted() -> bool:
    """Does something watch the single operators: a FLOP counter, fake tensors, torch.func?"""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.nn.modules.module._has_any_global_hook()
        or torch.autograd.forward_ad._current_level >= 0
    )
