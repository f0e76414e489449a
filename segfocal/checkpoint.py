"""Checkpoints: complete or absent, loadable with `weights_only=True`, explaining themselves.

Everything in one is a tensor or a plain value, so loading runs no code. Besides weights it holds
the resolved config, the label scheme, channel names, alpha's provenance and versions.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import signal
import textwrap
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from segfocal.data.spacing import SpacingRange
from segfocal.errors import UserError
from segfocal.files import atomic_write
from segfocal.labels import LabelScheme

FORMAT = 1

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of `torch.save` begin that are no zip archives: its number, pickled."""

_CURE = "Pass best.pt or last.pt of a run; --init-from also takes a state dict."


@dataclass(frozen=True)
class Checkpoint:
    """What `last.pt` and `best.pt` hold.

    Attributes:
        model: State dict to predict with (the moving average, where there is one).
        config: Resolved settings as plain values.
        scheme: The label scheme.
        channels: Channels the network sees, in its order.
        file_channels: Channels that the image files of the training data held, in file order.
        alpha: Class weights with their provenance; None where the loss has none.
        versions: Versions of segfocal, torch and MONAI that wrote it.
        progress: epoch, step, elapsed_s, best_score and the like.
        synthetic: Whether it was trained on the phantom.
        resume: Optimiser, raw weights and scaler; None in `best.pt`.
        spacing_mm: Smallest and largest voxel size of the training files along R, A, S; None in a
            checkpoint of segfocal 0.1.0 and before.
    """

    model: dict[str, torch.Tensor]
    config: dict[str, Any]
    scheme: LabelScheme
    channels: tuple[str, ...]
    file_channels: tuple[str, ...]
    alpha: dict[str, Any] | None
    versions: dict[str, str]
    progress: dict[str, Any]
    synthetic: bool
    resume: dict[str, Any] | None = None
    spacing_mm: SpacingRange | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `path` at once: it is the old file or the new one, never half of one.

    Raises:
        OSError: If the folder cannot be written to or the disk is full.
    """
    payload: Mapping[str, Any] = {
        "format": FORMAT,
        "model": checkpoint.model,
        "config": checkpoint.config,
        "scheme": checkpoint.scheme.to_dict(),
        "channels": list(checkpoint.channels),
        "file_channels": list(checkpoint.file_channels),
        "alpha": checkpoint.alpha,
        "versions": checkpoint.versions,
        "progress": checkpoint.progress,
        "synthetic": checkpoint.synthetic,
        "resume": checkpoint.resume,
        "spacing_mm": checkpoint.spacing_mm,
    }
    with atomic_write(path) as stream:
        save_tensors(payload, stream)


def save_tensors(payload: Mapping[str, Any], stream: BinaryIO) -> None:
    """`torch.save`, whose failures are those of the stream, and which no Ctrl-C breaks off.

    Raises:
        OSError: If the disk is full.
    """
    with interrupts_held():
        try:
            torch.save(payload, stream)
        except RuntimeError as error:
            # torch's writer fails once more while it closes a stream that could not be written.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


@contextmanager
def interrupts_held() -> Iterator[None]:
    """SIGINT and SIGTERM that come within the block take effect at its end; blocks may be nested.

    torch's writer calls the stream from C++: an exception of a signal handler ends there as a
    RuntimeError of the archive, or ends the process while the writer is destroyed.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # one that Python did not set is None, and cannot be put back
            if signal.getsignal(number) is not None:
                before[number] = signal.signal(number, lambda got, _frame: came.append(got))
    try:
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
    if came:
        signal.raise_signal(came[0])


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU, refusing anything but tensors and plain values.

    Raises:
        UserError: If the file is missing, damaged, or not one of segfocal's.
    """
    path = Path(path)
    payload = _load(path)
    if not _is_ours(payload):
        alone = " It holds weights alone, which --init-from takes." if _weights(payload) else ""
        raise UserError(f"{path} is not a checkpoint of segfocal.{alone}")
    return _checkpoint(payload, path)


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], Checkpoint | None]:
    """Weights by name, of a checkpoint or a plain state dict such as a MONAI bundle's model.pt.

    Returns:
        The weights, and all else that a checkpoint of segfocal tells; None where the file is
        another's. A state dict may also stand under `model` or `state_dict`, as MONAI's and
        Lightning's handlers save it.

    Raises:
        UserError: If the file is missing, damaged, or holds no weights.
    """
    path = Path(path)
    payload = _load(path)
    if _is_ours(payload):
        checkpoint = _checkpoint(payload, path)
        return checkpoint.model, checkpoint
    weights = _weights(payload)
    if weights is None:
        raise UserError(
            f"{path} holds no weights: expected a checkpoint of segfocal or a state dict (tensors "
            f"by name), such as models/model.pt of a MONAI bundle."
        )
    return weights, None


def _load(path: Path) -> Any:
    """What a file of torch's holds, if that is tensors and plain values alone."""
    if not path.is_file():
        raise UserError(f"{path} does not exist. A run writes best.pt and last.pt in its folder.")
    what = _unlike_torch(path)
    if what:
        raise UserError(f"{path} is not a checkpoint of segfocal: {what}. {_CURE}")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        which = f" ({named[1]})" if named else ""
        raise UserError(
            f"{path} is damaged or not a checkpoint of segfocal: expected tensors and plain values "
            f"alone, got objects{which} that could run code as they are loaded. {_CURE}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        raise UserError(f"{path} is damaged or not a checkpoint of segfocal ({reason}).") from None
    return payload


def _unlike_torch(path: Path) -> str:
    """Why a file is none of `torch.save`'s, by how it begins; "" where it may be one."""
    try:
        with path.open("rb") as stream:
            begins = stream.read(len(_LEGACY))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    if not begins:
        return "it is empty"
    if not begins.startswith((b"PK", _LEGACY)):
        return "torch.save did not write it"
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return "it is a TorchScript program"
    return ""


def _weights(payload: Any) -> dict[str, torch.Tensor] | None:
    """A state dict, plain or under a usual key; None where there is none."""
    nested = [payload.get(key) for key in ("model", "state_dict")] if _is_dict(payload) else []
    for weights in (payload, *nested):
        if _is_dict(weights) and all(map(torch.is_tensor, weights.values())):
            return dict(weights)
    return None


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0


def _is_ours(payload: Any) -> bool:
    return _is_dict(payload) and "format" in payload and "scheme" in payload


def _checkpoint(payload: Mapping[str, Any], path: Path) -> Checkpoint:
    if payload["format"] != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {payload['format']}, this segfocal reads {FORMAT}. "
            f"Use the segfocal that wrote it ({payload.get('versions', {}).get('segfocal', '?')})."
        )
    return Checkpoint(
        model=payload["model"],
        config=payload["config"],
        scheme=LabelScheme.from_dict(payload["scheme"]),
        channels=tuple(payload["channels"]),
        file_channels=tuple(payload["file_channels"]),
        alpha=payload["alpha"],
        versions=payload["versions"],
        progress=payload["progress"],
        synthetic=payload["synthetic"],
        resume=payload["resume"],
        spacing_mm=payload.get("spacing_mm"),
    )
