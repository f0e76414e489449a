"""Voxels and lesions of the training labels, read case by case before a run starts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from segfocal.data.cases import Dataset, naming
from segfocal.data.defects import Problem, empty_label
from segfocal.data.label_values import ValueCounts, count_label_values
from segfocal.data.nifti import read_label
from segfocal.data.partial import check_annotated
from segfocal.data.split import Split
from segfocal.data.verify import check_declared, encode_label
from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS
from segfocal.statistics.class_histogram import Counts
from segfocal.statistics.lesion_sizes import lesion_counts
from segfocal.statistics.voxel_counts import VoxelCounts

OnCase = Callable[[int, int], None]


def count_labels(
    dataset: Dataset, split: Split, max_voxels: int, on_case: OnCase, doubts: list[Problem]
) -> VoxelCounts:
    """Reads every label, none of them whole; counts those of the training split."""
    scheme = dataset.scheme
    total = VoxelCounts(scheme)
    by_id = {case.case_id: case for case in dataset.cases}
    order = (*split.train, *split.val)

    def read(case_id: str) -> ValueCounts:
        case = by_id[case_id]
        assert case.label is not None
        with naming(case_id):
            counted = count_label_values(case.label, max_voxels=max_voxels)
            check_declared(counted.values, scheme)
            check_annotated(case, scheme.encode(counted.values), scheme)
        return counted

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(order), 16):
            ids = order[start : start + 16]
            for number, (case_id, counted) in enumerate(
                zip(ids, pool.map(read, ids), strict=True), start
            ):
                if number < len(split.train):
                    total.add_values(counted.values, counted.voxels, case_id=case_id)
                    if not total.annotated(case_id):
                        raise UserError(
                            f"{case_id}: every voxel is ignored: nothing to learn from. Take the "
                            f"case out, or name another loss.ignore_index."
                        )
                codes = scheme.encode(counted.values)
                if set(codes.tolist()) in ({0}, {0, IGNORE_CLASS}):
                    ignored = int(counted.voxels[codes == IGNORE_CLASS].sum())
                    doubts.append(Problem.of(case_id, empty_label(ignored)))
                on_case(number + 1, len(order))
    return total


def add_lesions(dataset: Dataset, counts: VoxelCounts, max_voxels: int, on_case: OnCase) -> None:
    """Adds the lesions of the cases counted, on the grids of their files; two labels are held."""
    by_id = {case.case_id: case for case in dataset.cases}

    def count(case_id: str) -> Counts:
        path = by_id[case_id].label
        assert path is not None
        with naming(case_id):
            classes = encode_label(read_label(path, max_voxels=max_voxels).data, dataset.scheme)
        return lesion_counts(classes, dataset.scheme)

    with ThreadPoolExecutor(2) as pool:
        found = zip(counts.case_ids, pool.map(count, counts.case_ids), strict=True)
        for number, (case_id, lesions) in enumerate(found, 1):
            counts.add_lesions(lesions, case_id=case_id)
            on_case(number, counts.num_cases)
