"""What can be wrong with a case: every kind by name, and whether training stops for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from segfocal.errors import UserError

Severity = Literal["error", "doubt"]

SEVERITIES: dict[str, Severity] = {
    "dataset": "error",
    "missing-file": "error",
    "unreadable": "error",
    "damaged-gzip": "error",
    "cut-short": "error",
    "trailing-data": "doubt",
    "too-large": "error",
    "channels": "error",
    "channel-axis": "error",
    "shape": "error",
    "affine": "error",
    "forms": "doubt",
    "no-orientation": "doubt",
    "spacing": "error",
    "odd-spacing": "doubt",
    "not-finite": "error",
    "not-probability": "error",
    "constant-image": "doubt",
    "duplicate-image": "doubt",
    "label-not-integer": "error",
    "undeclared-label": "error",
    "empty-label": "doubt",
    "all-ignored": "error",
    "crashed": "error",
}
"""Training stops at an error; a doubt may be as it should be, and only a person can tell."""


class DefectError(UserError):
    """One defect of a file or case. Its text says what was expected, what came, what to do.

    Args:
        text: One line.
        kind: One of `SEVERITIES`.
        fact: The part of the text that holds without a config: no setting is named in it. Empty
            where the whole text does.

    Attributes:
        kind: As given.
        fact: As given.
    """

    def __init__(self, text: str, kind: str = "unreadable", fact: str = "") -> None:
        super().__init__(text)
        assert kind in SEVERITIES, kind
        self.kind = kind
        self.fact = fact

    @property
    def severity(self) -> Severity:
        """`error` or `doubt`."""
        return SEVERITIES[self.kind]


@dataclass(frozen=True)
class Problem:
    """A defect and the case that has it.

    Attributes:
        case_id: The case; empty for the data set as a whole.
        kind: One of `SEVERITIES`.
        text: What was expected, what came, what to do: one line.
    """

    case_id: str
    kind: str
    text: str

    @classmethod
    def of(cls, case_id: str, defect: DefectError) -> Problem:
        """The defect, filed under a case."""
        return cls(case_id, defect.kind, " ".join(str(defect).split()))

    @property
    def severity(self) -> Severity:
        """`error` or `doubt`."""
        return SEVERITIES[self.kind]

    def __str__(self) -> str:
        return f"{self.case_id}: {self.text}" if self.case_id else self.text


def empty_label(num_ignored: int) -> DefectError:
    """The doubt about a label without a voxel of any class.

    Args:
        num_ignored: Its ignored voxels.
    """
    rest = f" besides {num_ignored} ignored voxels" if num_ignored else ""
    return DefectError(
        f"label holds background alone{rest}. Right for a healthy case; otherwise the annotation "
        f"was lost on the way.",
        "empty-label",
    )


@contextmanager
def collecting(found: list[DefectError]) -> Iterator[None]:
    """Appends a `DefectError` raised inside to `found` and goes on behind the block."""
    try:
        yield
    except DefectError as defect:
        found.append(defect)
