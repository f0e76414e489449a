import numpy as np
import pytest

from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.statistics.class_alpha import class_alpha, region_alpha
from segfocal.statistics.partial_labels import (
    output_shares,
    partial_class_alpha,
    partial_region_alpha,
)
from segfocal.statistics.voxel_counts import VoxelCounts

CLASSES = LabelScheme(("background", "liver", "spleen"), (0, 1, 2))
REGIONS = LabelScheme.preset("brats23")


def counts_of(scheme, **rows):
    cases = {name: [*row, 0] for name, row in rows.items()}
    return VoxelCounts.from_dict({"scheme": scheme.to_dict(), "cases": cases})


ORGANS = counts_of(CLASSES, a=[700, 300, 0], b=[800, 150, 50], c=[900, 0, 100])
TUMOURS = counts_of(REGIONS, a=[900, 0, 100, 0], b=[700, 100, 100, 100], c=[800, 50, 100, 50])


def everything(counts, num_outputs):
    return dict.fromkeys(counts.case_ids, (True,) * num_outputs)


def test_with_everything_annotated_nothing_changes():
    whole = everything(ORGANS, 3)
    assert partial_class_alpha(ORGANS, whole, "balanced") == class_alpha(ORGANS, "balanced")
    regions = everything(TUMOURS, 3)
    expected = region_alpha(TUMOURS, "inverse", beta=0.5)
    assert partial_region_alpha(TUMOURS, regions, "inverse", beta=0.5) == expected
    np.testing.assert_allclose(output_shares(ORGANS, whole), np.array([2400, 450, 150]) / 3000)
    np.testing.assert_allclose(output_shares(TUMOURS, regions), np.array([600, 300, 150]) / 3000)


def test_class_weights_come_from_the_cases_that_know_every_class():
    known = {"a": (True, True, False), "b": (True, True, True), "c": (True, False, True)}
    alpha = partial_class_alpha(ORGANS, known, "balanced")
    assert alpha == class_alpha(ORGANS.subset(["b"]), "balanced")
    assert alpha.provenance["num_cases"] == 1
    del known["b"]
    with pytest.raises(UserError) as caught:
        partial_class_alpha(ORGANS.subset(["a", "c"]), known, "balanced")
    assert str(caught.value) == (
        "loss.alpha: balanced compares the classes' voxels in cases that were annotated for every "
        "class, and there is none. Set loss.alpha to one number a class, or null."
    )


def test_each_regions_alpha_comes_from_the_cases_that_know_it():
    known = {"a": (True, False, False), "b": (True, True, True), "c": (True, True, False)}
    alpha = partial_region_alpha(TUMOURS, known, "balanced", max_ratio=20)
    separate = [["a", "b", "c"], ["b", "c"], ["b"]]
    expected = [
        region_alpha(TUMOURS.subset(cases), "balanced", max_ratio=20).weights[channel]
        for channel, cases in enumerate(separate)
    ]
    assert alpha.weights == tuple(expected)
    known = {"a": (True, True, True), "b": (True, False, False), "c": (True, False, False)}
    with pytest.raises(UserError) as caught:
        partial_region_alpha(TUMOURS, known, "balanced")
    assert str(caught.value) == (
        "Class TC has no voxel in the 1 case annotated for it: alpha is undefined. "
        "Change the split, drop the class, or set loss.alpha."
    )


def test_shares_are_those_of_the_cases_that_know_the_output():
    known = {"a": (True, True, False), "b": (True, True, True), "c": (True, False, False)}
    np.testing.assert_allclose(output_shares(ORGANS, known), [0.8, 450 / 2000, 50 / 1000])
    nobody = dict.fromkeys("abc", (True, True, False))
    assert output_shares(ORGANS, nobody)[2] == 0


def test_by_lesions_the_cases_that_know_everything_count():
    lesions = {"a": [0, 1, 0, 1, 0, 0], "b": [1, 2, 3, 4, 2, 3], "c": [1, 1, 1, 2, 2, 1]}
    counts = TUMOURS.subset(TUMOURS.case_ids)
    for case_id, row in lesions.items():
        counts.add_lesions(row, case_id=case_id)
    known = {"a": (True, False, False), "b": (True, True, True), "c": (True, True, True)}
    alpha = partial_region_alpha(counts, known, "balanced", unit="lesions")
    assert alpha == region_alpha(counts.subset(["b", "c"]), "balanced", unit="lesions")
    assert "annotated" not in alpha.options
    by_volumes = partial_region_alpha(counts, known, "balanced", unit="volumes")
    assert by_volumes.weights[0] == region_alpha(counts, "balanced", unit="volumes").weights[0]
    with pytest.raises(UserError, match="compares the classes' lesions in cases that were annot"):
        partial_region_alpha(counts.subset(["a"]), known, "balanced", unit="lesions")
    organs = ORGANS.subset(ORGANS.case_ids)
    for case_id, row in {"a": [3, 0], "b": [2, 1], "c": [0, 1]}.items():
        organs.add_lesions(row, case_id=case_id)
    known = {"a": (True, True, False), "b": (True, True, True), "c": (True, False, True)}
    alpha = partial_class_alpha(organs, known, "balanced", unit="lesions")
    assert alpha == class_alpha(organs.subset(["b"]), "balanced", unit="lesions")
