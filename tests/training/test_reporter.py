"""What reaches bars and pictures; whole runs are in test_train.py, without a terminal."""

import math
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from segfocal.metrics.case_score import RegionSummary
from segfocal.reports import figures
from segfocal.training.learner import EpochMeans
from segfocal.training.progress import Progress
from segfocal.training.reporter import Reporter
from segfocal.training.validate import Sample


class Bars:
    """A console that notes which bars were opened, what moved them, and which were closed."""

    def __init__(self):
        self.opened, self.moved, self.open = [], [], 0

    @contextmanager
    def _bar(self, *what):
        self.opened.append(what)
        self.open += 1
        yield SimpleNamespace(advance=lambda **told: self.moved.append(told))
        self.open -= 1

    epoch = working = _bar


def reporter():
    told = Reporter(quiet=True)
    told.console = Bars()
    told._session = SimpleNamespace(memory_gb=1.5, eta_s=lambda: 60.0)
    return told


def test_every_step_moves_the_bar_and_every_fifth_tells_the_loss(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    told = reporter()
    with told.epoch(2, 9, 50) as on_step:
        for step in range(1, 11):
            clock[0] += 0.5
            on_step(step, {"loss": step / 10, "focal": 0.1, "dice": 0.2})
    assert told.console.opened == [(2, 9, 50)]
    shown = {"terms": {"focal": 0.1, "dice": 0.2}, "steps_per_s": 2.0, "memory_gb": 1.5}
    assert told.console.moved == [
        *(4 * [{}]),
        {"loss": 0.5, "eta_s": 60.0, **shown},
        *(4 * [{}]),
        {"loss": 1.0, "eta_s": 60.0, **shown},
    ]


def test_labels_that_are_read_share_a_bar_that_opens_with_the_first():
    told = reporter()
    with told.checking() as on_case:
        assert told.console.opened == []
        for done in range(1, 4):
            on_case(done, 3)
            assert told.console.open == 1
    assert told.console.opened == [("checking data", 3)]
    assert told.console.moved == 3 * [{}]
    assert told.console.open == 0


def test_loading_and_validating_move_their_bars():
    told = reporter()
    for bar, what in ((told.loading, "loading cases"), (told.validating, "validating")):
        with bar(7) as on_case:
            on_case()
        assert told.console.opened.pop() == (what, 7)
        assert told.console.moved.pop() == {}


@pytest.fixture
def drawn(monkeypatch):
    """What was asked of the two figures: file, stamped or not, and more."""
    asked = []

    def sample_figure(_image, _channels, _reference, _prediction, _scheme, path, **told):
        asked.append((path, told))

    monkeypatch.setattr(figures, "sample_figure", sample_figure)
    monkeypatch.setattr(
        figures, "progress_figure", lambda _records, path, **told: asked.append((path, told))
    )
    return asked


def on_run(told, folder, *, synthetic):
    """The reporter of a run in this folder, whose console keeps how epochs ended."""
    dataset = SimpleNamespace(scheme=None, synthetic=synthetic)
    plan = SimpleNamespace(
        dataset=dataset, channels=("T1",), annotated_targets={"c": (True, False)}
    )
    config = SimpleNamespace(train=SimpleNamespace(epochs=9))
    told._session = SimpleNamespace(
        plan=plan, config=config, folder=folder, memory_gb=None, eta_s=lambda: 60.0
    )
    records, told.ended = [], []
    told._history = SimpleNamespace(records=records, append=records.append)
    told.console.end_epoch = lambda *ended, **how: told.ended.append((*ended, how["best"]))
    return told


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_picture_says_what_was_not_annotated_and_what_is_a_phantom(tmp_path, drawn, synthetic):
    told = on_run(reporter(), tmp_path, synthetic=synthetic)
    told.validated(3, [], Sample("c", None, None, None, (1.0, 2.0, 3.0), 7), is_best=False)
    ((path, options),) = drawn
    assert path == tmp_path / "samples" / "epoch_003.png"
    assert options == {
        "title": "c, epoch 3",
        "zooms_mm": (1.0, 2.0, 3.0),
        "synthetic": synthetic,
        "annotated": (True, False),
    }
    assert not (tmp_path / "val_cases.csv").exists()


@pytest.mark.parametrize("synthetic", [True, False])
@pytest.mark.parametrize(
    ("validated", "best_epoch", "best_score", "best"),
    [
        (True, 3, 0.5, True),
        (True, 2, 0.5, False),
        (True, 3, 0.0, False),
        (True, 3, math.nan, False),
        (False, 3, 0.5, False),
    ],
)
def test_an_epoch_is_called_best_that_was_validated_and_found_something(
    tmp_path, drawn, synthetic, validated, best_epoch, best_score, best
):
    told = on_run(reporter(), tmp_path, synthetic=synthetic)
    summary = {"WT": RegionSummary(0.5, 0.5, *[1] * 7)} if validated else None
    means = EpochMeans({"loss": 0.7, "focal": 0.3}, 5, 0.01, 2.0)
    progress = Progress(epoch=3, elapsed_s=9.0, best_score=best_score, best_epoch=best_epoch)
    told.epoch_done(3, 15, means, summary, progress)
    ((record, num_epochs, is_best),) = told.ended
    assert (num_epochs, is_best) == (9, best)
    assert (record.epoch, record.step, record.elapsed_s, record.loss) == (3, 15, 9.0, 0.7)
    assert (record.terms, record.val) == ({"focal": 0.3}, summary)
    expected = [(tmp_path / "progress.png", {"synthetic": synthetic})] if validated else []
    assert drawn == expected
