"""What ended a run: one line that says what is safe and what to try, in the folder and the log."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from segfocal.checkpoint import save_tensors
from segfocal.errors import RunFailedError, UserError, one_line
from segfocal.files import atomic_write, is_disk_full
from segfocal.inference.device import is_out_of_memory
from segfocal.training.learner import NonFiniteLossError
from segfocal.training.rank_group import is_lost_peer
from segfocal.training.ranks import PeerFailedError

if TYPE_CHECKING:
    from segfocal.training.session import Session

_SENT_BY_WORKER = re.compile(r"Caught \w+ in DataLoader worker process")


@contextmanager
def failures_told(session: Session) -> Iterator[None]:
    """Leaves FAILED.txt and a line in log.txt where the block fails, and raises that line.

    Of several ranks the one that failed first does so, whichever it is: the others may hang on it.

    Raises:
        RunFailedError: In place of an error whose cause is known (disk, memory, NaN).
        KeyboardInterrupt: Passed on, saying which epoch is safe.
    """
    ranks = session.ranks
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{session.standing} Go on with --resume.") from None
    except Exception as error:
        if isinstance(error, PeerFailedError) or not ranks.claim_failure():
            raise
        failure = explained(error, session)
        message = (
            one_line(failure) if ranks.count == 1 else f"rank {ranks.rank}: {one_line(failure)}"
        )
        with contextlib.suppress(OSError):  # the full disk that the message may be about
            session.folder.finish(message)
            session.reporter.open_log(session.folder.path)
            if not isinstance(failure, (UserError, RunFailedError)):
                session.reporter.log(traceback.format_exc().rstrip())
            session.reporter.log(f"failed {message}")
        if failure is error:
            raise
        raise failure from error


def explained(error: Exception, session: Session) -> Exception:
    """The error that says what to do about `error`; itself where nobody knows."""
    if isinstance(error, (UserError, RunFailedError)):
        return _without_traceback(error)
    if isinstance(error, NonFiniteLossError):
        return RunFailedError(_non_finite(error, session))
    if is_disk_full(error):
        assert isinstance(error, OSError)
        return RunFailedError(
            f"Disk full: {error.filename or session.folder.path} could not be written "
            f"({error.strerror}). "
            f"{session.standing} Make room, then go on with --resume."
        )
    if session.ranks.count > 1 and is_lost_peer(error):
        return RunFailedError(
            f"Another rank does not answer any more: it was killed, or its machine is gone "
            f"(torchrun says which). {session.standing} Go on with --resume."
        )
    if is_out_of_memory(error):
        return RunFailedError(_out_of_memory(session))
    return error


def _without_traceback(error: UserError | RunFailedError) -> Exception:
    """The error itself; of one that a loader process sent, which is all of a traceback, the end."""
    text = str(error).rstrip()
    if not _SENT_BY_WORKER.match(text):
        return error
    kind = UserError if isinstance(error, UserError) else RunFailedError
    return kind(text.splitlines()[-1].partition(": ")[2])


def _non_finite(error: NonFiniteLossError, session: Session) -> str:
    try:
        with atomic_write(session.folder / "nan_batch.pt") as stream:
            save_tensors(error.batch, stream)
        saved = "Batch saved to nan_batch.pt."
    except (OSError, RuntimeError):  # torch's own for a full disk: the loss is what to tell of
        saved = "Its batch could not be saved."
    cases = ", ".join(error.cases)
    cure = "Try train.amp: bf16." if session.amp_name == "fp16" else "Try a smaller train.lr."
    if session.amp_name == "bf16" and session.device.type == "cpu":
        # torch's own bf16 gradient was NaN, in 1 to 8 of 8 tries, of a volume 2 voxels deep
        cure = "Try train.amp: fp32."
    return (
        f"{error.what} became NaN or infinite at step {error.step} (cases {cases}; "
        f"{session.amp_name}). {saved} {cure}"
    )


def _out_of_memory(session: Session) -> str:
    train = session.config.train
    patch = "x".join(map(str, train.patch_size))
    place, used = "memory", ""
    if session.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(session.device)
        place, used = "GPU memory", f" ({(total - free) / 2**30:.1f} of {total / 2**30:.1f} GB)"
    if train.batch_size > 1:
        half = (train.batch_size + 1) // 2
        cure = f"Try batch_size {half} with accumulate {train.accumulate * 2}."
    else:
        cure = "Try a smaller patch_size."
    where = f"patch {patch}, batch {train.batch_size}"
    return f"Out of {place} at {where}{used}. {cure} {session.standing}"
