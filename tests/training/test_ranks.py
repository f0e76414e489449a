import time
from types import SimpleNamespace

import pytest
import torch

from segfocal.errors import RunFailedError, UserError
from segfocal.training import rank_group
from segfocal.training.failure import failures_told
from segfocal.training.launch import Launch
from segfocal.training.rank_group import RankGroup, is_lost_peer
from segfocal.training.rank_warnings import RankWarnings
from segfocal.training.ranks import ALONE, PeerFailedError, join, share
from segfocal.training.run_folder import RunFolder


@pytest.mark.parametrize("total", range(9))
@pytest.mark.parametrize("count", range(1, 6))
def test_shares_are_neighbours_that_make_up_the_whole_and_differ_by_one_at_most(total, count):
    parts = [list(share(total, rank, count)) for rank in range(count)]
    assert [one for part in parts for one in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == min(map(len, parts))  # the first rank writes and draws besides


def test_a_process_alone_decides_by_itself():
    with join(None) as ranks:
        assert ranks is ALONE
        assert ranks.is_first
        assert abs(ranks.now() - time.monotonic()) < 1
        assert (ranks.any(True), ranks.any(False)) == (True, False)
        assert ranks.exchange("a") == ["a"]
        assert ranks.to_first("a", 0) == ranks.once_a_machine(lambda: "a") == "a"
        assert ranks.share(5) == range(5)
        assert ranks.claim_failure()
        assert ranks.agents() == ()


class Store(dict):
    """As much of torch's store as a rank asks for."""

    def __init__(self):
        self.asked = []

    def check(self, keys):
        self.asked += keys
        return all(key in self for key in keys)

    def add(self, key, amount):
        self[key] = self.get(key, 0) + amount
        return self[key]

    def set(self, key, value):
        self[key] = value


@pytest.fixture(autouse=True)
def ends(monkeypatch):
    """A rank that ends leaves the process of the tests alone."""

    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(rank_group, "_end", end)


def rank_of(store, rank=1, count=2, **launch):
    facts = {"local_rank": rank, "local_world_size": count, "machine": 0, "restarts": 0}
    facts |= {"address": ("localhost", 1), "agent_has_store": True, "agent": "a"} | launch
    ranks = RankGroup(Launch(rank=rank, world_size=count, **facts))
    ranks._store = store
    return ranks


def test_the_first_to_fail_tells_and_no_other():
    store = Store()
    first, second = rank_of(store, 1), rank_of(store, 0)
    assert [first.claim_failure(), second.claim_failure()] == [True, False]
    assert [first.claim_failure(), second.claim_failure()] == [True, False]


def test_who_waits_for_a_rank_that_failed_stops_waiting():
    store = Store()
    rank_of(store, 0).claim_failure()
    with pytest.raises(PeerFailedError):
        rank_of(store, 1).job()


def test_a_rank_that_has_nothing_to_tell_waits_to_be_ended(monkeypatch):
    store, waited = Store(), []
    monkeypatch.setattr(time, "sleep", waited.append)
    rank_of(store, 0).claim_failure()
    for error in (ValueError("late"), PeerFailedError()):
        with pytest.raises(SystemExit) as stop:
            rank_of(store, 1).__exit__(type(error), error, None)
        assert stop.value.code == 1
    assert len(waited) == 2
    # Not even where it comes first: the guilty one is about to tell.
    with pytest.raises(SystemExit):
        rank_of(Store(), 1).__exit__(PeerFailedError, PeerFailedError(), None)
    # The first to fail goes with its own error.
    rank_of(Store(), 1).__exit__(ValueError, ValueError("first"), None)


def test_a_rank_that_is_done_leaves_silently_if_another_fails_in_the_end(monkeypatch):
    store, waited = Store(), []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(Store, "delete_key", lambda *_: None, raising=False)
    rank_of(store, 0).claim_failure()
    done = rank_of(store, 1)
    done._announced = True
    with pytest.raises(SystemExit) as stop:
        done.__exit__(None, None, None)
    assert stop.value.code == 1
    assert len(waited) == 1


def test_the_end_that_torchrun_sends_to_a_waiting_rank_is_silent(monkeypatch):
    store = Store()
    rank_of(store, 1).claim_failure()

    def ended(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", ended)
    for error in (RuntimeError("Connection closed by peer"), PeerFailedError()):
        with pytest.raises(SystemExit) as stop:
            rank_of(store, 0).__exit__(type(error), error, None)
        assert stop.value.code == 1


def test_a_rank_that_knows_the_guilty_one_leaves_the_telling_and_the_files_to_it():
    store = Store()
    session = SimpleNamespace(ranks=rank_of(store, 0))
    with pytest.raises(PeerFailedError), failures_told(session):
        raise PeerFailedError
    assert "failed" not in store
    rank_of(store, 1).claim_failure()
    with pytest.raises(ValueError, match="late"), failures_told(session):
        raise ValueError("late")


def test_a_connection_that_broke_is_told_as_what_it_means(tmp_path):
    told = []
    session = SimpleNamespace(
        ranks=rank_of(Store(), 0),
        standing="last.pt is safe (epoch 3).",
        folder=RunFolder(tmp_path, resume=False),
        reporter=SimpleNamespace(open_log=lambda _path: None, log=told.append),
    )
    with pytest.raises(RunFailedError) as error, failures_told(session):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert str(error.value) == (
        "Another rank does not answer any more: it was killed, or its machine is gone (torchrun "
        "says which). last.pt is safe (epoch 3). Go on with --resume."
    )
    assert (tmp_path / "FAILED.txt").read_text() == f"rank 0: {error.value}\n"
    assert told == [f"failed rank 0: {error.value}"]


def test_ctrl_c_is_told_by_the_first_rank_alone():
    interrupt = KeyboardInterrupt("last.pt is safe")
    assert rank_of(Store(), 0).__exit__(KeyboardInterrupt, interrupt, None) is None
    with pytest.raises(SystemExit) as stop:
        rank_of(Store(), 1).__exit__(KeyboardInterrupt, interrupt, None)
    assert stop.value.code == 130


def test_an_end_that_torchrun_sends_because_another_failed_is_not_told():
    store = Store()
    rank_of(store, 1).claim_failure()
    with pytest.raises(SystemExit) as stop:
        rank_of(store, 0).__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stop.value.code == 1


@pytest.mark.parametrize(
    ("local_rank", "have", "message"),
    [(0, 2, True), (3, 2, True), (1, 1, True), (0, 4, False), (3, 4, False), (0, 1, False)],
)
def test_fewer_gpus_than_ranks_are_told(monkeypatch, local_rank, have, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: have)
    ranks = rank_of(Store(), local_rank, 4)
    if not message:  # one GPU seen as number 0 may be that of --virtual-local-rank
        assert ranks.device("auto") == torch.device("cuda", local_rank)
        return
    with pytest.raises(UserError) as error:
        ranks.device("cuda")
    assert str(error.value) == (
        f"torchrun started 4 ranks on this machine, and torch sees {have} GPUs. Use "
        f"--nproc-per-node {have}, or train.device: cpu."
    )


def test_without_a_gpu_or_by_wish_ranks_are_on_the_cpu(monkeypatch):
    assert rank_of(Store(), 1).device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rank_of(Store(), 1).device("auto") == torch.device("cpu")


def test_a_connection_that_broke_is_told_from_other_errors():
    gone = RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection "
        "closed by peer [127.0.0.1]:2"
    )
    assert is_lost_peer(gone)
    assert is_lost_peer(torch.distributed.DistNetworkError("no answer"))
    assert not is_lost_peer(RuntimeError("shapes differ"))
    assert not is_lost_peer(ValueError("gloo"))


def test_a_warning_that_every_rank_meets_is_shown_by_the_first_to_meet_it(capsys):
    seen = set()

    def claim(key):
        return key not in seen and not seen.add(key)

    early, late = RankWarnings(1), RankWarnings(0)
    early._show(UserWarning("before they met"), UserWarning, "a.py", 3, line="x")
    assert capsys.readouterr().err == ""
    early.connect(claim)
    late.connect(claim)
    for rank in (late, early):
        for text in ("before they met", "odd"):
            rank._show(UserWarning(text), UserWarning, "a.py", 3, line="x")
    assert capsys.readouterr().err == (
        "[rank 1] a.py:3: UserWarning: before they met\n  x\n"
        "[rank 0] a.py:3: UserWarning: odd\n  x\n"
    )
