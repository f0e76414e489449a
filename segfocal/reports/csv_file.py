"""CSV files that are complete at any moment, with numbers that read back equal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segfocal.files import atomic_write


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a header and rows; `path` is the old file or the new one, never half of one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column name."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def cell(value: object) -> str:
    """Numbers in full, nothing for None and NaN.

    Example:
        >>> cell(0.1), cell(3), cell(None), cell(float("nan"))
        ('0.1', '3', '', '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def number(text: str) -> float:
    """The number in a cell, NaN where it is empty."""
    return float(text) if text else float("nan")
