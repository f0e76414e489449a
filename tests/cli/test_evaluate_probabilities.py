"""segfocal-evaluate on probabilities, from arguments to files."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import sklearn.metrics

from segfocal.cli.evaluate import main
from segfocal.data.phantom.stamp import STAMP
from segfocal.evaluation.curve_files import CURVE_FILES
from segfocal.inference.predict_cases import PredictRequest, predict_cases
from segfocal.metrics.lesionwise import count_lesions
from segfocal.metrics.overlap import dice
from tests.cli.evaluations import evaluate_by_two_processes, modules_of_an_evaluation
from tests.data.nifti_files import TURNED, nnunet, save
from tests.runs import tiny_run

SHAPE = (8, 9, 7)


@pytest.fixture
def run(run_in_empty_folder):
    return run_in_empty_folder(main, "--workers", 1)


def reference_of(case):
    """c1 and c2 hold a tumour and unknown planes; c3 holds none."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:6, 1:4] = case != "c3"
    labels[-1] = 9
    return labels


def probs_of(case):
    rng = np.random.default_rng(int(case[1]))
    smooth = 0.6 * (reference_of(case) == 1) + 0.4 * rng.random(SHAPE) ** 3
    return smooth.round(2).astype(np.float32)


CASES = ("c1", "c2", "c3")


@pytest.fixture
def data(tmp_path):
    labels = {"background": 0, "tumour": 1, "ignore": 9}
    root = nnunet(tmp_path / "data", channels=("CT",), cases=CASES, labels=labels)
    for case in CASES:
        save(root / f"labelsTr/{case}.nii.gz", reference_of(case), TURNED)
        predicted = (probs_of(case) > 0.5).astype(np.uint8)
        save(tmp_path / f"pred/{case}.nii.gz", predicted, TURNED)
        save(tmp_path / f"pred/probabilities/{case}_tumour.nii.gz", probs_of(case), TURNED)
    return root


@pytest.fixture
def pred(data):
    return data.parent / "pred"


def rows_of(name):
    with Path("scores", name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def known(case):
    mask = reference_of(case) != 9
    return probs_of(case)[mask], reference_of(case)[mask] == 1


def test_files_hold_what_scikit_learn_measures(run, data, pred):
    status, out, err = run("--pred", pred, "--ref", data, "--out", "scores")
    assert (status, err) == (0, "")
    assert {*CURVE_FILES} < {path.name for path in Path("scores").iterdir()}
    for case, row in zip(CASES, rows_of("probabilities.csv"), strict=True):
        probs, ref = known(case)
        assert (row["case"], row["class"], row["note"]) == (case, "tumour", "")
        assert int(row["voxels"]) == probs.size
        assert float(row["brier"]) == pytest.approx(np.mean((probs.astype(float) - ref) ** 2))
        if case == "c3":
            assert row["auroc"] == row["average_precision"] == row["auroc_error"] == ""
            assert row["lesion_average_precision"] == ""
            continue
        assert float(row["auroc"]) == pytest.approx(sklearn.metrics.roc_auc_score(ref, probs))
        expected = sklearn.metrics.average_precision_score(ref, probs)
        assert float(row["average_precision"]) == pytest.approx(expected)
        assert (row["auroc_error"], row["average_precision_error"]) == ("0.0", "0.0")
    record = json.loads(Path("scores/summary.json").read_text())["probabilities"]
    tumour = record["classes"]["tumour"]
    assert (tumour["n"], tumour["n_present"]) == (3, 2)
    assert tumour["cases"]["auroc"]["n"] == 2
    probs, ref = (np.concatenate(part) for part in zip(*map(known, CASES), strict=True))
    assert tumour["pooled"]["auroc"] == {
        "value": pytest.approx(sklearn.metrics.roc_auc_score(ref, probs)), "error": 0
    }  # fmt: skip
    assert tumour["positives"] == ref.sum()
    assert "2/3" in out
    assert "so it flatters" in out
    assert "candidates: components above p 0.1" in out


def test_the_mean_dice_by_threshold_is_what_evaluating_such_masks_would_say(run, data, pred):
    run("--pred", pred, "--ref", data, "--out", "scores")
    rows = rows_of("thresholds.csv")
    assert [float(row["threshold"]) for row in rows] == [k / 100 for k in range(1, 100)]
    for row in (rows[9], rows[49], rows[89]):
        scores = [dice(probs > float(row["threshold"]), ref) for probs, ref in map(known, CASES)]
        assert float(row["dice_mean"]) == pytest.approx(np.nanmean(scores))
        assert int(row["dice_cases"]) == np.count_nonzero(~np.isnan(scores))
    (evaluated,) = json.loads(Path("scores/summary.json").read_text())["classes"].values()
    assert float(rows[49]["dice_mean"]) == pytest.approx(evaluated["dice"]["mean"])
    probs, ref = (np.concatenate(part) for part in zip(*map(known, CASES), strict=True))
    for row in (rows[9], rows[49], rows[89]):
        mask = probs > float(row["threshold"])
        measured = {
            "dice_pooled": dice(mask, ref),
            "precision": ref[mask].mean(),
            "sensitivity": mask[ref].mean(),
            "specificity": (~mask)[~ref].mean(),
        }
        assert {key: float(row[key]) for key in measured} == pytest.approx(measured)


def test_reliability_and_froc_add_up(run, data, pred):
    run("--pred", pred, "--ref", data, "--out", "scores", "--candidates", 0.3)
    rows = rows_of("reliability.csv")
    assert len(rows) == 10
    probs, ref = (np.concatenate(part) for part in zip(*map(known, CASES), strict=True))
    assert sum(int(row["voxels"]) for row in rows) == probs.size
    chosen = (probs > 0.6) & (probs <= np.float32(0.7))
    assert (rows[6]["above"], rows[6]["up_to"]) == ("0.6", "0.7")
    assert int(rows[6]["voxels"]) == chosen.sum() > 0
    assert float(rows[6]["confidence"]) == pytest.approx(probs[chosen].mean())
    assert float(rows[6]["frequency"]) == pytest.approx(ref[chosen].mean())
    last = rows_of("froc.csv")[-1]
    counts = [
        count_lesions(probs_of(case) > 0.3, reference_of(case) == 1, reference_of(case) != 9)
        for case in CASES
    ]
    assert int(last["lesions_found"]) == sum(count.found for count in counts) == 2
    false = sum(count.false_positives for count in counts)
    assert int(last["false_positives"]) == false > 0
    assert float(last["false_positives_per_case"]) == pytest.approx(false / 3)


def test_missing_and_spoilt_maps_are_a_line_each_and_cost_their_curves_alone(run, data, pred):
    (pred / "probabilities/c1_tumour.nii.gz").unlink()
    save(pred / "probabilities/c2_tumour.nii.gz", probs_of("c2") * 9, TURNED)
    status, out, err = run("--pred", pred, "--ref", data, "--out", "scores")
    assert status == 1
    first, second = err.splitlines()
    where = pred / "probabilities/c1_tumour.nii.gz"
    assert first.startswith(f"error  c1: has no probabilities: {where} does not exist.")
    assert second.startswith("error  c2: c2_tumour.nii.gz: holds 0 to ")
    assert "evaluated 3 cases · 2 problems" in out
    assert [row["voxels"] != "" for row in rows_of("probabilities.csv")] == [False, False, True]
    assert [row["dice"] != "" for row in rows_of("cases.csv")][:2] == [True, True]
    status, out, err = run("--pred", pred, "--ref", data, "--no-probabilities")
    assert (status, err) == (0, "")
    assert "AUROC" not in out


def test_probabilities_may_lie_elsewhere_and_of_another_make(run, data, pred):
    whole = run("--pred", pred, "--ref", data)
    moved = pred.rename(pred.with_name("moved")) / "probabilities"
    away = moved.rename(moved.with_name("p"))
    other = data.parent / "softmax"
    for case in CASES:
        both = np.stack([1 - probs_of(case), probs_of(case)], -1)
        save(other / f"{case}.nii.gz", both, TURNED)
    for folder in (away, other):
        run_again = run("--pred", moved.parent, "--ref", data, "--probabilities", folder)
        assert run_again == whole


def test_an_evaluation_without_probabilities_leaves_none_of_an_earlier_one(run, data, pred):
    run("--pred", pred, "--ref", data, "--out", "scores", "--quiet")
    run("--pred", pred, "--ref", data, "--out", "scores", "--no-probabilities", "--quiet")
    assert not {*CURVE_FILES} & {path.name for path in Path("scores").iterdir()}
    assert json.loads(Path("scores/summary.json").read_text())["probabilities"] is None


def test_a_picture_of_somebody_else_is_not_overwritten(run, data, pred):
    Path("scores").mkdir()
    Path("scores/curves.png").write_text("mine")
    status, _, err = run("--pred", pred, "--ref", data, "--out", "scores")
    assert (status, "did not write" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probabilities", "nowhere"], "--probabilities nowhere is not a folder."),
        (["--probabilities", "."], "--probabilities .: holds no volume"),
        (["--candidates", "1"], "--candidates: expected a probability from 0 to below 1, got 1."),
        (["--candidates", "nan"], "--candidates: expected a probability"),
        (["--probabilities", "PROBS", "--out", "PROBS"], "is --probabilities's folder."),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(run, data, pred, arguments, message):
    places = {"PROBS": pred / "probabilities"}
    words = [places.get(word, word) for word in arguments]
    status, out, err = run("--pred", pred, "--ref", data, *words)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_both_options_at_once_are_refused(run, data, pred):
    status, _, err = run(
        "--pred", pred, "--ref", data, "--probabilities", pred, "--no-probabilities"
    )
    assert (status, "not allowed with argument" in err) == (2, True)


def test_two_processes_write_the_bytes_that_one_writes(run, data, pred):
    run("--pred", pred, "--ref", data, "--quiet", "--out", "one")
    evaluate_by_two_processes(pred, data, "two")
    for name in (*CURVE_FILES[:-1], "summary.json"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_no_torch_is_imported_for_probabilities(data, pred):
    modules, said = modules_of_an_evaluation(pred, data)
    assert "numpy" in modules
    assert not {"torch", "monai", "matplotlib", "sklearn"} & modules
    assert "AUROC" in said


def test_what_segfocal_predict_writes_is_found_and_the_phantom_is_named(run, phantom, tmp_path):
    tiny_run(phantom, tmp_path / "run", "train.epochs=1")
    predicted = tmp_path / "pred"
    request = PredictRequest(
        [tmp_path / "run/best.pt"], phantom / "imagesTr", predicted, probabilities=True
    )
    predict_cases(request)
    config = tmp_path / "run/config.yaml"
    status, out, err = run(
        *("--pred", predicted, "--ref", phantom, "--config", config, "--out", "scores"),
        *("--candidates", 0),
    )
    assert (status, err) == (0, "")
    assert "FROC" in out
    for name in CURVE_FILES[:-1]:
        assert {row["note"] for row in rows_of(name)} == {STAMP}
    assert STAMP.encode() in Path("scores/curves.png").read_bytes()
    record = json.loads(Path("scores/summary.json").read_text())
    curves = record["probabilities"]["classes"]
    assert list(curves) == ["WT", "TC", "ET"]
    for name, values in (("WT", (1, 2, 3)), ("TC", (2, 3)), ("ET", (3,))):
        scores = []
        for path in sorted((phantom / "labelsTr").glob("*.nii.gz")):
            labels = np.asarray(nib.load(path).dataobj)
            case = path.name.removesuffix(".nii.gz")
            probs = nib.load(predicted / f"probabilities/{case}_{name}.nii.gz").get_fdata()
            known = labels != 255
            scores.append(dice(probs[known] > 0.5, np.isin(labels[known], values)))
        assert curves[name]["dice"]["at_half"] == pytest.approx(np.nanmean(scores))
