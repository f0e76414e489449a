"""Partial labels in the numbers of a data set: a case says nothing of what nobody looked for."""

import pytest

from segfocal.data.case_survey import CaseSurvey, LabelSurvey
from segfocal.data.cases import Case, Dataset
from segfocal.data.dataset_stats import dataset_stats
from segfocal.data.partial import annotated_outputs, annotated_parts
from segfocal.labels import LabelScheme
from segfocal.statistics.class_alpha import class_alpha
from segfocal.statistics.class_weights import SCHEMES
from segfocal.statistics.partial_labels import partial_region_alpha

ORGANS = LabelScheme(("background", "liver", "spleen"), (0, 1, 2), ignore_values=(9,))
BRATS = LabelScheme.preset("brats23")

UNITS = ("voxels", "lesions", "volumes")


def stats_of(scheme, tmp_path, **cases):
    """Statistics of cases given as (annotated, voxels by class and ignored, lesions)."""
    declared = tuple(Case(name, (), None, annotated) for name, (annotated, _, _) in cases.items())
    dataset = Dataset("Toy", tmp_path, "msd", ("CT",), scheme, declared, synthetic=False)
    surveys = []
    for name, (_, voxels, lesions) in cases.items():
        survey = CaseSurvey(name, (4, 5, 6), (1.0, 1.0, 1.0), "RAS")
        survey.label = LabelSurvey(voxels, lesions)
        surveys.append(survey)
    return dataset_stats(dataset, surveys)


def numbers(stats):
    return {
        (g.kind, g.name): (g.voxels, g.share, g.cases, g.annotated, g.lesions_mm3)
        for g in stats.groups
    }


def test_a_class_is_counted_in_the_cases_annotated_for_it(tmp_path):
    stats = stats_of(
        ORGANS,
        tmp_path,
        whole=(None, (700, 200, 100, 50), {"liver": (200.0,), "spleen": (40.0, 60.0)}),
        livers=(("liver",), (900, 100, 0, 0), {"liver": (100.0,), "spleen": ()}),
        both=(("liver", "spleen"), (950, 0, 50, 0), {"liver": (), "spleen": (50.0,)}),
        spleens=(("spleen",), (990, 0, 10, 7), {"liver": (), "spleen": (10.0,)}),
    )
    assert numbers(stats) == {
        ("class", "background"): (1650, 1650 / 2000, 2, 2, ()),
        ("class", "liver"): (300, 300 / 3000, 2, 3, (100.0, 200.0)),
        ("class", "spleen"): (160, 160 / 3000, 3, 3, (10.0, 40.0, 50.0, 60.0)),
    }
    known = stats.counts.subset(["whole", "both"])
    assert stats.alpha == {
        unit: {scheme: class_alpha(known, scheme, unit=unit) for scheme in SCHEMES}
        for unit in UNITS
    }
    assert stats.alpha["voxels"]["balanced"].provenance["num_cases"] == 2
    assert stats.alpha["lesions"]["balanced"].provenance["lesions"] == {"liver": 1, "spleen": 3}
    record = stats.to_dict()
    assert record["annotated"] == {
        "livers": ["liver"],
        "both": ["liver", "spleen"],
        "spleens": ["spleen"],
    }
    assert [group["annotated"] for group in record["classes"]] == [2, 3, 3]
    assert stats.counts.voxels.tolist() == [3540, 300, 160]


def test_without_a_case_annotated_for_every_class_there_is_no_background_and_no_alpha(tmp_path):
    stats = stats_of(
        ORGANS,
        tmp_path,
        livers=(("liver",), (900, 100, 0, 0), {"liver": (100.0,)}),
        spleens=(("spleen",), (990, 0, 10, 0), {"spleen": (10.0,)}),
    )
    assert numbers(stats) == {
        ("class", "background"): (0, 0.0, 0, 0, ()),
        ("class", "liver"): (100, 0.1, 1, 1, (100.0,)),
        ("class", "spleen"): (10, 0.01, 1, 1, (10.0,)),
    }
    assert stats.alpha == {unit: {} for unit in UNITS}
    assert stats.alpha_note.startswith(
        "loss.alpha: inverse compares the classes' voxels in cases that were annotated for every "
        "class, and there is none."
    )


def test_regions_and_their_classes_are_known_apart(tmp_path):
    lesions = {"WT": (30.0,), "TC": (20.0,), "ET": (5.0,), "oedema": (10.0,)}
    cases = {
        "a": (None, (70, 15, 10, 5, 0), lesions),
        "b": (("WT",), (60, 0, 40, 0, 0), {"WT": (40.0,), "oedema": (40.0,)}),
        "c": (("enhancing",), (95, 0, 0, 5, 0), {"WT": (5.0,), "TC": (5.0,), "ET": (5.0,)}),
        "d": (("ET", "WT"), (80, 10, 0, 10, 0), {"WT": (20.0,), "TC": (20.0,), "ET": (10.0,)}),
    }
    stats = stats_of(BRATS, tmp_path, **cases)
    found = numbers(stats)
    assert found["class", "background"][:4] == (210, 210 / 300, 3, 3)
    assert found["class", "oedema"] == (10, 0.1, 1, 1, (10.0,))
    assert found["class", "necrotic core"][:4] == (15, 0.15, 1, 1)
    assert found["class", "enhancing"][:4] == (20, 20 / 300, 3, 3)
    assert found["region", "WT"] == (90, 90 / 300, 3, 3, (20.0, 30.0, 40.0))
    assert found["region", "TC"] == (20, 0.2, 1, 1, (20.0,))
    assert found["region", "ET"] == (20, 20 / 300, 3, 3, (5.0, 5.0, 10.0))
    known = {name: annotated_outputs(BRATS, annotated) for name, (annotated, _, _) in cases.items()}
    assert stats.alpha == {
        unit: {
            scheme: partial_region_alpha(stats.counts, known, scheme, unit=unit)
            for scheme in SCHEMES
        }
        for unit in UNITS
    }


def test_a_region_that_its_annotated_cases_lack_weighs_nothing_and_the_note_says_so(tmp_path):
    stats = stats_of(
        BRATS,
        tmp_path,
        a=(None, (70, 20, 10, 0, 0), {}),
        b=(("WT", "TC"), (70, 10, 10, 10, 0), {}),
    )
    assert stats.alpha["voxels"]["balanced"].weights[2] == 0
    assert stats.alpha["voxels"]["balanced"].weights[0] == pytest.approx(140 / 200)
    assert stats.alpha_note == (
        "Class ET has no voxel in the 1 case annotated for it: alpha is undefined. Change the "
        "split, drop the class, or set loss.alpha."
    )


@pytest.mark.parametrize(
    ("scheme", "annotated", "expected"),
    [
        (ORGANS, None, "background liver spleen"),
        (ORGANS, ("liver",), "liver"),
        (ORGANS, ("spleen", "liver"), "background liver spleen"),
        (BRATS, None, "background necrotic oedema enhancing WT TC ET"),
        (BRATS, ("WT",), "background WT"),
        (BRATS, ("TC",), "TC"),
        (BRATS, ("ET",), "enhancing ET"),
        (BRATS, ("enhancing",), "enhancing ET"),
        (BRATS, ("necrotic core", "enhancing"), "necrotic enhancing TC ET"),
        (BRATS, ("WT", "ET"), "background enhancing WT ET"),
        (BRATS, ("TC", "oedema"), "background oedema TC"),
    ],
)
def test_what_a_case_tells_the_voxels_of(scheme, annotated, expected):
    names = [*scheme.names, *(region.name for region in scheme.regions)]
    told = annotated_parts(scheme, annotated)
    known = [name.split()[0] for name, is_known in zip(names, told, strict=True) if is_known]
    assert " ".join(known) == expected
