"""What becomes of a training on two ranks when one of them fails, by torchrun itself."""

import socket

import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from tests.ranks.torchrun import command, finish, start

pytestmark = pytest.mark.slow


def own_lines(errors):
    """What the ranks wrote, without torchrun's own report."""
    return [line for line in errors.splitlines() if line.startswith("segfocal-train")]


SETTINGS = ("train.epochs=3", "data.cache=disk")


@pytest.fixture(scope="module")
def unharmed(phantom, tmp_path_factory):
    """A run on two ranks to which nothing happens: its weights, and what it wrote to stderr."""
    folder = tmp_path_factory.mktemp("unharmed")
    started = command(phantom, folder / "run", *SETTINGS, f"data.cache_dir={folder / 'cache'}")
    status, _, errors = finish(start(2, *started, FAULT="none 0 2"))
    assert status == 0, errors
    return load_checkpoint(folder / "run" / "last.pt").model, errors


def assert_unharmed(run, unharmed):
    assert (run / "DONE").exists()
    assert not (run / "FAILED.txt").exists()
    ended = load_checkpoint(run / "last.pt")
    assert ended.progress["step"] == 6
    assert all(torch.equal(ended.model[name], unharmed[0][name]) for name in unharmed[0])


@pytest.mark.parametrize(
    ("fault", "told"), [("kill 1 2", "resume after epoch 1"), ("kill 1 1", "")]
)
def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_nothing_had_been(
    phantom, tmp_path, unharmed, fault, told
):
    started = command(phantom, tmp_path / "run", *SETTINGS, f"data.cache_dir={tmp_path / 'cache'}")
    options = ("--standalone", "--max-restarts=1")
    status, said, errors = finish(start(2, *started, options=options, FAULT=fault))
    assert status == 0, errors
    assert told in said
    assert_unharmed(tmp_path / "run", unharmed)
    assert len((tmp_path / "run" / "command.txt").read_text().splitlines()) == 3  # and a stamp


def test_of_a_warning_that_both_ranks_meet_one_tells_and_says_which_it_is(unharmed):
    _, errors = unharmed
    assert errors.count("UserWarning: this epoch is odd") == 1
    assert "[rank " in errors


def test_two_machines_train_as_two_ranks_of_one(phantom, tmp_path, unharmed):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    meet = ("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--local-addr=localhost")
    started = command(phantom, tmp_path / "run", *SETTINGS, f"data.cache_dir={tmp_path / 'cache'}")
    both = [start(1, *started, options=("--nnodes=2", *meet)) for _ in range(2)]
    for process in both:
        status, _, errors = finish(process)
        assert status == 0, errors
    assert_unharmed(tmp_path / "run", unharmed)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise 1 2", "RuntimeError: PHANTOM_00"),
        ("nan 1 2", "Loss became NaN or infinite at step 3 (cases PHANTOM_00"),
    ],
)
def test_a_failure_of_one_rank_ends_both_with_one_message(phantom, tmp_path, fault, message):
    process = start(2, *command(phantom, tmp_path / "run"), FAULT=fault)
    status, _, errors = finish(process)
    assert status != 0
    (told,) = own_lines(errors)
    assert told.startswith(f"segfocal-train (rank 1): {message}")
    assert told in errors.split("Root Cause")[1]  # torchrun's summary ends with it
    failed = (tmp_path / "run" / "FAILED.txt").read_text()
    assert failed.startswith(f"rank 1: {message}")
    assert f"failed {failed.strip()}" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "nan_batch.pt").exists() == fault.startswith("nan")
    assert load_checkpoint(tmp_path / "run" / "last.pt").progress["epoch"] == 1


def test_an_interrupted_run_says_once_what_is_safe(phantom, tmp_path):
    settings = ("train.epochs=100000", "train.val_every=100000")
    process = start(2, *command(phantom, tmp_path / "run", *settings), FAULT="interrupt 0 4")
    _, _, errors = finish(process)
    (told,) = own_lines(errors)
    assert told.startswith("segfocal-train (rank 0): Interrupted. last.pt is safe (epoch ")
    assert told.endswith("Go on with --resume.")
    assert not (tmp_path / "run" / "FAILED.txt").exists()
    assert load_checkpoint(tmp_path / "run" / "last.pt").progress["epoch"] >= 1


def test_a_mistake_is_told_once_before_anything_is_read(tmp_path):
    started = command(tmp_path / "nowhere", tmp_path / "run", "train.batch_size=1")
    status, _, errors = finish(start(2, *started))
    assert status != 0
    (told,) = own_lines(errors)
    assert told == (
        "segfocal-train (rank 0): --set: train.batch_size: is shared out over the ranks: expected "
        "at least one patch for each of 2, got 1. Raise it, or start fewer with --nproc-per-node."
    )
    assert "exitcode  : 2" in errors.split("Root Cause")[1]
    assert not (tmp_path / "run").exists()
