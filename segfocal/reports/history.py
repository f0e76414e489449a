"""What a run's epochs and validation cases came to, as plain records and as CSV files.

`metrics.csv` has a row an epoch and the same columns from the first to the last; empty cells mean
"not measured" (an epoch without validation) or "undefined" (Dice where no case has the region).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from segfocal.metrics.case_score import RegionSummary, mean_dice
from segfocal.reports.csv_file import cell, number, read_csv, write_csv

SUMMARY_FIELDS = tuple(entry.name for entry in fields(RegionSummary))
_COUNTS = tuple(name for name in SUMMARY_FIELDS if name not in ("dice", "lesion_f1"))


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: 1 for the first.
        step: Optimiser steps since the run began, this epoch's included.
        elapsed_s: Training time since the run began, earlier sessions included.
        steps_per_s: Mean over this epoch.
        lr: Learning rate at the end of the epoch.
        loss: Mean over the epoch's steps.
        terms: Mean of each term of the loss, e.g. `{"focal": .02, "dice": .39}`.
        val: Summary per region, None for an epoch without validation.
    """

    epoch: int
    step: int
    elapsed_s: float
    steps_per_s: float
    lr: float
    loss: float
    terms: Mapping[str, float] = field(default_factory=dict)
    val: Mapping[str, RegionSummary] | None = None

    @property
    def mean_dice(self) -> float:
        """Mean over the regions whose Dice is defined; NaN without validation."""
        return mean_dice(self.val or {})


class History:
    """The epochs of a run, kept in a CSV file that is complete at any moment.

    Args:
        path: The file, usually `metrics.csv` in the run folder; written at the first `append`.
        term_names: Terms of the loss, in column order.
        region_names: Regions, in column order.
        note: Text for the last column of every row (the phantom's stamp), or "".
    """

    def __init__(
        self,
        path: Path,
        term_names: Sequence[str],
        region_names: Sequence[str],
        note: str = "",
    ) -> None:
        self.path = path
        self.term_names = tuple(term_names)
        self.region_names = tuple(region_names)
        self.note = note
        self.records: list[EpochRecord] = []

    @classmethod
    def resume(
        cls,
        path: Path,
        last_epoch: int,
        term_names: Sequence[str],
        region_names: Sequence[str],
        note: str = "",
    ) -> History:
        """The history in `path` up to and including `last_epoch`; later rows are dropped.

        A run killed after it wrote a row but before its checkpoint repeats that epoch, and the
        row is written anew. A missing file gives an empty history.
        """
        history = cls(path, term_names, region_names, note)
        if path.exists():
            history.records = [r for r in read_history(path) if r.epoch <= last_epoch]
        return history

    def validation(self, epoch: int) -> Mapping[str, RegionSummary]:
        """Scores of an epoch by region; empty where it was not validated."""
        return next((r.val for r in self.records if r.epoch == epoch and r.val), {})

    def append(self, record: EpochRecord) -> None:
        """Add an epoch and rewrite the file (to a temporary one, then renamed)."""
        self.records.append(record)
        columns = _columns(self.term_names, self.region_names)
        rows = [_row(entry, columns, self.note) for entry in self.records]
        write_csv(self.path, columns, rows)


def read_history(path: Path) -> list[EpochRecord]:
    """The records of a `metrics.csv`.

    Raises:
        ValueError: If the file is not one.
    """
    rows = read_csv(path)
    try:
        return [_record(row) for row in rows]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a metrics.csv of segfocal: {error}.") from error


def _columns(term_names: Sequence[str], region_names: Sequence[str]) -> list[str]:
    return [
        *("epoch", "step", "elapsed_s", "steps_per_s", "lr", "loss"),
        *(f"loss/{name}" for name in term_names),
        "val/mean_dice",
        *(f"val/{region}/{name}" for region in region_names for name in SUMMARY_FIELDS),
        "note",
    ]


def measured(record: EpochRecord) -> dict[str, int | float]:
    """The numbers of a row by the names of its columns; nothing for an empty cell."""
    numbers = _numbers(record).items()
    return {name: value for name, value in numbers if value is not None and math.isfinite(value)}


def _numbers(record: EpochRecord) -> dict[str, int | float | None]:
    values: dict[str, int | float | None] = {
        name: getattr(record, name)
        for name in ("epoch", "step", "elapsed_s", "steps_per_s", "lr", "loss")
    }
    values.update({f"loss/{name}": value for name, value in record.terms.items()})
    values["val/mean_dice"] = record.mean_dice
    for region, summary in (record.val or {}).items():
        values.update({f"val/{region}/{name}": v for name, v in asdict(summary).items()})
    return values


def _row(record: EpochRecord, columns: Sequence[str], note: str) -> dict[str, str]:
    values: dict[str, object] = {**_numbers(record), "note": note}
    unknown = sorted(set(values).difference(columns))
    assert not unknown, f"columns were not declared: {unknown}"
    return {name: cell(values.get(name)) for name in columns}


def _record(row: Mapping[str, str]) -> EpochRecord:
    regions = list(
        dict.fromkeys(
            name.removeprefix("val/").rpartition("/")[0]
            for name in row
            if name.startswith("val/") and name.count("/") > 1
        )
    )
    measured = any(row[f"val/{region}/n"] for region in regions)
    terms = {
        name.removeprefix("loss/"): float(value)
        for name, value in row.items()
        if name.startswith("loss/") and value
    }
    return EpochRecord(
        epoch=int(row["epoch"]),
        step=int(row["step"]),
        elapsed_s=number(row["elapsed_s"]),
        steps_per_s=number(row["steps_per_s"]),
        lr=number(row["lr"]),
        loss=number(row["loss"]),
        terms=terms,
        val={region: _summary(row, region) for region in regions} if measured else None,
    )


def _summary(row: Mapping[str, str], region: str) -> RegionSummary:
    counts = {name: int(row[f"val/{region}/{name}"]) for name in _COUNTS}
    return RegionSummary(
        dice=number(row[f"val/{region}/dice"]),
        lesion_f1=number(row[f"val/{region}/lesion_f1"]),
        **counts,
    )
