"""A training that is killed or interrupted, by the real signals, in a real process."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from tests.reports.trackers.test_tensorboard import STAMP, curve, events, texts
from tests.runs import TINY, tiny_run

pytestmark = pytest.mark.slow

# A shell that starts a job in the background has it ignore SIGINT, and so would its children.
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from segfocal.cli.train import main; main()"
)


def start(root, out, *settings):
    arguments = ["--config", "phantom.yaml", "--out", str(out), "--set", f"data.root={root}"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments, *TINY, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        start_new_session=True,
    )


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_one_curve(out, epochs):
    """TensorBoard has every epoch once, with the loss that metrics.csv has, and both ends."""
    read = events(out / "tensorboard" / STAMP)
    with (out / "metrics.csv").open(newline="") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    expected = [(number, pytest.approx(loss)) for number, loss in enumerate(losses, 1)]
    assert curve(read, "loss") == expected
    assert len(losses) == epochs
    assert ["interrupted" in text for text in texts(read, "end")] == [True, False]


SETTINGS = ("train.epochs=6", "train.val_every=4")


@pytest.fixture(scope="module")
def unbroken(phantom, tmp_path_factory):
    """The weights of a run that nobody killed."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    tiny_run(phantom, out, *SETTINGS)
    return load_checkpoint(out / "last.pt").model


@pytest.mark.parametrize("delay_s", [0.0, 0.15, 0.4])
def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(
    phantom, tmp_path, unbroken, delay_s
):
    tracked = (*SETTINGS, "trackers=[tensorboard]")
    with start(phantom, tmp_path / "cut", *tracked) as process:
        wait_for(tmp_path / "cut" / "last.pt", process)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
    done = load_checkpoint(tmp_path / "cut" / "last.pt").progress["epoch"]
    if done < 6:
        tiny_run(phantom, tmp_path / "cut", *tracked, resume=True)
        assert_one_curve(tmp_path / "cut", epochs=6)
    cut = load_checkpoint(tmp_path / "cut" / "last.pt").model
    assert all(torch.equal(cut[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_is_safe_and_exits_with_130(phantom, tmp_path, kind):
    with start(phantom, tmp_path / "run", "train.epochs=100000") as process:
        wait_for(tmp_path / "run" / "last.pt", process)
        process.send_signal(kind)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    last = errors.strip().splitlines()[-1]
    assert last.startswith("segfocal-train: Interrupted. last.pt is safe (epoch ")
    assert last.endswith("Go on with --resume.")
    assert load_checkpoint(tmp_path / "run" / "last.pt").progress["epoch"] >= 1


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3])
def test_a_signal_to_every_process_of_a_run_is_told_in_one_line(phantom, tmp_path, kind, delay_s):
    settings = ("train.epochs=100000", "data.num_workers=2")
    with start(phantom, tmp_path / "run", *settings) as process:
        wait_for(tmp_path / "run" / "last.pt", process)
        time.sleep(delay_s)
        os.killpg(process.pid, kind)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = errors.splitlines()
    assert line.startswith("segfocal-train: Interrupted. last.pt is safe (epoch ")


def test_a_closed_stdout_does_not_end_a_training(phantom, tmp_path):
    with start(phantom, tmp_path / "run", "train.epochs=4") as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert (tmp_path / "run" / "DONE").exists()
    assert "epoch   4/4" in (tmp_path / "run" / "log.txt").read_text()
