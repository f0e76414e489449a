"""Going on where last.pt was written, or saying why that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segfocal.checkpoint import Checkpoint
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.training.learner import Learner
from segfocal.training.preflight import Plan
from segfocal.training.progress import Progress

_FIXED = {
    "train.optimizer": "last.pt holds the other one's state",
    "data.val_fraction": "the run goes on with its split.json",
    "data.split": "the run goes on with its split.json",
    "data.folds": "the run goes on with its split.json",
    "data.fold": "the run goes on with its split.json",
}
"""Settings that a run keeps from its start, and why."""


def resume_from(
    checkpoint: Checkpoint, learner: Learner, plan: Plan, settings: Mapping[str, Any]
) -> Progress:
    """Puts a checkpoint's weights, optimiser and scaler into a learner.

    Args:
        checkpoint: What `last.pt` holds.
        learner: A new learner for the same network.
        plan: The data of the run that goes on.
        settings: Its resolved settings as plain values.

    Returns:
        Where the run stood.

    Raises:
        UserError: If labels, channels, network, optimiser or split are not those of the
            checkpoint.
    """
    ours, theirs = plan.dataset.scheme, checkpoint.scheme
    if ours != theirs:
        raise UserError(
            f"Cannot resume: {_difference(theirs, ours)}. Start a new run or use --init-from."
        )
    if plan.channels != checkpoint.channels:
        raise UserError(
            f"Channel order: the config has {','.join(plan.channels)}; the checkpoint "
            f"expects {','.join(checkpoint.channels)}. Set data.channels."
        )
    _check_fixed(checkpoint.config, settings)
    if checkpoint.resume is None:
        raise UserError("Cannot resume: last.pt holds no optimiser state. Use --init-from.")
    try:
        learner.load_resume_state(checkpoint.resume)
    except (RuntimeError, ValueError, KeyError):
        raise UserError(
            "Cannot resume: last.pt was written with another network or optimiser. Start a "
            "new run or use --init-from."
        ) from None
    known = {k: v for k, v in checkpoint.progress.items() if k in Progress.__annotations__}
    return Progress(**known)


def _check_fixed(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for setting, why in _FIXED.items():
        section, name = setting.split(".")
        now = ours[section][name]
        then = theirs[section].get(name, now)  # a setting that came later changed nothing
        if then != now:
            raise UserError(
                f"Cannot resume: {setting} was {then} at the start of the run and is {now} now, "
                f"but {why}. Set it back, or start a new run."
            )


def _difference(theirs: LabelScheme, ours: LabelScheme) -> str:
    """How the labels of a checkpoint differ from those of a config."""
    old, new = ("regions" if s.regions else "classes" for s in (theirs, ours))
    counts = theirs.num_outputs, ours.num_outputs
    if old == new and counts[0] == counts[1]:
        return "last.pt has other label names, values or regions than the config"
    return f"last.pt has {counts[0]} {old}, the config {counts[1]}{'' if old == new else f' {new}'}"
