"""Runs that end before their time: what they say, what they leave, and what they do not."""

import contextlib
import errno
import re
import shutil
import signal

import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from segfocal.errors import RunFailedError, UserError
from tests.runs import tiny_run


@pytest.fixture
def interruptible():
    """As at a terminal: a shell that starts a job in the background has it ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.usefixtures("interruptible")
def test_an_interruption_while_last_pt_is_replaced_says_which_epoch_it_holds(
    phantom, tmp_path, monkeypatch, epoch, when
):
    from segfocal.training import session

    write = session.save_checkpoint

    def interrupted(path, checkpoint):
        is_here = path.name == "last.pt" and checkpoint.progress["epoch"] == epoch
        if is_here and when == "before":
            signal.raise_signal(signal.SIGINT)
        write(path, checkpoint)
        if is_here and when == "after":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(session, "save_checkpoint", interrupted)
    said = f"last.pt is safe (epoch {epoch}). Go on with --resume."
    with pytest.raises(KeyboardInterrupt, match=re.escape(said)):
        tiny_run(phantom, tmp_path / "a")
    assert load_checkpoint(tmp_path / "a" / "last.pt").progress["epoch"] == epoch


@pytest.mark.parametrize(
    ("amp", "cure"),
    [("fp32", "a smaller train.lr"), ("bf16", "train.amp: fp32"), ("fp16", "train.amp: bf16")],
)
def test_a_nan_loss_stops_the_run_and_names_the_cases_and_a_cure(phantom, tmp_path, amp, cure):
    told = rf"Loss became NaN .* \(cases PHANTOM_\d+; {amp}\)\. .* Try {cure}\.$"
    settings = ("train.lr=1e38", "train.grad_clip=null", f"train.amp={amp}", "train.device=cpu")
    with pytest.raises(RunFailedError, match=told):
        tiny_run(phantom, tmp_path / "a", *settings)
    assert (tmp_path / "a" / "FAILED.txt").exists()
    assert not (tmp_path / "a" / "DONE").exists()
    batch = torch.load(tmp_path / "a" / "nan_batch.pt", weights_only=True)
    assert batch["image"].shape == (1, 4, 16, 16, 16)


def test_a_nan_loss_is_told_where_its_batch_cannot_be_saved(phantom, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segfocal.training.failure.torch.save", full)
    with pytest.raises(RunFailedError, match=r"Loss became NaN .* Its batch could not be saved\."):
        tiny_run(phantom, tmp_path / "a", "train.lr=1e38", "train.grad_clip=null")
    assert "Loss became NaN" in (tmp_path / "a" / "FAILED.txt").read_text()


def test_memory_running_out_says_what_to_try(phantom, tmp_path, monkeypatch):
    from segfocal.training.learner import Learner

    def too_large(self, group):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Learner, "_optimise", too_large)
    with pytest.raises(RunFailedError) as error:
        tiny_run(phantom, tmp_path / "a", "train.batch_size=4")
    assert str(error.value) == (
        "Out of memory at patch 16x16x16, batch 4. Try batch_size 2 with accumulate 2. "
        "No epoch was finished."
    )


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            (
                "Disk full: {out} could not be written (No space left on device). last.pt is safe "
                "(epoch 1). Make room, then go on with --resume."
            ),
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            (
                "Out of memory at patch 16x16x16, batch 1. Try a smaller patch_size. last.pt is "
                "safe (epoch 1)."
            ),
        ),
        (KeyError("momentum"), "KeyError: 'momentum'"),
    ],
    ids=["disk", "memory", "unforeseen"],
)
def test_a_failed_run_leaves_its_reason_in_the_folder_and_in_the_log(
    phantom, tmp_path, monkeypatch, raised, told
):
    from segfocal.training.session import Session

    original, out = Session._save, tmp_path / "a"

    def fail_in_epoch_two(self, name, *, resume):
        if self.progress.epoch == 2:
            raise raised
        original(self, name, resume=resume)

    monkeypatch.setattr(Session, "_save", fail_in_epoch_two)
    with pytest.raises((RunFailedError, KeyError)):
        tiny_run(phantom, out)
    told = told.format(out=out)
    assert (out / "FAILED.txt").read_text() == told + "\n"
    log = (out / "log.txt").read_text()
    assert f"  failed {told}\n" in log
    assert ("Traceback" in log) == isinstance(raised, KeyError)
    assert not (out / "DONE").exists()
    monkeypatch.undo()
    tiny_run(phantom, out, resume=True)
    assert (out / "DONE").exists()
    assert not (out / "FAILED.txt").exists()


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "No space"), KeyboardInterrupt()])
def test_a_run_whose_report_fails_is_not_done_and_its_resume_writes_it(
    phantom, tmp_path, monkeypatch, raised
):
    from segfocal.training.reporter import Reporter

    def fail(self, outcome):
        raise raised

    monkeypatch.setattr(Reporter, "finish", fail)
    with pytest.raises((RunFailedError, KeyboardInterrupt), match=r"last\.pt is safe \(epoch 2\)"):
        tiny_run(phantom, tmp_path / "a")
    assert not (tmp_path / "a" / "DONE").exists()
    monkeypatch.undo()
    tiny_run(phantom, tmp_path / "a", resume=True)
    assert (tmp_path / "a" / "DONE").exists()
    assert "done" in (tmp_path / "a" / "report.html").read_text()


def test_a_budget_that_starting_uses_up_is_told_and_leaves_no_done(phantom, tmp_path):
    with pytest.raises(RunFailedError) as error:
        tiny_run(phantom, tmp_path / "a", "train.max_minutes=0.0001")
    assert re.fullmatch(
        r"train\.max_minutes \(0\.0001\) was used up before the first step: starting took \d+ s\. "
        r"Raise it\.",
        str(error.value),
    )
    assert not (tmp_path / "a" / "DONE").exists()
    with pytest.raises(RunFailedError, match="used up before the first step"):
        tiny_run(phantom, tmp_path / "a", "train.max_minutes=0.0001", resume=True)
    tiny_run(phantom, tmp_path / "a", resume=True)
    assert (tmp_path / "a" / "DONE").exists()


@pytest.mark.parametrize("where", [(), ("data.cache=none", "data.num_workers=1")])
def test_a_damaged_image_met_in_loading_is_the_reason_in_the_folder(phantom, tmp_path, where):
    root = shutil.copytree(phantom, tmp_path / "data")
    image = root / "imagesTr" / "PHANTOM_002.nii.gz"
    image.write_bytes(image.read_bytes()[:-2000])
    with pytest.raises(UserError, match="PHANTOM_002: ") as error:
        tiny_run(root, tmp_path / "a", *where)
    assert (tmp_path / "a" / "FAILED.txt").read_text() == f"{error.value}\n"
    assert str(error.value).startswith("PHANTOM_002: ")
    assert "\n" not in str(error.value)


def test_a_run_that_is_cut_while_it_goes_on_is_not_done(phantom, tmp_path, monkeypatch):
    from segfocal.training.learner import Learner

    tiny_run(phantom, tmp_path / "a", "train.epochs=1")

    def interrupt(self, group):
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "_optimise", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        tiny_run(phantom, tmp_path / "a", resume=True)
    for name in ("DONE", "report.html"):
        assert not (tmp_path / "a" / name).exists()
