"""What a run is, in a few lines for people: for report.html and for trackers."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from segfocal.config.shareable import shareable_settings
from segfocal.reports.trackers.tracker import TrackedRun

if TYPE_CHECKING:
    from segfocal.config.schema import LossConfig
    from segfocal.training.preflight import Plan
    from segfocal.training.progress import Progress
    from segfocal.training.session import Session


def run_facts(session: Session) -> dict[str, str]:
    """Data, network, loss, alpha, device and versions of a run."""
    plan, config = session.plan, session.config
    return {
        "data": f"{data_name(plan)}: {_data(session)}",
        "channels": ", ".join(plan.channels),
        "network": f"{config.network.name} {config.network.args or ''}",
        "loss": loss_words(config.loss),
        "alpha": plan.alpha.summary() if plan.alpha else str(config.loss.alpha or "none"),
        "computed on": f"{session.device_name}, {session.amp_name}",
        "versions": " · ".join(f"{n} {v}" for n, v in session.versions.items()),
    }


def loss_words(loss: LossConfig) -> str:
    """The loss, and its gamma where it has one.

    Example:
        >>> from segfocal.config.schema import LossConfig
        >>> loss_words(LossConfig(gamma=3)), loss_words(LossConfig(name="DiceCELoss", gamma=3))
        ('DiceFocalLoss gamma 3.0', 'DiceCELoss')
    """
    if loss.name == "UnifiedFocalLoss":
        return f"{loss.name} gamma {loss.unified_gamma}"
    has_gamma = loss.name.endswith("FocalLoss")
    return f"{loss.name} gamma {loss.gamma}" if has_gamma else loss.name


def data_name(plan: Plan) -> str:
    """`MSD Task01`, and `MSD Task01, fold 0 of 5` in a cross-validation."""
    return ", ".join(filter(None, [plan.dataset.name, plan.split.fold_words]))


def tracked_run(session: Session, note: str) -> TrackedRun:
    """What trackers are told once: no path, no case, nothing hashed from their names.

    Args:
        session: The run.
        note: The phantom's stamp, or "".
    """
    plan = session.plan
    facts = run_facts(session)
    # a data set that has no name of its own has that of its folder
    if plan.dataset.name == session.config.data.root.resolve().name:
        facts["data"] = _data(session)
    facts["layout"] = plan.dataset.layout
    del facts["network"]  # its settings say so, and arguments may hold a path
    if plan.alpha is not None:
        provenance = {n: v for n, v in plan.alpha.provenance.items() if n != "cases_sha256"}
        facts["alpha from"] = json.dumps(provenance, ensure_ascii=False)
    return TrackedRun(
        session.folder.path,
        session.folder.path.resolve().name,
        note,
        facts,
        shareable_settings(session.config),
        session.progress.epoch,
    )


def best_so_far(progress: Progress) -> dict[str, int | float]:
    """`best_epoch` and `best_mean_dice`, as far as there are any."""
    if not progress.best_epoch:
        return {}
    best = {"best_epoch": progress.best_epoch, "best_mean_dice": progress.best_score}
    return {name: value for name, value in best.items() if math.isfinite(value)}


def _data(session: Session) -> str:
    plan = session.plan
    return (
        f"{len(plan.split.train)} cases trained, {len(plan.split.val)} validated; "
        f"{', '.join(plan.dataset.scheme.target_names)}"
    )
