"""`data.labels: auto`: the values that the label files hold, for data sets that name none."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from segfocal.data.cases import Case, naming
from segfocal.data.defects import DefectError
from segfocal.data.label_values import count_label_values
from segfocal.data.nifti_header import MAX_VOXELS
from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS, LabelScheme


def scheme_of_values(
    cases: Sequence[Case],
    ignore_values: Sequence[int] = (),
    *,
    max_voxels: int = MAX_VOXELS,
    skip_unreadable: bool = False,
) -> LabelScheme:
    """One class for every value in any label file, whatever gaps lie between: `label 5`, ...

    Reads every label once.

    Args:
        cases: Cases; one without a label says nothing.
        ignore_values: Values that are no class.
        max_voxels: Voxels of a label above which its header is not believed.
        skip_unreadable: Pass over labels that cannot be read, unless none can.

    Raises:
        UserError: If no label holds 0, none holds anything else, there are more than 254 values,
            or a file cannot be read.
    """
    unreadable: list[tuple[str, DefectError]] = []

    def values(case: Case) -> set[int]:
        assert case.label is not None
        try:
            return set(count_label_values(case.label, max_voxels=max_voxels).values.tolist())
        except DefectError as defect:
            unreadable.append((case.case_id, defect))
            return set()

    labelled = [case for case in cases if case.label is not None]
    with ThreadPoolExecutor(2) as pool:
        held = set[int]().union(*pool.map(values, labelled))
    if unreadable and not (skip_unreadable and held):
        case_id, defect = min(unreadable, key=lambda pair: pair[0])
        with naming(case_id):
            raise defect
    found = held - set(ignore_values)
    if 0 not in found or len(found) < 2 or len(found) > IGNORE_CLASS:
        raise UserError(
            f"data.labels: auto found {len(found)} values ({_few(sorted(found))}) in "
            f"{len(labelled)} labels. Expected 0 for background and 1 to {IGNORE_CLASS - 1} "
            f"others; name them in data.labels."
        )
    foreground = {f"label {value}": value for value in sorted(found - {0})}
    return LabelScheme.from_mapping({"background": 0, **foreground}, None, ignore_values)


def _few(values: Sequence[int]) -> str:
    shown = ",".join(map(str, values[:8]))
    return shown + (",..." if len(values) > 8 else "")
