"""The per-voxel op: its sum is class_sums, its gradient is exact."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segfocal.ops import class_sums, voxel_focal

WEIGHTS = torch.tensor([[0.2, 1.3, 0.6], [0.8, 0.4, 1.1]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case():
    logits = 3 * torch.randn(2, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=seeded(1))
    labels[0, 0] = 255
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_its_sum_and_gradient_are_those_of_class_sums(activation, gamma):
    logits, labels = make_case()
    mask = torch.rand(2, 3, 4, 5, generator=seeded(2)) > 0.3
    options = {"activation": activation, "gamma": gamma, "ignore_index": 255, "mask": mask}
    voxels = voxel_focal(logits, labels, WEIGHTS, **options)
    sums = class_sums(logits, labels, **options)
    total = (sums.focal_pos * WEIGHTS[0] + sums.focal_neg * WEIGHTS[1]).sum()
    assert voxels.shape == logits.shape
    torch.testing.assert_close(voxels.sum(), total, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (voxels.sum(), total)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck_with_a_different_weight_on_every_voxel(activation):
    logits, labels = make_case()

    def voxels(values):
        return voxel_focal(
            values, labels, WEIGHTS, activation=activation, gamma=0.7, ignore_index=255
        )

    assert torch.autograd.gradcheck(voxels, logits)


def test_gamma_zero_is_cross_entropy_without_reduction():
    logits, labels = make_case()
    loss = voxel_focal(logits, labels, torch.ones(2, 3), gamma=0, ignore_index=255)
    truth = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    torch.testing.assert_close(loss.sum(1), truth, rtol=1e-12, atol=1e-14)
    own = F.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).bool()
    assert (loss[~own] == 0).all()


def test_ignored_voxels_are_zero_whatever_lies_there():
    logits, labels = make_case()
    poisoned = logits.detach().clone()
    poisoned[0, :, 0] = torch.nan
    poisoned.requires_grad_()
    loss = voxel_focal(poisoned, labels, WEIGHTS, activation="sigmoid", ignore_index=255)
    assert (loss[0, :, 0] == 0).all()
    loss.sum().backward()
    assert (poisoned.grad[0, :, 0] == 0).all()
    assert poisoned.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 0), (0, 3, 5)])
def test_shapes_without_space_or_voxels(shape):
    logits = torch.zeros(shape, requires_grad=True)
    labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.uint8)
    loss = voxel_focal(logits, labels, torch.ones(2, 3))
    assert loss.shape == shape
    loss.sum().backward()
    assert logits.grad.shape == shape


def test_channels_last_logits():
    logits = torch.randn(2, 3, 2, 3, 4, generator=seeded()).to(memory_format=torch.channels_last_3d)
    labels = torch.randint(0, 3, (2, 2, 3, 4), generator=seeded(1))
    expected = voxel_focal(logits.contiguous(), labels, torch.ones(2, 3))
    torch.testing.assert_close(voxel_focal(logits, labels, torch.ones(2, 3)), expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"  # opcheck's own, from torch 2.14 on
)
def test_opcheck(activation):
    logits, labels = make_case()
    mask = torch.rand(2, 3, 20, generator=seeded(2)) > 0.3
    settings = (activation, 2.0, 0.1, [255], [0, 1, 2], [1, 1, 1], False)
    leaf = logits.detach().flatten(2).requires_grad_()
    inputs = (leaf, labels.flatten(1), mask, None, WEIGHTS)
    torch.library.opcheck(torch.ops.segfocal.voxel_focal.default, (*inputs, *settings))
