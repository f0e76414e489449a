"""What every op of this package registers: autograd, vmap, and a refusal of double backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

Apply = Callable[..., Tensor]


def make_differentiable(name: str, *, num_samples: int, num_tensors: int) -> Apply:
    """Join the op `segfocal::{name}` with `segfocal::{name}_backward`; return the function to call.

    Both ops take the same arguments, the gradient op the upstream gradient before them: first
    `num_samples` tensors with the batch as their leading axis (the first of them the logits, the
    only one with a gradient), then tensors without a batch axis, `num_tensors` in all, then plain
    settings. Their results lead with the batch axis too.

    The ops carry their own autograd formula, which `torch.compile` uses. In eager mode the returned
    function wraps them once more in `torch.autograd.Function`, because `torch.func.grad` refuses
    the formula of a custom op; outside of `torch.func` in one of the older kind, which costs the
    host less.

    Raises:
        RuntimeError: From the returned function's gradient, when it is differentiated again.
    """
    forward_op: OpOverload = getattr(torch.ops.segfocal, name).default
    backward_op: OpOverload = getattr(torch.ops.segfocal, f"{name}_backward").default

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None) -> None:  # noqa: ARG001
        ctx.save_for_backward(*inputs[:num_tensors])
        ctx.settings = inputs[num_tensors:]

    def refuse(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG001
        raise RuntimeError(
            f"segfocal::{name} has no second derivative: its gradient cannot be differentiated "
            f"again. Write the loss in plain torch where you need that."
        )

    class Gradient(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            with torch.no_grad():
                return backward_op(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            pass

        backward = staticmethod(refuse)

    def gradient(ctx: Any, upstream: Tensor) -> Any:
        is_last = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        call = backward_op if is_last else Gradient.apply
        grad = call(upstream, *ctx.saved_tensors, *ctx.settings)  # type: ignore[no-untyped-call]
        return (grad, *(None,) * (num_tensors - 1 + len(ctx.settings)))

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            with torch.no_grad():
                return forward_op(*inputs)

        setup_context = staticmethod(save)
        backward = staticmethod(gradient)

    class PlainForward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            save(ctx, inputs, None)
            return forward_op(*inputs)

        backward = staticmethod(gradient)

    torch.library.register_autograd(forward_op, gradient, setup_context=save)
    torch.library.register_autograd(backward_op, refuse)
    for op, extra in ((forward_op, 0), (backward_op, 1)):
        rule = _fold_into_batch(op, num_samples + extra, num_tensors + extra)
        torch.library.register_vmap(op, rule)

    def apply(*inputs: Any) -> Tensor:
        call: Apply = PlainForward.apply
        if torch.compiler.is_compiling():
            call = forward_op
        elif is_transformed():
            call = Forward.apply
        return call(*inputs)

    return apply


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is at work, such as grad or vmap."""
    return bool(torch._C._are_functorch_transforms_active())


def _fold_into_batch(
    op: OpOverload, num_samples: int, num_tensors: int
) -> Callable[..., tuple[Tensor, int]]:
    """The vmap rule of an op whose samples do not touch each other: a longer batch."""

    def rule(info: Any, in_dims: Sequence[int | None], *inputs: Any) -> tuple[Tensor, int]:
        if any(dim is not None for dim in in_dims[num_samples:num_tensors]):
            raise ValueError(f"vmap over {op} can batch logits, target and mask only.")
        folded = [
            _fold(tensor, dim, info.batch_size)
            for tensor, dim in zip(inputs[:num_samples], in_dims[:num_samples], strict=True)
        ]
        result = op(*folded, *inputs[num_samples:])
        return result.unflatten(0, (info.batch_size, -1)), 0

    return rule


def _fold(tensor: Tensor | None, dim: int | None, batch_size: int) -> Tensor | None:
    if tensor is None:
        return None
    if dim is None:
        return tensor.expand(batch_size, *tensor.shape).flatten(0, 1)
    return tensor.movedim(dim, 0).flatten(0, 1)
