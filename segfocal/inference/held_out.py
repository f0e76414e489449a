"""Which checkpoint of a cross-validation predicts which case: one that did not learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfocal.errors import UserError
from segfocal.files import read_json

_SPLIT = "split.json"


def held_out_groups(
    checkpoints: Sequence[Path], case_ids: Sequence[str]
) -> dict[tuple[Path, ...], list[str]]:
    """For each set of checkpoints, the cases that their runs validated on, and no other run.

    In the order of the checkpoints. A case that no run validated on is in no group.

    Args:
        checkpoints: Files in the folders of their runs, whose split.json is read.
        case_ids: The cases to be predicted.

    Raises:
        UserError: If a checkpoint has no split.json beside it, or there is no case for any.
    """
    validated = {path: _validated(path) for path in checkpoints}
    groups: dict[tuple[Path, ...], list[str]] = {}
    for case_id in case_ids:
        members = tuple(path for path, ids in validated.items() if case_id in ids)
        if members:
            groups.setdefault(members, []).append(case_id)
    if not groups:
        raise UserError(
            f"--held-out: none of the {len(case_ids)} cases of -i was held out by the runs of "
            f"--ckpt. Pass the images that the runs were started with (imagesTr)."
        )
    return dict(sorted(groups.items(), key=lambda group: list(map(checkpoints.index, group[0]))))


def validated_cases(split: Path) -> list[str]:
    """The cases that a run validated on, out of its split.json.

    Raises:
        UserError: If the file lists none under `val`.
    """
    listed = read_json(split).get("val")
    if not isinstance(listed, list):
        raise UserError(f"{split}: val: expected a list of case ids.")
    return [str(case_id) for case_id in listed]


def _validated(checkpoint: Path) -> frozenset[str]:
    path = checkpoint.parent / _SPLIT
    if not path.is_file():
        raise UserError(
            f"--held-out: {path} does not exist. Pass checkpoints in the folders of their runs, "
            f"whose {_SPLIT} says what was held out."
        )
    return frozenset(validated_cases(path))
