"""Maps from files equal the arrays they were made of, or are refused."""

import dataclasses
import warnings

import numpy as np
import pytest

from segfocal.data.cases import Case
from segfocal.evaluation.case import EvaluationRules, evaluate_pair
from segfocal.evaluation.pairs import Pair
from segfocal.labels import LabelScheme
from segfocal.metrics.curves import auroc
from segfocal.metrics.evaluation import Measures
from segfocal.metrics.score_bins import score_histogram
from tests.data.nifti_files import OBLIQUE, TURNED, label_of, save

SHAPE = (6, 5, 4)
SCHEME = LabelScheme(("background", "liver", "spleen"), (0, 1, 2), ignore_values=(9,))
REGIONS = LabelScheme.from_mapping({"background": 0, "WT": [1, 2], "ET": 2}, None, [9])
RULES = EvaluationRules(SCHEME, Measures(), 0.1, 10**6)
LABELS = label_of(SHAPE, (0, 1, 2, 9))


def maps_of(num, seed=1):
    """`(num, *S)` float32 that add up to 1."""
    drawn = np.random.default_rng(seed).random((num, *SHAPE)) ** 3
    return (drawn / drawn.sum(0)).astype(np.float32)


@pytest.fixture
def pair(tmp_path):
    label = save(tmp_path / "ref.nii.gz", LABELS, TURNED)
    predicted = save(tmp_path / "pred/c.nii.gz", label_of(SHAPE, (0, 1, 2), 3), TURNED)
    return Pair(predicted, Case("c", (), label))


def evaluated(pair, paths, rules=RULES):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate_pair(rules, dataclasses.replace(pair, probabilities=paths))


def expected(probs, members):
    known = LABELS != 9
    mask = np.isin(LABELS, members)
    return auroc(score_histogram(np.asarray(probs, np.float32), mask, known))


def test_a_file_for_each_class_is_measured_where_somebody_looked(pair, tmp_path):
    maps = maps_of(3)
    maps[:, LABELS == 9] = np.nan
    paths = {
        name: save(tmp_path / f"c_{name}.nii.gz", maps[index], TURNED)
        for index, name in enumerate(SCHEME.names)
        if index
    }
    case = evaluated(pair, paths)
    assert case.problems == case.curve_problems == ()
    assert list(case.curves) == ["liver", "spleen"]
    for index, name in ((1, "liver"), (2, "spleen")):
        curves = case.curves[name]
        assert curves.auroc == expected(maps[index], [index])
        assert curves.table.num_voxels == (LABELS != 9).sum()
        assert curves.table.num_positives == np.bincount(LABELS.ravel())[index]


@pytest.mark.parametrize(("scheme", "num"), [(SCHEME, 3), (REGIONS, 2)])
def test_one_file_with_all_outputs_is_taken_apart_in_their_order(pair, tmp_path, scheme, num):
    maps = maps_of(num)
    path = save(tmp_path / "c.nii.gz", np.moveaxis(maps, 0, -1), TURNED)
    rules = dataclasses.replace(RULES, scheme=scheme)
    case = evaluated(pair, dict.fromkeys(scheme.target_names, path), rules)
    assert case.curve_problems == ()
    targets = zip(scheme.target_names, scheme.target_classes, strict=True)
    for index, (name, members) in enumerate(targets):
        assert case.curves[name].auroc == expected(maps[index + num - 2], members)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float64", ">f4", "float32"])
def test_the_type_that_probabilities_are_stored_in_is_undone(pair, tmp_path, kind):
    full = {"uint8": 255, "uint16": 65535}.get(kind)
    probs = maps_of(3)[1]
    stored, scaling = probs.astype(kind), None
    if full:
        stored, scaling = np.round(probs * full).astype(kind), (1 / full, 0)
        probs = stored.astype(np.float32) * np.float32(np.float32(1 / full))
    path = save(tmp_path / "c.nii.gz", stored, TURNED, dtype=stored.dtype, scaling=scaling)
    case = evaluated(pair, {"liver": path})
    assert case.curve_problems == ()
    assert case.curves["liver"].auroc == expected(probs, [1])
    assert case.curves["liver"].histogram.is_exact


def test_an_intercept_is_added(pair, tmp_path):
    stored = np.round(maps_of(3)[1] * 255 - 128).astype(np.int8)
    path = save(tmp_path / "c.nii.gz", stored, TURNED, dtype=stored.dtype, scaling=(1 / 256, 0.5))
    case = evaluated(pair, {"liver": path})
    assert case.curve_problems == ()
    probs = stored.astype(float) / 256 + 0.5
    known = LABELS != 9
    errors = probs[known] - (LABELS[known] == 1)
    assert case.curves["liver"].table.brier == pytest.approx(np.mean(errors**2))


def test_a_file_of_its_own_is_read_after_one_for_all(pair, tmp_path):
    maps = maps_of(3)
    shared = save(tmp_path / "c.nii.gz", np.moveaxis(maps, 0, -1), TURNED)
    own = save(tmp_path / "c_spleen.nii.gz", maps[0], TURNED)
    case = evaluated(pair, {"liver": shared, "spleen": own})
    assert case.curves["liver"].auroc == expected(maps[1], [1])
    assert case.curves["spleen"].auroc == expected(maps[0], [2])


def test_overshoot_of_interpolation_is_cut_off(pair, tmp_path):
    probs = maps_of(3)[1]
    probs[0, 0, 0], probs[0, 0, 1] = 1.0000002, -1e-7
    case = evaluated(pair, {"liver": save(tmp_path / "c.nii.gz", probs, TURNED)})
    assert case.curve_problems == ()
    assert case.curves["liver"].auroc == expected(np.clip(probs, 0, 1), [1])


def test_a_class_nobody_looked_for_is_not_measured(pair, tmp_path):
    label = save(tmp_path / "part.nii.gz", np.where(LABELS == 1, 0, LABELS), TURNED)
    pair = dataclasses.replace(pair, case=Case("c", (), label, ("spleen",)))
    paths = {
        name: save(tmp_path / f"c_{name}.nii.gz", maps_of(3)[1], TURNED)
        for name in ("liver", "spleen")
    }
    case = evaluated(pair, paths)
    assert list(case.curves) == ["spleen"]


PROBS = maps_of(3)[1]


def scored(values):
    return lambda path: save(path, values, TURNED)


def cut(path):
    save(path, PROBS, TURNED)
    path.write_bytes(path.read_bytes()[:-30])


def with_nan():
    spoilt = PROBS.copy()
    spoilt[LABELS == 0] = np.nan
    return spoilt


DAMAGES = {
    "missing": (lambda path: None, "missing-file", "does not exist"),
    "cut": (cut, "damaged-gzip", "the gzip stream is cut short"),
    "nan": (
        scored(with_nan()),
        "not-finite",
        (
            f"m.nii.gz: {(LABELS == 0).sum()} of {(LABELS != 9).sum()} voxels are NaN or infinite. "
            f"Predict the case again, or pass --no-probabilities."
        ),
    ),
    "infinite": (scored(np.where(LABELS == 1, 1e300, 0.5)), "not-finite", "NaN or infinite"),
    "logits": (
        scored(np.where(LABELS == 1, 7.25, -3.5).astype(np.float32)),
        "not-probability",
        (
            "m.nii.gz: holds -3.5 to 7.25, expected probabilities from 0 to 1. Write them after "
            "softmax or sigmoid."
        ),
    ),
    "above": (scored(PROBS + np.float32(0.5)), "not-probability", "Write them after softmax"),
    "bytes": (
        scored(np.where(LABELS == 1, 255, 0).astype(np.uint8)),
        "not-probability",
        (
            "m.nii.gz: holds 0 to 255, expected probabilities from 0 to 1. Set scl_slope to 1/255, "
            "or to what full scale is."
        ),
    ),
    "shape": (
        scored(PROBS[1:]),
        "shape",
        "reference is 6x5x4, m.nii.gz is 5x5x4. Resample one onto the other's grid",
    ),
    "affine": (
        lambda path: save(path, PROBS, OBLIQUE),
        "affine",
        "reference and m.nii.gz affines differ by",
    ),
    "channels": (
        scored(np.stack([PROBS, PROBS], -1)),
        "channels",
        (
            "m.nii.gz: holds 2 maps (6x5x4x2), expected 3, one for each output (background, liver, "
            "spleen). Write all of them along the fourth axis, or a file for each."
        ),
    ),
    "plane": (scored(PROBS[..., 0]), "shape", "m.nii.gz: expected a 3-D map of probabilities"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_a_map_costs_its_class_alone(pair, tmp_path, damage):
    harm, kind, message = DAMAGES[damage]
    path = tmp_path / "m.nii.gz"
    harm(path)
    good = save(tmp_path / "good.nii.gz", maps_of(3)[2], TURNED)
    case = evaluated(pair, {"liver": path, "spleen": good})
    assert case.problems == ()
    assert len(case.regions) == 2
    assert list(case.curves) == ["spleen"]
    (problem,) = case.curve_problems
    assert (problem.case_id, problem.kind) == ("c", kind)
    assert message in problem.text
    assert "\n" not in problem.text


def test_one_map_for_two_classes_is_told_once(pair, tmp_path):
    path = save(tmp_path / "c.nii.gz", PROBS, TURNED)
    case = evaluated(pair, {"liver": path, "spleen": path})
    (problem,) = case.curve_problems
    assert problem.text.startswith("c.nii.gz: holds 1 map (6x5x4), expected 3, one for each output")
    assert case.curves == {}
