import itertools
import time

import pytest
import torch
from torch import nn

from segfocal.config.schema import TrainConfig
from segfocal.training.learner import Learner, NonFiniteLossError
from segfocal.training.ranks import ALONE, PeerFailedError, Ranks
from segfocal.training.schedule import Budget


def make(*, network=None, ranks=ALONE, device="cpu", amp_dtype=None, **settings):
    torch.manual_seed(0)
    network = nn.Conv3d(1, 1, 1) if network is None else network
    settings = {"warmup_fraction": 0.0, "schedule": "constant", "lr": 0.1, **settings}
    train = TrainConfig(**settings)

    def terms(logits, label, _mask=None):
        return {"loss": ((logits - label) ** 2).mean(), "part": logits.detach().mean()}

    optimizer = torch.optim.SGD(network.parameters(), train.lr)
    return Learner(network, terms, optimizer, train, torch.device(device), amp_dtype, ranks)


def batches(count, size=2):
    generator = torch.Generator().manual_seed(1)
    shape = (size, 1, 2, 2, 2)
    return [
        {
            "image": torch.randn(shape, generator=generator),
            "label": torch.randn(shape, generator=generator),
            "case_id": ["x"] * size,
        }
        for _ in range(count)
    ]


def budget(steps=100):
    return Budget(steps, None, time.monotonic(), time.monotonic())


def ignore(_step, _terms):
    pass


def test_accumulated_halves_step_as_the_whole_batch():
    whole, halves = make(grad_clip=None), make(grad_clip=None, accumulate=2)
    parts = batches(2)
    joined = {
        "image": torch.cat([b["image"] for b in parts]),
        "label": torch.cat([b["label"] for b in parts]),
        "case_id": ["x"] * 4,
    }
    whole.run_epoch([joined], budget(), ignore)
    means = halves.run_epoch(parts, budget(), ignore)
    assert means.steps == 1
    for one, other in zip(whole.network.parameters(), halves.network.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_the_moving_average_is_that_of_the_weights():
    learner = make(ema_decay=0.9, grad_clip=None)
    seen = []
    learner.run_epoch(
        batches(4), budget(), lambda *_: seen.append(learner.network.weight.detach().clone())
    )
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(learner.evaluated.weight, expected, atol=1e-6)
    assert learner.evaluated is not learner.network


def test_the_moving_average_is_that_of_running_statistics_too():
    learner = make(network=nn.BatchNorm3d(1).eval(), ema_decay=0.9)
    seen = []
    learner.run_epoch(
        batches(4), budget(), lambda *_: seen.append(learner.network.running_mean.clone())
    )
    assert len({float(mean) for mean in seen}) == 4  # the network is trained, not evaluated
    expected = seen[0]
    for mean in seen[1:]:
        expected = 0.9 * expected + 0.1 * mean
    assert torch.allclose(learner.evaluated.running_mean, expected, atol=1e-7)


def test_each_step_is_as_long_as_the_schedule_has_it():
    learner = make(warmup_fraction=0.5, grad_clip=None)
    weight = learner.network.weight
    learner.terms = lambda *_: {"loss": weight.sum()}  # a gradient of 1: a step is the rate
    seen = [weight.item()]
    means = learner.run_epoch(batches(4), budget(4), lambda *_: seen.append(weight.item()))
    steps = [before - after for before, after in itertools.pairwise(seen)]
    assert steps == pytest.approx([0.01, 0.055, 0.1, 0.1], abs=1e-6)
    assert means.lr == 0.1


@pytest.mark.parametrize("amp_dtype", [torch.bfloat16, torch.float16])
def test_the_forward_pass_has_the_precision_that_was_asked_for_and_the_loss_its_own(amp_dtype):
    learner = make(amp_dtype=amp_dtype)
    seen, inner = [], learner.terms

    def terms(logits, label, mask=None):
        seen.append((logits.dtype, label.dtype, torch.is_autocast_enabled("cpu")))
        return inner(logits, label, mask)

    learner.terms = terms
    learner.run_epoch(batches(1), budget(), ignore)
    assert seen == [(amp_dtype, torch.float32, False)]


def test_volumes_are_laid_out_as_the_weights_are_and_planes_are_left_alone():
    laid_out = []
    for network, shape in (
        (nn.Conv3d(2, 1, 1), (1, 2, 3, 3, 3)),
        (nn.Conv2d(2, 1, 1), (1, 2, 3, 3)),
    ):
        network.register_forward_pre_hook(lambda _, given: laid_out.append(given[0].stride()))
        batch = {"image": torch.ones(shape), "label": torch.ones(1, 1, *shape[2:])}
        make(network=network).run_epoch([{**batch, "case_id": ["x"]}], budget(), ignore)
    assert laid_out == [(54, 1, 18, 6, 2), (18, 9, 3, 1)]


@pytest.mark.parametrize(
    ("device", "amp_dtype"), [("cpu", torch.float16), ("cuda", None), ("cuda", torch.bfloat16)]
)
def test_losses_are_scaled_for_float16_on_a_gpu_alone(device, amp_dtype):
    """Without a GPU torch warns of each scaler that would be enabled for one."""
    assert not make(device=device, amp_dtype=amp_dtype).scaler.is_enabled()


def test_a_loss_that_is_not_finite_takes_no_step():
    learner = make()
    before = learner.network.weight.detach().clone()
    (batch,) = batches(1)
    batch["image"][0, 0, 0, 0, 0] = float("inf")
    with pytest.raises(NonFiniteLossError) as error:
        learner.run_epoch([batch], budget(), ignore)
    assert torch.equal(learner.network.weight, before)
    assert error.value.batch["case_id"] == ["x", "x"]
    assert error.value.step == 1


def test_a_loss_that_is_not_finite_is_told_of_the_step_after_those_that_were_taken():
    """metrics.csv says 2 of the epoch that went well before it."""
    learner = make()
    *good, bad = batches(3)
    bad["image"][0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match="loss not finite at step 3"):
        learner.run_epoch([*good, bad], budget(), ignore)
    assert learner.step == 2


@pytest.mark.parametrize("worst", ["nan", "inf"])
def test_weights_that_a_gradient_spoilt_in_the_last_step_end_the_epoch(worst):
    """A finite loss may have a gradient that is not; last.pt must not hold what came of it."""
    learner = make(grad_clip=None)
    learner.network.weight.register_hook(lambda grad: grad * float(worst))
    parts = batches(1)
    with pytest.raises(NonFiniteLossError) as error:
        learner.run_epoch(parts, budget(), ignore)
    assert error.value.what == "Weights"
    assert error.value.step == 1
    assert error.value.cases == ["x", "x"]


def test_a_spent_budget_ends_the_epoch_early():
    means = make().run_epoch(batches(10), budget(steps=3), ignore)
    assert means.steps == 3


def test_an_epoch_that_begins_with_a_spent_budget_is_not_empty():
    spent = Budget(100, 1.0, time.monotonic() - 10, time.monotonic() - 10)
    means = make().run_epoch(batches(10), spent, ignore)
    assert means.steps == 1
    assert "loss" in means.terms


def test_the_gradient_is_clipped_to_the_norm():
    learner = make(grad_clip=1e-3)
    before = learner.network.weight.detach().clone()
    learner.run_epoch(batches(1), budget(), ignore)
    assert (learner.network.weight - before).abs().max() <= 0.1 * 1e-3 * 1.001


def test_the_state_goes_into_a_new_learner_and_both_go_on_alike():
    first, second = make(ema_decay=0.5), make(ema_decay=0.5)
    first.run_epoch(batches(3), budget(), ignore)
    second.load_resume_state(first.resume_state())
    assert second.step == 3
    for learner in (first, second):
        learner.run_epoch(batches(2), budget(), ignore)
    assert torch.equal(first.network.weight, second.network.weight)
    assert torch.equal(first.evaluated.weight, second.evaluated.weight)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_moving_average_may_begin_or_end_where_a_run_goes_on(decay):
    first, second = make(ema_decay=decay), make(ema_decay=0.5 - decay)
    first.run_epoch(batches(3), budget(), ignore)
    second.load_resume_state(first.resume_state())
    assert torch.equal(second.network.weight, first.network.weight)
    assert torch.equal(second.evaluated.weight, first.network.weight)


def test_the_scale_of_float16_goes_on_and_one_that_begins_starts_afresh():
    def scaled(init_scale):
        learner = make()
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        return learner

    first, second = scaled(8.0), scaled(4.0)
    first.run_epoch(batches(1), budget(), ignore)
    second.load_resume_state(first.resume_state())
    assert second.scaler.get_scale() == 8
    second.load_resume_state(make().resume_state())
    assert second.scaler.get_scale() == 8


def test_epoch_means_are_over_the_steps():
    learner = make()
    losses = []
    means = learner.run_epoch(
        batches(4), budget(), lambda _step, terms: losses.append(terms["loss"])
    )
    assert means.terms["loss"] == pytest.approx(sum(losses) / 4)
    assert means.lr == 0.1


def test_the_wait_for_batches_is_measured_without_the_first(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def slow(parts):
        for number, part in enumerate(parts):
            clock[0] += 50.0 if number == 0 else 3.0
            yield part

    def compute(_step, _terms):
        clock[0] += 1.0

    means = make().run_epoch(slow(batches(5)), budget(), compute)
    assert means.waited == pytest.approx(4 * 3 / (4 * 3 + 5 * 1))
    assert means.steps_per_s == pytest.approx(5 / (50 + 4 * 3 + 5))
    assert make().run_epoch([], budget(), ignore).waited == 0


def test_what_a_case_was_annotated_for_reaches_the_loss():
    learner = make()
    given, inner = [], learner.terms

    def terms(logits, label, mask=None):
        given.append(mask)
        return inner(logits, label, mask)

    learner.terms = terms
    (partial,) = batches(1)
    partial["annotated"] = torch.tensor([[True], [False]])
    learner.run_epoch([*batches(1), partial], budget(), ignore)
    assert given[0] is None
    assert torch.equal(given[1], partial["annotated"].view(2, 1, 1, 1, 1).expand(2, 1, 2, 2, 2))


class OneOfThree(Ranks):
    """The second of three ranks; the others are told what this one says, or what a test has."""

    rank, count = 1, 3

    def __init__(self, told):
        self.told = told
        self.time = 0.0

    def any(self, flag):
        return flag or any(guilty for guilty, _ in self.told.values())

    def exchange(self, value):
        return [self.told.get(rank, value) for rank in range(3)]

    def now(self):
        self.time += 1.0
        return self.time


def broken_on(told, *, here):
    learner = make(ranks=OneOfThree(told))
    (batch,) = batches(1)
    if here:
        batch["image"][0, 0, 0, 0, 0] = float("inf")
    return learner, batch


def test_of_a_loss_that_is_not_finite_the_rank_with_the_bad_logits_tells():
    learner, batch = broken_on({0: (False, ["a"]), 2: (True, ["c"])}, here=True)
    with pytest.raises(NonFiniteLossError) as error:
        learner.run_epoch([batch], budget(), ignore)
    assert error.value.cases == ["x", "x"]
    learner, batch = broken_on({0: (True, ["a"]), 2: (False, ["c"])}, here=True)
    with pytest.raises(PeerFailedError):
        learner.run_epoch([batch], budget(), ignore)


def test_a_loss_that_is_not_finite_elsewhere_takes_no_step_here():
    learner, batch = broken_on({0: (True, ["a"]), 2: (False, ["c"])}, here=False)
    before = learner.network.weight.detach().clone()
    with pytest.raises(PeerFailedError):
        learner.run_epoch([batch], budget(), ignore)
    assert torch.equal(learner.network.weight, before)


def test_where_no_logits_are_to_blame_the_first_rank_names_all_cases():
    learner, batch = broken_on({0: (False, ["a"]), 2: (False, ["c"])}, here=False)
    learner.terms = lambda *_: {"loss": torch.tensor(float("nan"), requires_grad=True)}
    with pytest.raises(PeerFailedError):
        learner.run_epoch([batch], budget(), ignore)
    learner.ranks.rank = 0
    learner.ranks.told = {1: (False, ["b"]), 2: (False, ["c"])}
    with pytest.raises(NonFiniteLossError) as error:
        learner.run_epoch([batch], budget(), ignore)
    assert error.value.cases == ["x", "x", "b", "c"]


def test_the_clock_that_ends_an_epoch_is_that_of_the_ranks():
    learner = make(ranks=OneOfThree({}))
    by_clock = Budget(100, 7.0, started_s=0.0, loop_started_s=0.0)
    # Two readings a step: for its learning rate, and whether there is another.
    assert learner.run_epoch(batches(10), by_clock, ignore).steps == 4
    learner = make(ranks=OneOfThree({}))
    learner.run_epoch(batches(2), budget(), ignore)
    assert learner.ranks.time == 0  # without a limit nobody asks
