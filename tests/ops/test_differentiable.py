"""What torch may do with the ops: compile, transform, autocast, and differentiate once."""

from __future__ import annotations

import re

import pytest
import torch

from segfocal.ops import class_sums, voxel_focal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(*leading):
    logits = torch.randn(*leading, 2, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(0, 3, (*leading, 2, 4, 5), generator=seeded(1))
    return logits, labels


def summed(logits, labels):
    sums = class_sums(logits, labels, gamma=0.5, ignore_index=255)
    return (sums.focal_pos / sums.t.clamp(min=1)).sum() + sums.p_sq.sum()


def per_voxel(logits, labels):
    weights = torch.tensor([[0.2, 1.0, 0.7], [1.0, 0.3, 0.5]], dtype=torch.float64)
    loss = voxel_focal(logits, labels, weights, activation="sigmoid", gamma=1.5)
    return loss.square().sum()


OPS = pytest.mark.parametrize("loss", [summed, per_voxel])


@OPS
def test_func_grad_equals_autograd(loss):
    logits, labels = make_case()
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, labels), leaf)
    assert torch.equal(torch.func.grad(loss)(logits, labels), expected)


@OPS
def test_vmap_of_grad_equals_a_loop(loss):
    logits, labels = make_case(3)
    per_sample = torch.func.vmap(torch.func.grad(loss))(logits, labels)
    looped = [torch.func.grad(loss)(z, y) for z, y in zip(logits, labels, strict=True)]
    torch.testing.assert_close(per_sample, torch.stack(looped), rtol=1e-12, atol=1e-14)


@OPS
def test_vmap_over_the_logits_alone_shares_the_labels(loss):
    logits, labels = make_case(3)
    mapped = torch.func.vmap(loss, in_dims=(0, None))(logits, labels[0])
    looped = torch.stack([loss(z, labels[0]) for z in logits])
    torch.testing.assert_close(mapped, looped, rtol=1e-12, atol=0)


def test_vmap_over_another_axis_than_the_first():
    logits, labels = make_case(3)
    mapped = torch.func.vmap(summed, in_dims=(1, 2))(logits.movedim(0, 1), labels.movedim(0, 2))
    looped = torch.stack([summed(z, y) for z, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(mapped, looped, rtol=1e-12, atol=0)


def test_vmap_over_anything_but_samples_is_refused_by_name():
    logits, labels = make_case()
    with pytest.raises(
        ValueError,
        match=re.escape("vmap over segfocal.voxel_focal.default can batch logits, target and mask"),
    ):
        torch.func.vmap(lambda weights: voxel_focal(logits, labels, weights))(torch.ones(4, 2, 3))


@OPS
def test_double_backward_is_refused_by_name(loss):
    logits, labels = make_case()
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(loss(logits, labels), logits, create_graph=True)
    name = "class_sums" if loss is summed else "voxel_focal"
    with pytest.raises(
        RuntimeError,
        match=re.escape(
            f"segfocal::{name} has no second derivative: its gradient cannot be differentiated "
            f"again. Write the loss in plain torch where you need that."
        ),
    ):
        grad.sum().backward()


def test_double_backward_through_the_bare_op_is_refused_too():
    logits, labels = make_case()
    logits = logits.flatten(2).requires_grad_()
    settings = ("softmax", 2.0, 0.0, [], [0, 1, 2], [1, 1, 1], False, "product", "reference")
    sums = torch.ops.segfocal.class_sums(logits, labels.flatten(1), None, None, *settings)
    (grad,) = torch.autograd.grad(sums.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="segfocal::class_sums has no second derivative"):
        grad.sum().backward()


def test_the_gradient_op_itself_refuses_to_be_differentiated():
    logits, labels = make_case()
    upstream = torch.ones(2, 7, 3, dtype=torch.float64, requires_grad=True)
    settings = ("softmax", 2.0, 0.0, [], [0, 1, 2], [1, 1, 1], False, "product", "reference")
    grad = torch.ops.segfocal.class_sums_backward(
        upstream, logits.flatten(2), labels.flatten(1), None, None, *settings
    )
    with pytest.raises(RuntimeError, match="segfocal::class_sums has no second derivative"):
        grad.sum().backward()


@OPS
def test_compiles_in_one_graph(loss):
    logits, labels = make_case()
    logits.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for value in (loss(logits, labels), compiled(logits, labels)):
        torch.testing.assert_close(value, loss(logits, labels), rtol=1e-14, atol=0)
    expected = torch.autograd.grad(loss(logits, labels), logits)[0]
    got = torch.autograd.grad(compiled(logits, labels), logits)[0]
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-16)


def test_a_compiled_call_still_checks_its_labels():
    torch._dynamo.reset()
    compiled = torch.compile(summed, fullgraph=True, backend="aot_eager")
    logits, labels = make_case()
    with pytest.raises(ValueError, match=r"expected 0 to 2, got 9 \(40 voxels\)"):
        compiled(logits, torch.full_like(labels, 9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_sums_in_float32(dtype):
    logits, labels = make_case()
    logits = logits.float().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        inside = class_sums(logits, labels)
    outside = class_sums(logits, labels)
    for one, other in zip(inside, outside, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
