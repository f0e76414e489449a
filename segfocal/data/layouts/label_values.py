"""`data.labels: auto`: the values that the label files hold, for data sets that name none."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segfocal.data.cases import Case, naming
from segfocal.data.nifti import read_label
from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS, LabelScheme


def scheme_of_values(cases: Sequence[Case], ignore_values: Sequence[int] = ()) -> LabelScheme:
    """One class for every value in any label file, whatever gaps lie between: `label 5`, ...

    Reads every label once.

    Args:
        cases: Cases with labels.
        ignore_values: Values that are no class.

    Raises:
        UserError: If no label holds 0, none holds anything else, there are more than 254 values,
            or a file cannot be read.
    """

    def values(case: Case) -> set[int]:
        assert case.label is not None
        with naming(case.case_id):
            return {int(value) for value in np.unique(read_label(case.label).data)}

    with ThreadPoolExecutor(2) as pool:
        found = set[int]().union(*pool.map(values, cases)) - set(ignore_values)
    if 0 not in found or len(found) < 2 or len(found) > IGNORE_CLASS:
        raise UserError(
            f"data.labels: auto found {len(found)} values ({_few(sorted(found))}) in {len(cases)} "
            f"labels. Expected 0 for background and 1 to {IGNORE_CLASS - 1} others; name them in "
            f"data.labels."
        )
    foreground = {f"label {value}": value for value in sorted(found - {0})}
    return LabelScheme.from_mapping({"background": 0, **foreground}, None, ignore_values)


def _few(values: Sequence[int]) -> str:
    shown = ",".join(map(str, values[:8]))
    return shown + (",..." if len(values) > 8 else "")
