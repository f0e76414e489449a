"""Cases with blank channels, told once each: at the start, or when they are first read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from segfocal.reports.text import blank_line
from segfocal.training.case_store import CaseStore
from segfocal.training.ranks import Ranks


class BlankCases:
    """Which cases with blank channels a run has met, and which of them it has told of.

    A case that no cache holds is read when it is first trained or validated on, and is told then:
    to read all of them before the first epoch would take as long as a cache takes to fill.

    Args:
        ranks: Who trains; each reads cases of its own.
        note: Told of them, a line for all that are new; used on the first rank.
    """

    def __init__(self, ranks: Ranks, note: Callable[[str], None]) -> None:
        self.ranks = ranks
        self.note = note
        self._met: dict[str, tuple[str, ...]] = {}
        self._told: set[str] = set()

    def of_stores(self, stores: Iterable[CaseStore]) -> None:
        """Meets the cases that a cache holds."""
        for store in stores:
            for case in store.held():
                self._meet(case["case_id"], case["blank"])

    def of_batches(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The batches, as they come; `blank` has one text for each of their cases."""
        for batch in batches:
            for case_id, named in zip(batch["case_id"], batch["blank"], strict=True):
                self._meet(case_id, unpacked(named))
            yield batch

    def of_cases(self, cases: Iterable[Mapping[Any, Any]]) -> Iterator[Mapping[Any, Any]]:
        """The prepared cases, as they come."""
        for case in cases:
            self._meet(case["case_id"], case["blank"])
            yield case

    def tell(self) -> None:
        """Together: one line about those that were met since the last."""
        new = [met for met in self._met.items() if met[0] not in self._told]
        everywhere: dict[str, tuple[str, ...]] = {}
        for of_rank in self.ranks.exchange(new):
            everywhere |= dict(of_rank)
        self._told |= everywhere.keys()
        if everywhere and self.ranks.is_first:
            self.note(blank_line(list(everywhere.items())))

    def _meet(self, case_id: str, channels: Sequence[str]) -> None:
        if channels:
            self._met[case_id] = tuple(channels)


def packed(channels: Sequence[str]) -> str:
    """Names as one text, which torch's collation takes where cases have different numbers."""
    return "\x1f".join(channels)


def unpacked(text: str) -> tuple[str, ...]:
    """The names of a text."""
    return tuple(text.split("\x1f")) if text else ()
