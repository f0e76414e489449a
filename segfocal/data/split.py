"""Which cases train and which validate: a function of seed and case id, never of file order."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segfocal.errors import UserError
from segfocal.files import read_json_value, write_json


@dataclass(frozen=True)
class Split:
    """The cases of a run.

    Attributes:
        train: Ids of the cases to learn from, sorted.
        val: Ids of the cases to validate on, sorted; empty where every case trains.
        made_by: How it was drawn: `method` and its numbers; empty for a list made by hand.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    made_by: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def fold_words(self) -> str:
        """`fold 0 of 5` of a cross-validation, `fold 0` of a file's; "" for another split."""
        if "fold" not in self.made_by:
            return ""
        of = f" of {self.made_by['folds']}" if "folds" in self.made_by else ""
        return f"fold {self.made_by['fold']}{of}"


def make_split(
    case_ids: Iterable[str],
    *,
    val_fraction: float,
    seed: int,
    patients: Mapping[str, str] | None = None,
) -> Split:
    """Holds out the share of patients whose hash comes first, with all of their cases.

    Removing or adding a patient moves at most one other across: the order of two depends on
    their names and the seed alone.

    Args:
        case_ids: Unique ids, in any order.
        val_fraction: Share to validate on, 0 < f < 1; at least one patient is held out, and at
            least one is left to train on.
        seed: Another seed gives another split.
        patients: The patient of each case; None for a patient each, called like the case.

    Raises:
        UserError: If the fraction is out of range, an id stands twice, or there are fewer than two
            patients.

    Example:
        >>> make_split(["a", "b", "c", "d"], val_fraction=0.25, seed=0).val
        ('d',)
    """
    if not 0 < val_fraction < 1:
        raise UserError(
            f"data.val_fraction: expected a number between 0 and 1, got {val_fraction}. "
            f"0 trains on every case and validates on none."
        )
    ids = _ranked(case_ids, seed, at_least=2)
    patient = patients or {case_id: case_id for case_id in ids}
    ranked = _by_hash({patient[case_id] for case_id in ids}, seed)
    if len(ranked) < 2:
        raise UserError(
            f"split: all {len(ids)} cases are of patient {ranked[0]}; expected at least 2 "
            f"patients. Correct data.patient_pattern, or set data.val_fraction: 0 to validate on "
            f"none."
        )
    num_val = min(max(math.floor(len(ranked) * val_fraction + 0.5), 1), len(ranked) - 1)
    held_out = set(ranked[:num_val])
    made_by: dict[str, str | int | float] = {
        "method": "fraction",
        "val_fraction": val_fraction,
        "seed": seed,
    }
    return _hold_out(ids, patient, held_out, made_by)


def make_fold(
    case_ids: Iterable[str],
    *,
    folds: int,
    fold: int,
    seed: int,
    patients: Mapping[str, str] | None = None,
) -> Split:
    """One fold of a cross-validation: every case validates in exactly one fold.

    Args:
        case_ids: Unique ids, in any order.
        folds: Number of folds, 2 to the number of patients; they differ by one patient at most.
        fold: Which one to validate on, 0 to `folds` - 1.
        seed: Another seed gives other folds.
        patients: The patient of each case; None for a patient each, called like the case.

    Raises:
        UserError: If a number is out of range, an id stands twice, or there are fewer patients
            than folds.

    Example:
        >>> [make_fold("abcd", folds=2, fold=fold, seed=0).val for fold in (0, 1)]
        [('c', 'd'), ('a', 'b')]
    """
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(
            f"folds: expected at least 2 and a fold from 0 to folds - 1, "
            f"got fold {fold} of {folds}."
        )
    ids = _ranked(case_ids, seed, at_least=2)
    patient = patients or {case_id: case_id for case_id in ids}
    ranked = _by_hash({patient[case_id] for case_id in ids}, seed)
    if len(ranked) < folds:
        raise UserError(
            f"split: expected at least {folds} patients for data.folds: {folds}, got "
            f"{len(ranked)}. Set fewer folds."
        )
    held_out = set(ranked[fold::folds])
    made_by: dict[str, str | int | float] = {
        "method": "folds",
        "folds": folds,
        "fold": fold,
        "seed": seed,
    }
    return _hold_out(ids, patient, held_out, made_by)


def train_on_all(case_ids: Iterable[str]) -> Split:
    """Every case trains, none validates.

    Raises:
        UserError: If there is no case, or an id stands twice.
    """
    return _split(_ranked(case_ids, 0, at_least=1), (), {"method": "all"})


def write_split(path: Path, split: Split, *, note: str = "") -> None:
    """The split as JSON, complete or absent; `read_split` is the inverse.

    Args:
        path: The file.
        split: What it shall hold.
        note: The phantom's stamp for `synthetic`, or "".
    """
    write_json(
        path,
        {
            "synthetic": note or False,
            "made_by": dict(split.made_by),
            "train": list(split.train),
            "val": list(split.val),
        },
    )


def read_split(path: Path, case_ids: Iterable[str], *, fold: int | None = None) -> Split:
    """The split in a file, checked against the data set.

    Args:
        path: What `write_split` wrote; a JSON object with lists `train` and `val`; or a list of
            such objects, one for each fold (nnU-Net's splits_final.json).
        case_ids: Every id of the data set. Cases that the file does not name are left out.
        fold: Which one of a list, 0 for the first.

    Raises:
        UserError: If the file is not such JSON, names a case that does not exist, one twice, or
            one in both lists, or leaves nothing to train on; or if it holds folds and none of them
            was chosen, or a fold was and it does not hold it.
    """
    plain = _fold_of(path, read_json_value(path), fold)
    train, val = _ids(path, plain, "train"), _ids(path, plain, "val")
    both = sorted(set(train).intersection(val))
    if both:
        raise UserError(
            f"{path}: {_listed(both)} both train and validate. Keep each case in one list."
        )
    missing = sorted({*train, *val}.difference(case_ids))
    if missing:
        raise UserError(
            f"{path}: names cases that the data set does not have: {_listed(missing)}. "
            f"Was the split made for other data?"
        )
    if not train:
        raise UserError(f"{path}: train is empty. Name at least one case to train on.")
    made_by = plain.get("made_by", {})
    if not isinstance(made_by, dict):
        raise UserError(f"{path}: made_by: expected an object, got {type(made_by).__name__}.")
    if fold is not None:
        made_by = {"method": path.name, "fold": fold}
    return _split(train, val, made_by)


def _fold_of(path: Path, plain: Any, fold: int | None) -> dict[str, Any]:
    """The object with `train` and `val`, out of a list of them where the file holds one."""
    if isinstance(plain, list):
        if fold is None or fold >= len(plain):
            raise UserError(
                f"{path}: holds {len(plain)} folds; set data.fold to one from 0 to "
                f"{len(plain) - 1}, got {fold}."
            )
        plain = plain[fold]
    elif fold is not None:
        raise UserError(
            f"{path}: holds one split and no folds. Leave data.fold out, or give a list of splits."
        )
    if not isinstance(plain, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(plain).__name__}.")
    return plain


def _hold_out(
    ids: Sequence[str],
    patient: Mapping[str, str],
    held_out: Collection[str],
    made_by: dict[str, str | int | float],
) -> Split:
    """Some patients validate, the others train, each with all of their cases."""
    num_patients = len({patient[case_id] for case_id in ids})
    if num_patients < len(ids):
        made_by["patients"] = num_patients
    return _split(
        [case_id for case_id in ids if patient[case_id] not in held_out],
        [case_id for case_id in ids if patient[case_id] in held_out],
        made_by,
    )


def _split(
    train: Iterable[str], val: Iterable[str], made_by: dict[str, str | int | float]
) -> Split:
    return Split(tuple(sorted(train)), tuple(sorted(val)), made_by)


def _ranked(case_ids: Iterable[str], seed: int, *, at_least: int) -> list[str]:
    ids = list(case_ids)
    twice = _repeated(ids)
    if twice:
        raise UserError(f"split: {_listed(twice)} stand twice among the case ids. Rename one.")
    if len(ids) < at_least:
        raise UserError(
            f"split: expected at least {at_least} cases, got {len(ids)}. "
            f"Set data.val_fraction: 0 to train on all and validate on none."
        )
    return _by_hash(ids, seed)


def _by_hash(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _ids(path: Path, plain: dict[str, Any], key: str) -> tuple[str, ...]:
    listed = plain.get(key)
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise UserError(f"{path}: {key}: expected a list of case ids.")
    twice = _repeated(listed)
    if twice:
        raise UserError(f"{path}: {_listed(twice)} stand twice in {key}. Keep one.")
    return tuple(listed)


def _repeated(ids: Iterable[str]) -> list[str]:
    return sorted(case_id for case_id, count in Counter(ids).items() if count > 1)


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"
