"""What a run makes of its clock: numbers by hand, for a session without data or network."""

import math
import time
from types import SimpleNamespace

import pytest

from segfocal.config.schema import Config
from segfocal.training import session as module
from segfocal.training.progress import Progress
from segfocal.training.ranks import Ranks
from segfocal.training.schedule import Budget
from segfocal.training.session import Session


class Clock(Ranks):
    """Alone, at a time that a test sets."""

    def __init__(self, now_s):
        self.now_s = now_s

    def now(self):
        return self.now_s


def session(*, now_s=0.0, val=("v",), progress=None, step=0, **train):
    """As much of a run, begun at 1000 s, as decides about time."""
    run = Session.__new__(Session)
    run.config = Config.model_validate({"data": {"root": "x"}, "train": train})
    run.plan = SimpleNamespace(split=SimpleNamespace(val=val))
    run.progress = Progress() if progress is None else progress
    run.learner = SimpleNamespace(step=step)
    run.ranks = Clock(now_s)
    run.started_s = 1000.0
    return run


@pytest.mark.parametrize(
    ("progress", "over"),
    [
        (Progress(epoch=0, elapsed_s=900.0), False),  # nothing was trained yet
        (Progress(epoch=4, elapsed_s=591.9), False),
        (Progress(epoch=5, elapsed_s=100.0), True),
        (Progress(epoch=1, elapsed_s=592.0), True),  # 8 s are for the report
    ],
)
def test_a_run_is_over_after_its_epochs_or_its_time(progress, over):
    assert session(progress=progress, epochs=5, max_minutes=10).nothing_left is over


def test_a_run_without_a_limit_is_over_after_its_epochs_alone():
    assert not session(progress=Progress(epoch=4, elapsed_s=1e9), epochs=5).nothing_left
    assert session(progress=Progress(epoch=6), epochs=5).nothing_left


@pytest.mark.parametrize(
    ("val", "validation_s", "reserve_s"),
    [
        (("v",), 0.0, 1.3 * 60 + 8),  # a tenth of the limit, as long as nobody knows
        (("v",), 20.0, 1.3 * 20 + 8),
        (("v",), 400.0, 300.0),  # never more than half of the limit
        ((), 0.0, 8.0),
    ],
)
def test_a_budget_keeps_time_for_the_last_validation_and_the_report(val, validation_s, reserve_s):
    progress = Progress(validation_s=validation_s)
    run = session(
        now_s=1030.0, val=val, progress=progress, epochs=5, steps_per_epoch=7, max_minutes=10
    )
    assert run._budget() == Budget(35, 600.0, 1000.0, 1030.0, pytest.approx(reserve_s))
    assert progress.loop_began_s == 30.0


def test_a_run_that_goes_on_counts_its_steps_from_where_it_first_began_them():
    progress = Progress(epoch=2, loop_began_s=12.0)
    budget = session(now_s=1300.0, progress=progress, epochs=5, steps_per_epoch=7)._budget()
    assert budget == Budget(35, None, 1000.0, 1012.0, 0.0)
    assert progress.loop_began_s == 12.0


def test_the_clock_of_a_run_that_goes_on_holds_what_it_took_before(monkeypatch):
    monkeypatch.setattr(module, "resume_from", lambda *_: Progress(epoch=3, elapsed_s=250.0))
    run = session()
    run.loaded = SimpleNamespace(plain={})
    run._resume(None)
    assert run.started_s == 750.0
    assert run.standing == "last.pt is safe (epoch 3)."


@pytest.mark.parametrize(
    ("step", "epoch", "now_s", "over"),
    [(34, 4, 1e6, False), (35, 4, 0.0, True), (0, 5, 0.0, True)],
)
def test_without_a_limit_epochs_or_steps_end_a_run(step, epoch, now_s, over):
    run = session(now_s=now_s, step=step, progress=Progress(epoch=epoch), epochs=5)
    assert run._finished(Budget(35, None, 0.0, 0.0)) is over


def test_the_clock_ends_a_run_before_what_is_kept_for_its_end():
    budget = Budget(35, 600.0, 1000.0, 1000.0, reserve_s=50.0)
    assert not session(now_s=1549.0, epochs=5)._finished(budget)
    assert session(now_s=1550.0, epochs=5)._finished(budget)


def test_without_a_limit_every_so_many_epochs_are_validated():
    run = session(val_every=3, progress=Progress(validation_s=1e6, validations_s=1e9))
    no_limit = Budget(35, None, 0.0, 0.0)
    assert [run._validation_due(epoch, no_limit) for epoch in range(1, 7)] == [
        *(False, False, True),
        *(False, False, True),
    ]


@pytest.mark.parametrize(
    ("validation_s", "validations_s", "now_s", "due"),
    [
        (0.0, 0.0, 1999.0, True),  # the first: nobody knows what it takes
        (10.0, 140.0, 1000.0, True),  # 150 s of 1000 may go into validations
        (10.0, 140.1, 1000.0, False),
        (10.0, 10.0, 1969.0, True),  # another must fit, and the last one with time to spare
        (10.0, 10.0, 1970.0, False),
    ],
)
def test_a_limit_leaves_out_validations_that_it_cannot_afford(
    validation_s, validations_s, now_s, due
):
    progress = Progress(validation_s=validation_s, validations_s=validations_s)
    run = session(now_s=now_s, progress=progress, val_every=2)
    limited = Budget(10**6, 1000.0, 1000.0, 1000.0)
    assert run._validation_due(2, limited) is due
    assert not run._validation_due(3, limited)


def test_the_time_that_is_left_is_told_by_the_pace_of_this_part_of_the_run(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1030.0)
    run = session(step=50)
    run.budget, run._loop_began, run._first_progress = None, 1000.0, 0.2
    assert run.eta_s() is None
    run.budget = Budget(100, None, 0.0, 0.0)
    assert run.eta_s() == pytest.approx(0.5 * 30 / 0.3)  # 30 steps took 30 s; 50 are left
    run.learner.step = 20
    assert run.eta_s() is None


@pytest.mark.parametrize(
    ("best", "score", "kept"),
    [
        (math.nan, 0.0, True),
        (0.0, 0.0, True),  # nothing right yet: the later one has trained for longer
        (0.5, 0.5, False),
        (0.5, 0.4, False),
        (0.5, math.nan, False),
        (0.5, 0.6, True),
    ],
)
def test_the_best_is_what_scored_more_than_all_before(best, score, kept):
    run = session(progress=Progress(best_score=best, best_epoch=1))
    saved = []
    run._save = lambda name, *, resume: saved.append((name, resume))
    assert run._keep_best(score, 2) is kept
    assert saved == ([("best.pt", False)] if kept else [])
    assert run.progress.best_epoch == (2 if kept else 1)
