"""What reaches the bars of a terminal, which the runs of the other tests do not have."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

from segfocal.training.reporter import Reporter


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
