"""Where segfocal-predict writes probabilities: what it and segfocal-evaluate agree on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

PROBABILITIES = "probabilities"
"""Folder beside the labels."""


def probability_stem(case_id: str, output: str, outputs: Sequence[str] = ()) -> str:
    """Name, without its ending, of the file with the probabilities of one output.

    A name that differs from another one by such signs alone is written percent-encoded, as in URLs.

    Args:
        case_id: The case.
        output: Name of the class or region.
        outputs: Names of all of them, so that no two share a file.

    Example:
        >>> probability_stem("BRATS_001", "enhancing tumour")
        'BRATS_001_enhancing-tumour'
        >>> probability_stem("BRATS_001", "T1+", ["T1+", "T1-"])
        'BRATS_001_T1%2B'
    """
    plain = _plain(output)
    is_shared = any(_plain(other) == plain for other in outputs if other != output)
    return f"{case_id}_{_encoded(output) if is_shared else plain}"


def probability_stems(case_id: str, output: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """The names that the probabilities of one output may have, the surest first.

    Whoever wrote them may have had more outputs than are asked for, and encoded this one's name.

    Args:
        case_id: The case.
        output: Name of the class or region.
        outputs: Names of all that are known of.
    """
    encoded = f"{case_id}_{_encoded(output)}"
    return tuple(dict.fromkeys((encoded, probability_stem(case_id, output, outputs))))


def _plain(output: str) -> str:
    return re.sub(r"[^\w.-]+", "-", output)


def _encoded(output: str) -> str:
    return quote(output, safe="")
