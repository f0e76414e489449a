import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from segfocal.data.case_survey import CaseSurvey, ChannelSurvey, LabelSurvey
from segfocal.data.cases import Dataset
from segfocal.data.dataset_stats import dataset_stats
from segfocal.data.defects import Problem
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.statistics.class_alpha import class_alpha, region_alpha
from segfocal.statistics.class_weights import SCHEMES
from segfocal.statistics.intensities import Intensities
from segfocal.statistics.voxel_counts import VoxelCounts

PLAIN = LabelScheme(("background", "oedema", "core"), (0, 2, 7), ignore_values=(9,))
BRATS = LabelScheme.preset("brats23")
NAN = float("nan")


def dataset(scheme=PLAIN, channels=("CT",)):
    return Dataset("Toy", Path("toy"), "msd", channels, scheme, (), synthetic=False)


def surveyed(case_id, voxels, lesions, *, low=0.0, zeros=0.0, **grid):
    percentiles = (NAN,) * 5 if zeros == 1 else (low,) * 5
    channel = ChannelSurvey("CT", "int16", Intensities(9, 0, low, low + 9, zeros, percentiles), "x")
    survey = CaseSurvey(case_id, (4, 5, 6), (1.0, 2.0, 3.0), "RAS")
    for name, value in grid.items():
        setattr(survey, name, value)
    survey.label = LabelSurvey(tuple(voxels), lesions)
    survey.channels = [channel]
    return survey


A = surveyed("a", (90, 6, 4, 20), {"oedema": (1.0, 5.0), "core": (4.0,)}, low=-5.0)
B = surveyed("b", (95, 5, 0, 0), {"oedema": (2.0,), "core": ()}, low=3.0, zeros=0.5)


def test_classes_are_put_together_over_the_cases():
    background, oedema, core = dataset_stats(dataset(), [A, B]).groups
    assert (background.voxels, oedema.voxels, core.voxels) == (185, 11, 4)
    assert (background.share, oedema.share, core.share) == (185 / 200, 11 / 200, 4 / 200)
    assert (background.cases, oedema.cases, core.cases) == (2, 2, 1)
    assert oedema.lesions_mm3 == (1.0, 2.0, 5.0)
    assert oedema.median_mm3 == 2.0
    assert oedema.values == (2,)
    assert background.lesions_mm3 == ()
    assert oedema.to_dict()["lesion_mm3"] == {
        "smallest": 1.0,
        "5%": 1.0,
        "median": 2.0,
        "95%": 5.0,
        "largest": 5.0,
    }
    assert background.to_dict()["lesion_mm3"] is None


def test_regions_stand_beside_their_classes():
    case = surveyed("a", (70, 10, 15, 5, 0), {"WT": (30.0,), "TC": (15.0,), "ET": (5.0,)})
    groups = {
        (group.kind, group.name): group for group in dataset_stats(dataset(BRATS), [case]).groups
    }
    assert [name for kind, name in groups if kind == "region"] == ["WT", "TC", "ET"]
    assert groups["region", "WT"].voxels == 30
    assert groups["region", "TC"].voxels == 15
    assert groups["region", "TC"].values == (1, 3)
    assert groups["class", "oedema"].voxels == 15


def test_counts_are_the_record_of_training_and_alpha_follows_from_them():
    stats = dataset_stats(dataset(), [A, B])
    counts = VoxelCounts(PLAIN)
    lesions = {"a": [2, 1], "b": [1, 0]}
    for case_id, voxels in (("a", (90, 6, 4, 20)), ("b", (95, 5, 0, 0))):
        values = np.repeat([0, 2, 7, 9], voxels)
        counts.add(PLAIN.encode(values), case_id=case_id)
        counts.add_lesions(lesions[case_id], case_id=case_id)
    assert stats.counts.to_dict() == counts.to_dict()
    assert VoxelCounts.from_dict(stats.to_dict()["counts"]).to_dict() == counts.to_dict()
    for unit in ("voxels", "lesions", "volumes"):
        expected = {scheme: class_alpha(counts, scheme, unit=unit) for scheme in SCHEMES}
        assert stats.alpha[unit] == expected
    plain = stats.to_dict()
    assert plain["alpha"]["balanced"]["options"]["unit"] == "voxels"
    assert plain["alpha_by_lesions"]["balanced"]["options"]["unit"] == "lesions"
    assert plain["alpha_by_volumes"]["balanced"]["options"]["unit"] == "volumes"
    assert stats.alpha_note == ""


def test_regions_get_the_alpha_of_regions():
    case = surveyed("a", (70, 10, 15, 5, 0), {})
    stats = dataset_stats(dataset(BRATS), [case])
    assert stats.alpha["voxels"]["balanced"] == region_alpha(stats.counts, "balanced")


def test_a_class_without_voxels_weighs_nothing_and_is_named():
    stats = dataset_stats(dataset(), [B])
    assert stats.alpha["voxels"]["balanced"].weights[2] == 0
    assert stats.alpha_note.startswith("Class core has no voxel in the training split")


def test_a_region_that_is_everywhere_has_no_alpha_and_that_is_no_crash():
    stats = dataset_stats(dataset(BRATS), [surveyed("a", (0, 10, 15, 5, 0), {})])
    assert stats.alpha == {"voxels": {}, "lesions": {}, "volumes": {}}
    assert stats.alpha_note.startswith("Region WT holds every annotated voxel")


def test_cases_with_an_error_are_left_out_and_those_with_a_doubt_are_not():
    broken = surveyed("c", (1, 1, 1, 1), {})
    broken.problems = [Problem("c", "not-finite", "...")]
    doubtful = surveyed("d", (1, 1, 1, 1), {})
    doubtful.problems = [Problem("d", "forms", "...")]
    stats = dataset_stats(dataset(), [A, broken, doubtful])
    assert stats.left_out == ("c",)
    assert stats.counts.case_ids == ("a", "d")
    assert stats.to_dict()["cases"]["c"]["problems"] == [
        {"case": "c", "kind": "not-finite", "severity": "error", "message": "..."}
    ]


def test_without_a_usable_case_the_first_problem_is_told():
    broken = surveyed("c", (1, 1, 1, 1), {})
    broken.problems = [Problem("c", "shape", "image is 1x1x1, label is 2x2x2.")]
    with pytest.raises(UserError) as caught:
        dataset_stats(dataset(), [broken])
    assert str(caught.value) == (
        "Toy: none of 1 cases can be used. The first: c: image is 1x1x1, label is 2x2x2. "
        "segfocal-stats --check lists them all."
    )


def test_channels_take_extremes_and_medians():
    (channel,) = dataset_stats(dataset(), [A, B]).channels
    assert (channel.minimum, channel.maximum) == (-5.0, 12.0)
    assert channel.zero_fraction == 0.25
    assert channel.percentiles["50%"] == -1.0
    assert channel.dtypes == {"int16": 2}
    (empty,) = dataset_stats(dataset(), [surveyed("a", (1, 1, 1, 0), {}, zeros=1.0)]).channels
    assert set(empty.percentiles.values()) == {None}


def test_channels_take_the_median_of_the_cases_that_hold_a_class():
    cases = [surveyed(name, (9, 1, 0, 0), {"oedema": (1.0,)}) for name in "abcd"]
    for case, height in zip(cases, (1.0, 5.0, 7.0), strict=False):
        within = Intensities(9, 0, height, height, 0.0, (height,) * 5)
        case.channels = [dataclasses.replace(case.channels[0], annotated=within)]
    stats = dataset_stats(dataset(), cases)
    assert set(stats.channels[0].annotated.values()) == {5.0}
    record = stats.to_dict()
    assert record["channels"][0]["annotated"]["99.5%"] == 5.0
    assert record["cases"]["c"]["channels"]["CT"]["annotated"]["0.5%"] == 7.0
    assert record["cases"]["d"]["channels"]["CT"]["annotated"] is None


def test_grids_are_told_along_r_a_s():
    turned = surveyed(
        "b", (1, 1, 1, 0), {}, shape=(7, 8, 9), spacing_mm=(0.5, 0.6, 0.7), orientation="SLP"
    )
    stats = dataset_stats(dataset(), [A, turned])
    assert stats.orientations == {"RAS": 1, "SLP": 1}
    assert stats.shape == {"smallest": (4, 5, 6), "median": (6, 7, 6.5), "largest": (8, 9, 7)}
    assert stats.spacing_mm["smallest"] == (0.6, 0.7, 0.5)


def test_the_record_holds_no_nan():
    def numbers(plain):
        if isinstance(plain, dict):
            return [n for value in plain.values() for n in numbers(value)]
        if isinstance(plain, list | tuple):
            return [n for value in plain for n in numbers(value)]
        return [plain] if isinstance(plain, float) else []

    case = surveyed("z", (1, 1, 1, 0), {}, zeros=1.0)
    assert all(math.isfinite(n) for n in numbers(dataset_stats(dataset(), [A, case]).to_dict()))
