"""The kernel that makes a loss of sums in Triton's interpreter: run as `interpreted_triton.py`."""

from __future__ import annotations

import os

import pytest
import torch

from segfocal.functional.dice import DiceOptions, dice_formula
from segfocal.functional.focal import FocalOptions, focal_formula
from segfocal.functional.one_step import loss_in_one_step
from segfocal.functional.overlap import smallest_denominator
from segfocal.functional.tversky import TverskyOptions
from segfocal.functional.voxel_options import Summed, VoxelOptions, Voxels
from segfocal.losses import (
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    GeneralizedDiceFocalLoss,
    TverskyFocalLoss,
)
from segfocal.ops import triton_loss
from segfocal.ops.backend_choice import BACKENDS
from segfocal.ops.loss_formula import LossFormula
from segfocal.ops.loss_of_sums import flat_formula
from tests.ops.loss_cases import (
    LOSSES,
    LossCase,
    assert_kernel_equals_plain_torch,
    in_one_step,
    in_plain_torch,
    make_sums,
    seeded,
)

assert os.environ.get("TRITON_INTERPRET") == "1"

PLAIN = Voxels(torch.empty(3, 4, 1), torch.empty(3, 1, dtype=torch.uint8), None, VoxelOptions())
FOCAL = focal_formula(PLAIN, FocalOptions())

pytestmark = pytest.mark.filterwarnings(
    # numpy speaks up where a lane that is not kept divides by zero
    "ignore::RuntimeWarning"
)


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan():
    """What the kernel forgets to write fails a comparison."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", LOSSES, ids=repr)
def test_loss_terms_and_slopes_equal_plain_torch(case, dtype):
    assert_kernel_equals_plain_torch(case, make_sums(), dtype)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (5, 105), (33, 2), (4, 1000)])
def test_any_number_of_samples_and_channels(size):
    overlap, focal = DiceOptions(absent="skip"), FocalOptions(alpha=0.3, normalizer="alpha")
    case = LossCase(overlap, focal, (0.4, 0.8), "sigmoid")
    assert_kernel_equals_plain_torch(case, make_sums(*size), torch.float64)


BOTH = LossCase(DiceOptions(weight=(1.0, 2.0, 3.0, 0.5)), FocalOptions(alpha=0.25))


def test_strided_sums_are_read_as_they_are():
    sums = make_sums()
    wide = torch.full((*sums.shape[:2], 9), torch.nan, dtype=sums.dtype)
    wide[..., 1::2] = sums
    expected = in_one_step(BOTH, sums, PLAIN).total
    assert torch.equal(in_one_step(BOTH, wide[..., 1::2], PLAIN).total, expected)
    assert torch.equal(in_one_step(BOTH, sums.mT.contiguous().mT, PLAIN).total, expected)


def test_strided_weights_are_read_as_they_are():
    numbers = torch.tensor([[1.0, 2.0, 3.0, 0.5], [9.0, 9.0, 9.0, 9.0]]).T
    expected = in_one_step(BOTH, make_sums(), PLAIN).total
    for weight in (numbers[:, 0], numbers[:, 0].double()):
        case = BOTH._replace(overlap=DiceOptions(weight=weight))
        assert torch.equal(in_one_step(case, make_sums(), PLAIN).total, expected)


@pytest.mark.parametrize("case", [*LOSSES[::7], *LOSSES[-8:]], ids=repr)
@pytest.mark.parametrize("emptied", [[5], [2, 5], [0, 1, 2, 3, 4, 5, 6]], ids=repr)
def test_a_batch_without_a_positive_or_a_voxel(case, emptied):
    sums = make_sums()
    sums[:, emptied] = 0
    assert_kernel_equals_plain_torch(case, sums, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "overlap",
    [
        DiceOptions(smooth_nr=0.0, smooth_dr=0.0),
        DiceOptions(smooth_nr=0.0, smooth_dr=0.0, jaccard=True, weight=100.0),
        TverskyOptions(smooth_nr=0.0, smooth_dr=0.0, gamma=1.5),
    ],
)
def test_an_absent_class_that_is_all_but_empty_costs_nothing_without_smoothing(overlap, dtype):
    case = LossCase(overlap, None)
    for share in (0.1, 8.0):
        sums = make_sums().to(dtype)
        sums[0, [2, 4, 5], 1] = 0
        sums[0, 3, 1] = share * smallest_denominator(dtype)
        slopes = []
        for losses in (in_one_step, in_plain_torch):
            given = sums.clone().requires_grad_()
            (by_sums,) = torch.autograd.grad(losses(case, given, PLAIN)[0], given)
            slopes.append(by_sums)
        assert slopes[0].isfinite().all()
        assert bool(slopes[0][0, 2, 1] == 0) is (share < 1)
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=0)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_shares_of_less_than_one_positive_in_all(activation):
    sums = make_sums()
    sums[:, 5] *= 1e-3
    case = LossCase(None, FocalOptions(normalizer="positives"), activation=activation)
    assert_kernel_equals_plain_torch(case, sums, torch.float64)


def test_a_term_of_share_0_is_left_out_whatever_it_is():
    sums = make_sums()
    sums[0, 0, 0] = torch.inf
    both = LossCase(DiceOptions(), FocalOptions(), (1.0, 0.0))
    loss, alone = (in_one_step(case, sums, PLAIN) for case in (both, LossCase(DiceOptions(), None)))
    assert loss.focal == torch.inf
    assert torch.equal(loss.total, alone.total)
    sums = make_sums()
    sums[0, 3, 0] = torch.nan
    both = both._replace(shares=(0.0, 1.0))
    loss, alone = (
        in_one_step(case, sums, PLAIN) for case in (both, LossCase(None, FocalOptions()))
    )
    assert loss.overlap.isnan()
    assert torch.equal(loss.total, alone.total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    sums = make_sums().to(dtype)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=dtype)
    overlap = dice_formula(PLAIN, DiceOptions(batch=True), 0.5)
    focal = focal_formula(PLAIN, FocalOptions(), 2.0)
    arguments = (sums, weights, weights, None, *flat_formula(LossFormula(overlap, focal)))
    torch.library.opcheck(torch.ops.segfocal.loss_of_sums.default, arguments)


@pytest.fixture
def kernel_calls(monkeypatch):
    """The Triton backend is let in on the CPU; what is made in one step is noted."""
    row = BACKENDS["triton"]
    support = row.support._replace(missing=None, devices=None)
    monkeypatch.setitem(BACKENDS, "triton", row._replace(support=support))
    calls, original = [], triton_loss.loss_of_sums

    def spy(sums, formula, weights):
        calls.append(formula)
        return original(sums, formula, weights)

    monkeypatch.setattr(triton_loss, "loss_of_sums", spy)
    return calls


def make_batch():
    logits = 2 * torch.randn(2, 3, 4, 5, generator=seeded(0), dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 1, 4, 5), generator=seeded(1))
    labels[0, :, 1] = 255
    return logits.requires_grad_(), labels


WEIGHTS = [0.3, 1.0, 1.7]
MODULES = {
    "dice": lambda **more: DiceLoss(weight=WEIGHTS, **more),
    "jaccard": lambda **more: DiceLoss(jaccard=True, squared_pred=True, **more),
    "tversky": lambda **more: FocalTverskyLoss(alpha=0.3, beta=0.7, **more),
    "dice focal": lambda **more: DiceFocalLoss(alpha=WEIGHTS, lambda_focal=0.5, **more),
    "dice ce": lambda **more: DiceCELoss(weight=WEIGHTS, label_smoothing=0.1, **more),
    "tversky focal": lambda **more: TverskyFocalLoss(alpha=0.25, gamma=1.5, **more),
    "dice of the batch": lambda **more: DiceFocalLoss(
        batch=True, include_background=False, focal_include_background=True, **more
    ),
    "world": lambda **more: DiceFocalLoss(process_group="world", **more),
    "focal": lambda softmax, **more: FocalLoss(use_softmax=softmax, alpha=WEIGHTS, **more),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_a_module_s_loss_and_gradient_are_those_of_the_reference(make, kernel_calls):
    logits, labels = make_batch()
    found = make(softmax=True, ignore_index=255, backend="triton")(logits, labels)
    assert len(kernel_calls) == 1
    expected = make(softmax=True, ignore_index=255, backend="reference")(logits, labels)
    assert len(kernel_calls) == 1
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


MORE_THAN_A_FORMULA = {
    "a value per class": lambda: DiceLoss(softmax=True, reduction="none"),
    "generalized Dice": lambda: GeneralizedDiceFocalLoss(softmax=True),
    "hardest voxels": lambda: DiceFocalLoss(softmax=True, top_k=20.0),
    "weights that learn": lambda: learning(DiceFocalLoss(softmax=True, weight=WEIGHTS)),
}


def learning(loss):
    loss.weight = loss.weight.clone().requires_grad_()
    return loss


@pytest.mark.parametrize("make", MORE_THAN_A_FORMULA.values(), ids=MORE_THAN_A_FORMULA)
def test_what_no_formula_says_is_made_by_plain_operations(make, kernel_calls):
    logits, labels = make_batch()
    loss = make()
    loss.ignore_index = 255
    losses = []
    for loss.backend in ("triton", "reference"):
        losses.append(loss(logits, labels).sum())
    assert kernel_calls == []
    torch.testing.assert_close(*losses, rtol=1e-11, atol=1e-13)


def test_squares_of_a_soft_target_are_made_by_plain_operations(kernel_calls):
    logits, _ = make_batch()
    target = torch.rand(logits.shape, generator=seeded(3))
    losses = [
        DiceLoss(sigmoid=True, squared_pred=True, backend=backend)(logits, target)
        for backend in ("triton", "reference")
    ]
    assert kernel_calls == []
    torch.testing.assert_close(*losses, rtol=1e-11, atol=1e-13)


def test_a_transform_of_torch_func_goes_by_plain_operations(kernel_calls):
    logits, labels = make_batch()
    loss = DiceFocalLoss(softmax=True, ignore_index=255, backend="triton")
    grad = torch.func.grad(loss)(logits.detach(), labels)
    assert kernel_calls == []
    (expected,) = torch.autograd.grad(loss(logits, labels), logits)
    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-13)


def test_torch_compile_joins_plain_operations(kernel_calls):
    logits, labels = make_batch()
    loss = DiceFocalLoss(softmax=True, ignore_index=255, backend="triton")
    torch._dynamo.reset()
    found = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, labels)
    assert kernel_calls == []
    expected = loss(logits, labels)
    assert len(kernel_calls) == 1
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


def test_the_logged_terms_are_those_of_terms(kernel_calls):
    logits, labels = make_batch()
    loss = DiceFocalLoss(softmax=True, ignore_index=255, lambda_dice=0.3, backend="triton")
    found = loss.loss_and_terms(logits, labels)
    assert len(kernel_calls) == 1
    dice, focal = loss.terms(logits, labels)
    assert len(kernel_calls) == 1
    near = {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(found.overlap, dice.detach(), **near)
    torch.testing.assert_close(found.focal, focal.detach(), **near)
    torch.testing.assert_close(found.total, 0.3 * dice + focal, **near)


def test_the_gradient_cannot_be_differentiated_again(kernel_calls):
    logits, labels = make_batch()
    loss = DiceFocalLoss(softmax=True, ignore_index=255, backend="triton")(logits, labels)
    assert len(kernel_calls) == 1
    (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="class_sums has no second derivative"):
        torch.autograd.grad(grad.sum(), logits)


def test_more_sums_than_a_program_holds_are_left_to_plain_operations():
    fitting, beyond = torch.empty(1, 7, 4096), torch.empty(2, 7, 2049)
    assert loss_in_one_step(Summed(beyond, "triton"), focal=FOCAL) is None
    assert loss_in_one_step(Summed(fitting[:, :, :8], "chunked"), focal=FOCAL) is None
    assert loss_in_one_step(Summed(fitting[:0], "triton"), focal=FOCAL) is None
    assert loss_in_one_step(Summed(fitting, "triton"), focal=FOCAL) is not None
