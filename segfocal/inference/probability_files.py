"""Where segfocal-predict writes probabilities: what it and segfocal-evaluate agree on."""

from __future__ import annotations

import re

PROBABILITIES = "probabilities"
"""Folder beside the labels."""


def probability_stem(case_id: str, output: str) -> str:
    """Name, without its ending, of the file with the probabilities of one output.

    Args:
        case_id: The case.
        output: Name of the class or region.

    Example:
        >>> probability_stem("BRATS_001", "enhancing tumour")
        'BRATS_001_enhancing-tumour'
    """
    as_file_name = re.sub(r"[^\w.-]+", "-", output)
    return f"{case_id}_{as_file_name}"
