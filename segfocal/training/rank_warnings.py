"""Python's warnings from several ranks: each once on the terminal, with the rank that met it."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO


class RankWarnings:
    """Shows a warning if no other rank has shown it.

    Args:
        rank: This rank.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._process = os.getpid()
        self._claim: Callable[[str], bool] | None = None
        self._waiting: list[str] = []
        self._before = warnings.showwarning

    def install(self) -> None:
        """Takes the place of `warnings.showwarning`."""
        warnings.showwarning = self._show

    def uninstall(self) -> None:
        """Gives it back."""
        warnings.showwarning = self._before

    def connect(self, claim: Callable[[str], bool]) -> None:
        """Shows what came before the ranks could ask each other.

        Args:
            claim: Whether this rank is the first to come with that key.
        """
        self._claim = claim
        waiting, self._waiting = self._waiting, []
        for text in waiting:
            self._tell(text)

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        if file is not None:
            file.write(text)
        else:
            self._tell(text)

    def _tell(self, text: str) -> None:
        if os.getpid() != self._process:  # a loader process: the connection is its parent's
            self._write(text)
        elif self._claim is None:
            self._waiting.append(text)
        elif self._claim(hashlib.sha256(text.encode()).hexdigest()):
            self._write(text)

    def _write(self, text: str) -> None:
        sys.stderr.write(f"[rank {self.rank}] {text}")
