"""Which cases a run trains and validates on: by its settings, or by a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from segfocal.config.load import LoadedConfig
from segfocal.data.cases import Dataset
from segfocal.data.patients import patients_of
from segfocal.data.split import Split, make_fold, make_split, read_split, train_on_all
from segfocal.errors import SegfocalWarning, UserError

_SHOWN = 10
"""Patients that a warning names."""


def split_of_run(loaded: LoadedConfig, dataset: Dataset, split_path: Path | None) -> Split:
    """Drawn by the settings of `data`, or read from a file.

    Args:
        loaded: The config.
        dataset: All cases.
        split_path: A split.json to reuse (a resumed run's), before `data.split`.

    Raises:
        UserError: If the settings or the file do not fit the cases.
    """
    data, seed = loaded.config.data, loaded.config.train.seed
    path = split_path or data.split
    if path is not None:
        if not path.is_file():
            raise loaded.error("data.split", f"{path} does not exist.")
        fold = None if split_path else data.fold
        split = read_split(path, dataset.case_ids, fold=fold)
        _doubt_patients(path, split, _patients(loaded, dataset, (*split.train, *split.val)))
        return split
    if data.folds is None and data.val_fraction == 0:
        return train_on_all(dataset.case_ids)
    patients = _patients(loaded, dataset, dataset.case_ids)
    if data.folds is not None:
        assert data.fold is not None
        return make_fold(
            dataset.case_ids, folds=data.folds, fold=data.fold, seed=seed, patients=patients
        )
    return make_split(
        dataset.case_ids, val_fraction=data.val_fraction, seed=seed, patients=patients
    )


def _patients(loaded: LoadedConfig, dataset: Dataset, case_ids: Sequence[str]) -> dict[str, str]:
    """The patient of each case."""
    pattern = loaded.config.data.patient_pattern
    try:
        return patients_of(case_ids, pattern, layout=dataset.layout)
    except UserError as error:
        raise loaded.error("data.patient_pattern", str(error)) from None


def _doubt_patients(path: Path, split: Split, patients: Mapping[str, str]) -> None:
    """Warns of patients on both sides of a split that the user made."""
    trained = {patients[case_id] for case_id in split.train}
    both = sorted({patients[case_id] for case_id in split.val} & trained)
    if both:
        more = f" and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
        warnings.warn(
            f"{path}: scans of {', '.join(both[:_SHOWN])}{more} both train and validate: "
            f"validation looks better than it is. Keep a patient's scans in one list.",
            SegfocalWarning,
            stacklevel=2,
        )
