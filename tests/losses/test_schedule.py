"""Numbers of a loss that move while it trains."""

from __future__ import annotations

import math
import re

import monai.losses
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from segfocal.losses import (
    DeepSupervisionLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    LossSchedule,
    OneVsRestFocalLoss,
    Ramp,
    Steps,
    TverskyFocalLoss,
    TverskyLoss,
    UnifiedFocalLoss,
)


def make_case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, generator=generator)
    return logits.requires_grad_(), torch.randint(0, 3, (2, 5, 6), generator=generator)


def refused(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.3, 0.5, 0.79, 0.8, 1.0])
def test_a_ramp_is_flat_then_moves_then_flat(progress):
    share = min(max((progress - 0.2) / 0.6, 0), 1)
    linear, cosine = (Ramp(5.0, 1.0, 0.2, 0.8, shape) for shape in ("linear", "cosine"))
    assert linear.value(progress) == pytest.approx(5 - 4 * share)
    assert cosine.value(progress) == pytest.approx(3 + 2 * math.cos(math.pi * share))


def test_a_ramp_without_a_span_is_a_jump_and_one_per_class_moves_each():
    jump = Ramp(1.0, 2.0, begin=0.5, finish=0.5)
    assert [jump.value(p) for p in (0, 0.49, 0.5, 1)] == [1, 1, 2, 2]
    assert Ramp((0.0, 4.0), (2.0, 2.0)).value(0.25) == (0.5, 3.5)


def test_steps_hold_until_they_jump():
    steps = Steps([[1.0, 2.0], [3.0, 4.0]], at=[0.5])
    assert [steps.value(p) for p in (0, 0.49, 0.5, 1)] == [(1, 2), (1, 2), (3, 4), (3, 4)]


def test_the_loss_is_at_every_moment_that_of_the_current_values():
    loss = DiceFocalLoss(softmax=True, alpha=[1.0, 1.0, 1.0])
    schedule = LossSchedule(
        loss,
        {
            "gamma": Ramp(4.0, 0.0),
            "alpha": Ramp([1.0, 1.0, 1.0], [0.0, 2.0, 4.0]),
            "lambda_dice": Ramp(0.0, 1.0),
            "lambda_focal": Steps([2.0, 1.0], at=[0.5]),
        },
        total_steps=4,
    )
    case = make_case()
    for step in range(6):
        p = min(step / 4, 1)
        truth = DiceFocalLoss(
            softmax=True,
            gamma=4 - 4 * p,
            alpha=[1 - p, 1 + p, 1 + 3 * p],
            lambda_dice=p,
            lambda_focal=2.0 if p < 0.5 else 1.0,
        )
        torch.testing.assert_close(loss(*case), truth(*case))
        assert schedule.progress == p
        assert schedule.values["gamma"] == 4 - 4 * p
        schedule.step()


def test_forward_moves_nothing():
    loss = FocalLoss(use_softmax=True)
    schedule = LossSchedule(loss, {"gamma": Ramp(4.0, 0.0)}, total_steps=4)
    schedule.step()
    for _ in range(3):
        loss(*make_case()).backward()
    assert loss.gamma == 3
    assert schedule.progress == 0.25


def test_a_resumed_schedule_has_the_value_of_an_unbroken_one(tmp_path):
    def make():
        loss = DiceFocalLoss(softmax=True)
        ramps = {"gamma": Ramp(3.0, 0.5, shape="cosine"), "lambda_dice": Ramp(0.0, 1.0, 0.3)}
        return loss, LossSchedule(loss, ramps, total_steps=7)

    unbroken, schedule = make()
    for _ in range(3):
        schedule.step()
    torch.save({"loss": unbroken.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "c")
    schedule.step()
    state = torch.load(tmp_path / "c", weights_only=True)
    resumed, again = make()
    resumed.load_state_dict(state["loss"])
    again.load_state_dict(state["schedule"])
    again.step()
    assert again.values == schedule.values
    assert torch.equal(resumed(*make_case()), unbroken(*make_case()))


def test_the_loss_s_own_state_dict_does_not_change():
    loss = FocalLoss(use_softmax=True, alpha=[1.0, 2.0, 3.0])
    LossSchedule(loss, {"gamma": Ramp(2.0, 1.0)})
    assert set(loss.state_dict()) == {"alpha"}


def test_a_loss_inside_a_wrapper_and_one_that_is_not_ours_are_scheduled():
    inner = FocalLoss(use_softmax=True, gamma=[1.0, 1.0, 1.0])
    wrapped = DeepSupervisionLoss(inner)
    LossSchedule(wrapped, {"loss.gamma": Ramp(4.0, 2.0)}).set_progress(0.5)
    assert inner.gamma.tolist() == [3, 3, 3]
    theirs = monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True)
    schedule = LossSchedule(theirs, {"gamma": Ramp(4.0, 2.0)})
    schedule.set_progress(1.0)
    assert theirs.gamma == 2.0


@pytest.mark.parametrize("kind", ["focal", "dice focal"])
def test_a_tensor_that_moves_is_not_compiled_again(kind):
    loss = FocalLoss(use_softmax=True) if kind == "focal" else DiceFocalLoss(softmax=True)
    schedule = LossSchedule(loss, {"gamma": Ramp(3.0, 0.0)}, total_steps=6)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    logits, labels = make_case()
    for _ in range(6):
        ours = compiled(logits, labels)
        torch.testing.assert_close(ours, loss(logits, labels), rtol=1e-6, atol=1e-7)
        ours.backward()
        schedule.step()
    assert counter.frame_count == 1


def test_a_plain_number_that_moves_is_compiled_twice():
    loss = DiceFocalLoss(softmax=True)
    schedule = LossSchedule(loss, {"lambda_dice": Ramp(0.25, 1.0)}, total_steps=6)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    logits, labels = make_case()
    for _ in range(6):
        ours = compiled(logits, labels)
        torch.testing.assert_close(ours, loss(logits, labels), rtol=1e-6, atol=1e-7)
        schedule.step()
    assert counter.frame_count == 2


def test_a_step_between_forward_and_backward_is_refused_by_torch():
    loss = FocalLoss(use_softmax=True)
    schedule = LossSchedule(loss, {"gamma": Ramp(2.0, 1.0)}, total_steps=2)
    value = loss(*make_case())
    schedule.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Ramp(-1.0, 1.0),
            "start must be a finite number >= 0: got -1.0.",
        ),
        (lambda: Ramp(1.0, math.nan), "end must be a finite number >= 0: got nan."),
        (
            lambda: Ramp(1.0, (1.0, 2.0)),
            (
                "start and end must be alike, one number or one per class each: got 1.0 and "
                "(1.0, 2.0)."
            ),
        ),
        (
            lambda: Ramp(1.0, 2.0, begin=0.7, finish=0.5),
            (
                "expected 0 <= begin <= finish <= 1, shares of the training: got begin 0.7, finish "
                "0.5."
            ),
        ),
        (lambda: Ramp(1.0, 2.0, shape="poly"), "shape must be one of linear, cosine: got 'poly'."),
        (
            lambda: Steps((1.0, 2.0), at=()),
            "at must hold rising shares of the training, one fewer than the 2 values: got ().",
        ),
        (
            lambda: Steps((1.0, 2.0, 3.0), at=(0.5, 0.2)),
            (
                "at must hold rising shares of the training, one fewer than the 3 values: got "
                "(0.5, 0.2)."
            ),
        ),
        (
            lambda: Steps((1.0, (2.0, 3.0)), at=(0.5,)),
            "values must be alike, one number or one per class each: got (1.0, (2.0, 3.0)).",
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"gamma": 1.0}),
            "gamma must be scheduled by a Ramp or Steps: got 1.0.",
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"gama": Ramp(1.0, 2.0)}),
            ("the loss has no number 'gama' to schedule: FocalLoss holds gamma, label_smoothing."),
        ),
        (
            lambda: LossSchedule(DiceLoss(softmax=True), {"loss.gamma": Ramp(1.0, 2.0)}),
            (
                "the loss has no number 'loss.gamma' to schedule: DiceLoss holds smooth_dr, "
                "smooth_nr."
            ),
        ),
        (
            lambda: LossSchedule(UnifiedFocalLoss(softmax=True), {"alpha": Ramp(0.1, 0.2)}),
            (
                "the loss has no number 'alpha' to schedule: UnifiedFocalLoss holds delta, gamma, "
                "smooth_dr, smooth_nr, weight."
            ),
        ),
        (
            lambda: LossSchedule(UnifiedFocalLoss(softmax=True), {"gamma": Ramp(0.5, 2.0)}),
            (
                "gamma of a unified focal loss must be in [0, 1): got 2. It is the focal loss's "
                "exponent and 1 minus the Tversky loss's."
            ),
        ),
        (
            lambda: LossSchedule(UnifiedFocalLoss(softmax=True), {"weight": Ramp(0.0, 2.0)}),
            "weight of a unified focal loss must be in [0, 1]: got 2.",
        ),
        (
            lambda: LossSchedule(FocalTverskyLoss(softmax=True), {"gamma": Ramp(2.0, 0.5)}),
            (
                "gamma of a Tversky loss must be 1 or more: the loss is (1 - TI)^(1 / gamma). Got "
                "0.5."
            ),
        ),
        (
            lambda: LossSchedule(
                DeepSupervisionLoss(DiceFocalLoss(softmax=True)),
                {"loss.label_smoothing": Steps((0.0, 1.0), at=(0.5,))},
            ),
            (
                "label_smoothing must be in [0, 1), the share of each voxel that is spread: got 1. "
                "Pass a number such as 0.1."
            ),
        ),
        (
            lambda: LossSchedule(OneVsRestFocalLoss(p_smoothing=0.1), {"p_smoothing": Ramp(0, 1)}),
            "p_smoothing must be in [0, 1): got 1.",
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"alpha": Ramp(0.1, 0.2)}),
            ("the loss has no number 'alpha' to schedule: FocalLoss holds gamma, label_smoothing."),
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"gamma": Ramp((1.0, 1.0), (2.0, 1.0))}),
            (
                "gamma is scheduled per class, with 2 numbers, but the loss holds one. Give both "
                "the same number of classes."
            ),
        ),
        (
            lambda: LossSchedule(FocalLoss(gamma=[1, 1, 1]), {"gamma": Ramp((1.0, 1), (2.0, 1))}),
            (
                "gamma is scheduled per class, with 2 numbers, but the loss holds 3. Give both the "
                "same number of classes."
            ),
        ),
        (
            lambda: LossSchedule(FocalLoss(alpha=0.5), {"alpha": Ramp(0.5, 1.5)}),
            "alpha must be finite and in [0, 1]: got 1.5.",
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"gamma": Ramp(1.0, 2.0)}, total_steps=0),
            "total_steps must be 1 or more: got 0.",
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"gamma": Ramp(1.0, 2.0)}).step(),
            (
                "step() needs to know how many there are: give LossSchedule total_steps, or call "
                "set_progress()."
            ),
        ),
        (
            lambda: LossSchedule(FocalLoss(), {"gamma": Ramp(1.0, 2.0)}).set_progress(1.5),
            "progress is a share of the training, 0 to 1: got 1.5.",
        ),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with refused(message):
        make()


def test_a_refused_schedule_leaves_the_loss_as_it_was():
    loss = FocalTverskyLoss(softmax=True)
    with pytest.raises(ValueError, match="gamma"):
        LossSchedule(loss, {"gamma": Ramp(2.0, 0.5)})
    assert loss.gamma == 4 / 3


def test_the_weight_of_false_positives_may_exceed_1():
    loss = TverskyLoss(softmax=True)
    schedule = LossSchedule(loss, {"alpha": Ramp(0.0, 3.0)})
    schedule.set_progress(1.0)
    assert loss.alpha == 3.0


@pytest.mark.parametrize("p_smoothing", [0.0, 0.1])
def test_the_gamma_of_a_one_vs_rest_loss_moves(p_smoothing):
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    loss = OneVsRestFocalLoss(p_smoothing=p_smoothing)
    schedule = LossSchedule(loss, {"gamma": Ramp(0.0, 3.0)})
    for progress, gamma in ((0.0, 0.0), (0.5, 1.5), (1.0, 3.0)):
        schedule.set_progress(progress)
        truth = OneVsRestFocalLoss(p_smoothing=p_smoothing, gamma=gamma)(logits, labels)
        torch.testing.assert_close(loss(logits, labels), truth)


@pytest.mark.parametrize("alpha", [None, [0.1, 0.2, 0.3]])
def test_a_gamma_is_made_where_the_loss_is(alpha):
    loss = torch.nn.Sequential(DiceFocalLoss(softmax=True, alpha=alpha)).to("meta")
    LossSchedule(loss, {"0.gamma": Ramp(2.0, 1.0)})
    assert loss[0].gamma.device.type == "meta"


@pytest.mark.parametrize("kind", [TverskyLoss, UnifiedFocalLoss])
def test_a_gamma_of_no_focal_term_stays_a_number(kind):
    first = 1.0 if kind is TverskyLoss else 0.0
    loss = kind(softmax=True)
    LossSchedule(loss, {"gamma": Ramp(first, first + 0.5)}).set_progress(0.5)
    assert loss.gamma == first + 0.25
    logits, labels = torch.zeros(1, 2, 4), torch.tensor([[0, 1, 1, 0]])
    truth = kind(softmax=True, gamma=first + 0.25)(logits, labels)
    torch.testing.assert_close(loss(logits, labels), truth)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (UnifiedFocalLoss, "weight"),
        (UnifiedFocalLoss, "delta"),
        (TverskyFocalLoss, "alpha"),
        (TverskyFocalLoss, "tversky_alpha"),
        (TverskyFocalLoss, "tversky_beta"),
        (TverskyFocalLoss, "lambda_focal"),
        (TverskyLoss, "alpha"),
        (DiceCELoss, "lambda_ce"),
    ],
)
def test_a_schedule_moves_the_argument_of_that_name(kind, name):
    logits, labels = make_case()
    loss = kind(softmax=True, **{name: 0.9})
    LossSchedule(loss, {name: Ramp(0.2, 0.6)}).set_progress(0.5)
    truth = kind(softmax=True, **{name: 0.4})(logits, labels)
    torch.testing.assert_close(loss(logits, labels), truth)


@pytest.mark.parametrize(
    ("kind", "first", "last"), [(TverskyLoss, 1, 3), (UnifiedFocalLoss, 0, 0.5)]
)
def test_a_number_that_moves_compiles_in_one_graph(kind, first, last):
    torch._dynamo.reset()
    logits, labels = make_case()
    loss = kind(softmax=True)
    schedule = LossSchedule(loss, {"gamma": Ramp(first, last)})
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for progress in (0.0, 0.3, 0.6, 1.0):
        schedule.set_progress(progress)
        torch.testing.assert_close(compiled(logits, labels), loss(logits, labels))
