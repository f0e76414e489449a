"""segfocal-evaluate from its arguments to its files, and every way that these can be wrong."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segfocal.cli.evaluate import main
from segfocal.data.phantom.stamp import STAMP
from segfocal.inference.predict_cases import PredictRequest, predict_cases
from segfocal.metrics.overlap import dice
from tests.cli.evaluations import evaluate_by_two_processes, modules_of_an_evaluation
from tests.data.nifti_files import TURNED, label_of, msd, nnunet, save
from tests.runs import tiny_run


@pytest.fixture
def run(run_in_empty_folder):
    return run_in_empty_folder(main, "--workers", 1)


@pytest.fixture
def data(tmp_path):
    """An nnU-Net data set of two cases with one tumour each, and predictions of both."""
    root = nnunet(tmp_path / "data", channels=("CT",))
    for case, shift in (("c1", 0), ("c2", 1)):
        reference = np.zeros((8, 9, 7), np.uint8)
        reference[2:5, 2:6, 1:4] = 1
        save(root / f"labelsTr/{case}.nii.gz", reference, TURNED)
        save(tmp_path / f"pred/{case}.nii.gz", np.roll(reference, shift, 0), TURNED)
    return root


@pytest.fixture
def pred(data):
    return data.parent / "pred"


def rows_of(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_files_and_tables_hold_what_numpy_measures(run, data, pred):
    status, out, err = run("--pred", pred, "--ref", data, "--out", "scores")
    assert (status, err) == (0, "")
    first, second = rows_of("scores/cases.csv")
    assert (first["case"], first["class"], first["dice"], first["hd95_mm"]) == (
        "c1", "tumour", "1.0", "0.0"
    )  # fmt: skip
    assert float(second["dice"]) == pytest.approx(2 * 24 / 72)
    assert float(second["hd95_mm"]) == pytest.approx(1.5)  # the voxel's length along the shift
    assert float(second["ref_ml"]) == pytest.approx(36 * 1.5 * 2 * 3 / 1000)
    record = json.loads(Path("scores/summary.json").read_text())
    tumour = record["classes"]["tumour"]
    assert tumour["dice"] == {
        "mean": pytest.approx((1 + 2 / 3) / 2), "median": pytest.approx(5 / 6), "n": 2
    }  # fmt: skip
    assert tumour["counts"]["lesions"] == tumour["counts"]["found"] == 2
    assert record["synthetic"] is False
    assert ".833" in out
    assert "evaluated 2 cases" in out
    assert STAMP not in out
    assert Path("scores/evaluation.png").stat().st_size > 5000


def test_a_lesion_lies_where_the_affine_says(run, data, pred):
    run("--pred", pred, "--ref", data, "--out", "scores")
    lesion, _ = rows_of("scores/lesions.csv")
    place = [float(lesion[key]) for key in ("x_mm", "y_mm", "z_mm")]
    assert place == pytest.approx((TURNED @ [3, 3.5, 2, 1])[:3])
    assert float(lesion["size_mm3"]) == pytest.approx(36 * 9)
    assert (lesion["kind"], lesion["found"], lesion["overlap"]) == ("lesion", "1", "1.0")


def test_lesions_are_told_by_size(run, data, pred):
    """A tumour of 36 voxels of 9 mm3 in each case; in the second an island of 9 mm3 alone."""
    nothing = np.zeros((8, 9, 7), np.uint8)
    nothing[7, 8, 6] = 1
    save(pred / "c2.nii.gz", nothing, TURNED)
    _, out, _ = run("--pred", pred, "--ref", data, "--out", "scores")
    sizes = json.loads(Path("scores/summary.json").read_text())["classes"]["tumour"]["lesion_sizes"]
    assert [(one["from_mm3"], one["below_mm3"]) for one in sizes] == [
        (0, 10), (10, 100), (100, 1000), (1000, 10000), (10000, None)
    ]  # fmt: skip
    assert [(one["lesions"], one["found"], one["false_positives"]) for one in sizes] == [
        (0, 0, 1), (0, 0, 0), (2, 1, 0), (0, 0, 0), (0, 0, 0)
    ]  # fmt: skip
    assert [one["sensitivity"] for one in sizes] == [None, None, 0.5, None, None]
    assert "Lesions by volume in mm3\n" in out
    assert "1/2" in out
    _, out, _ = run("--pred", pred, "--ref", data, "--lesion-sizes", "5", "500.5")
    assert "Lesions by volume" not in out
    _, out, _ = run("--pred", pred, "--ref", data, "--lesion-sizes", "300")
    assert "|tumour |     found |    - | 1/2|" in out
    for wrong in (["100", "10"], ["10", "10"], ["0"], ["nan"], ["inf"]):
        status, _, err = run("--pred", pred, "--ref", data, "--lesion-sizes", *wrong)
        assert status == 2
        assert "--lesion-sizes: expected ascending volumes in mm3, got " in err


def test_a_missed_lesion_and_a_false_island_are_rows_and_worsen_the_distance(run, data, pred):
    nothing = np.zeros((8, 9, 7), np.uint8)
    nothing[7, 8, 6] = 1
    save(pred / "c2.nii.gz", nothing, TURNED)
    _, out, _ = run("--pred", pred, "--ref", data, "--out", "scores")
    kinds = [(row["case"], row["kind"], row["found"]) for row in rows_of("scores/lesions.csv")]
    assert kinds == [("c1", "lesion", "1"), ("c2", "lesion", "0"), ("c2", "false positive", "0")]
    save(pred / "c2.nii.gz", nothing * 0, TURNED)
    _, out, _ = run("--pred", pred, "--ref", data, "--out", "scores")
    row = rows_of("scores/cases.csv")[1]
    diagonal = np.linalg.norm([8 * 1.5, 9 * 2, 7 * 3])
    assert float(row["hd95_mm"]) == pytest.approx(diagonal)
    assert row["present_in"] == "reference"
    assert "missed, false alarm: Dice, NSD 0, HD95, ASSD the diagonal; neither: in no mean" in out


def test_labels_alone_and_one_file_are_references_too(run, data, pred):
    whole = run("--pred", pred, "--ref", data)[1]
    folder = run("--pred", pred, "--ref", data / "labelsTr")
    assert folder[0] == 0
    assert folder[1].splitlines()[3:] == whole.splitlines()[3:]
    status, out, _ = run("--pred", pred / "c1.nii.gz", "--ref", data / "labelsTr")
    assert (status, "evaluated 1 case" in out) == (0, True)
    other = shutil.copy(data / "labelsTr/c2.nii.gz", data.parent / "any_name.nii.gz")
    status, out, _ = run("--pred", pred / "c2.nii.gz", "--ref", other)
    assert (status, "evaluated 1 case" in out) == (0, True)


def test_a_list_names_references_without_images(run, data, pred):
    listed = data / "refs.csv"
    listed.write_text("id,label\nc1,labelsTr/c1.nii.gz\nc2,labelsTr/c2.nii.gz\n")
    status, out, _ = run("--pred", pred, "--ref", listed)
    assert (status, "evaluated 2 cases" in out) == (0, True)


def test_values_that_nobody_declares_are_a_class_each_and_that_is_said(run, tmp_path):
    for folder in ("pred", "ref"):
        save(tmp_path / folder / "a.nii.gz", label_of((6, 5, 4), (0, 3, 7)))
    status, out, _ = run("--pred", tmp_path / "pred", "--ref", tmp_path / "ref")
    assert status == 0
    told = "labels by the values in the files, which nobody declares: 0 background, 3 label 3, 7"
    assert told in out
    _, out, _ = run(
        "--pred", tmp_path / "pred", "--ref", tmp_path / "ref", "--set", "data.labels=auto",
        "loss.ignore_index=7",
    )  # fmt: skip
    assert "ignore 7" in out


def test_ignored_voxels_leave_both_sides(run, tmp_path):
    root = msd(
        tmp_path / "data", cases=("c1",), labels={"0": "background", "1": "a", "9": "ignore"}
    )
    reference = label_of((6, 5, 4), (0, 1, 9), seed=1)
    predicted = label_of((6, 5, 4), seed=2)
    save(root / "labelsTr/c1.nii.gz", reference)
    save(tmp_path / "pred/c1.nii.gz", predicted)
    status, out, _ = run("--pred", tmp_path / "pred", "--ref", root, "--out", "scores")
    assert status == 0
    known = reference != 9
    expected = dice(predicted[known] == 1, reference[known] == 1)
    assert float(rows_of("scores/cases.csv")[0]["dice"]) == pytest.approx(expected)
    assert f"{100 * np.mean(~known):.1f}% of voxels ignored" in out
    assert "ignore 9" in out


@pytest.mark.parametrize("labels", ["auto", "{background: 0, lump: 1}"])
@pytest.mark.parametrize("place", ["", "labelsTr"])
def test_what_the_references_call_ignore_is_so_under_any_names(run, tmp_path, labels, place):
    root = msd(
        tmp_path / "data", cases=("c1",), labels={"0": "background", "1": "a", "9": "ignore"}
    )
    save(root / "labelsTr/c1.nii.gz", label_of((6, 5, 4), (0, 1, 9), seed=1))
    save(tmp_path / "pred/c1.nii.gz", label_of((6, 5, 4), seed=2))
    status, out, _ = run(
        "--pred", tmp_path / "pred", "--ref", root / place, "--set", f"data.labels={labels}"
    )
    assert status == 0
    assert "ignore 9" in out


def test_a_runs_predictions_score_what_its_validation_said(run, phantom, tmp_path):
    tiny_run(phantom, tmp_path / "run", "train.epochs=1")
    predicted = tmp_path / "pred"
    predict_cases(PredictRequest([tmp_path / "run/best.pt"], phantom / "imagesTr", predicted))
    labels = shutil.copytree(phantom / "labelsTr", tmp_path / "labels")
    config = tmp_path / "run/config.yaml"
    arguments = ("--pred", predicted, "--ref", labels, "--config", config, "--out", "scores")
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert f"labels by {tmp_path / 'run' / 'stats.json'}: 0 background, 1 oedema" in out
    assert "regions WT,TC,ET" in out
    assert STAMP in out
    trained = json.loads((tmp_path / "run/split.json").read_text())["train"]
    assert f"doubt  the run was trained on {len(trained)} cases of these names ({trained[0]}" in out
    assert json.loads(Path("scores/summary.json").read_text())["trained_on"] == trained
    for name in trained:
        (predicted / f"{name}.nii.gz").unlink()
    # a list that somebody mended by hand names no case less, and ends nothing after the measuring
    (tmp_path / "run/split.json").write_text(json.dumps({"train": [*trained, ["c1"], {}]}))
    status, unseen, _ = run(*arguments[:-2], "--allow-missing")
    assert status == 0
    assert "doubt" not in unseen
    scores = {(row["case"], row["class"]): row for row in rows_of("scores/cases.csv")}
    validated = rows_of(tmp_path / "run/val_cases.csv")
    assert len(validated) == 6
    for row in validated:
        measured = scores[row["case"], row["region"]]
        for key in ("dice", "ref_voxels", "pred_voxels", "ref_ml", "lesions", "false_positives"):
            assert measured[key] == row[key]


def test_everything_made_from_the_phantom_says_so(run, phantom, tmp_path):
    predicted = tmp_path / "pred"
    predicted.mkdir()
    for path in (phantom / "labelsTr").glob("*.nii.gz"):
        values = nib.load(path)
        decided = np.where(np.asarray(values.dataobj) == 255, 0, np.asarray(values.dataobj))
        nib.save(nib.Nifti1Image(decided, values.affine), predicted / path.name)
    status, out, _ = run("--pred", predicted, "--ref", phantom, "--out", "scores")
    assert (status, STAMP in out) == (0, True)
    assert json.loads(Path("scores/summary.json").read_text())["synthetic"] == STAMP
    for name in ("cases", "lesions"):
        assert {row["note"] for row in rows_of(f"scores/{name}.csv")} == {STAMP}
    assert STAMP.encode() in Path("scores/evaluation.png").read_bytes()
    moved = shutil.copytree(phantom / "labelsTr", tmp_path / "elsewhere")
    assert STAMP in run("--pred", predicted, "--ref", moved)[1]


def test_brats_rules_are_told_and_written(run, data, pred):
    status, out, _ = run(
        "--pred", pred, "--ref", data, "--lesionwise", "brats-met", "--out", "scores"
    )
    assert status == 0
    assert "BraTS 2023 lesion-wise scores" in out
    assert "374" in out
    row = rows_of("scores/cases.csv")[0]
    assert (row["lesion_dice"], row["lesion_hd95_mm"]) == ("1.0", "0.0")
    assert rows_of("scores/lesions.csv")[0]["dice"] == "1.0"


def test_json_is_all_that_is_said(run, data, pred, tmp_path):
    status, out, err = run("--pred", pred, "--ref", data, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["cases"] == ["c1", "c2"]
    assert not list((tmp_path / "empty").iterdir())


def test_quiet_says_nothing_but_problems(run, data, pred):
    assert run("--pred", pred, "--ref", data, "--quiet") == (0, "", "")
    (pred / "c2.nii.gz").unlink()
    status, out, err = run("--pred", pred, "--ref", data, "--quiet")
    assert (status, out) == (1, "")
    assert err == (
        "error  c2: has no prediction c2.nii.gz. Predict it, or pass --allow-missing. "
        "[missing-file]\n"
    )


def test_a_narrow_terminal_keeps_names_and_numbers_whole(run, data, pred):
    _, out, _ = run("--pred", pred, "--ref", data)
    tables = [line for line in out.splitlines() if line.startswith(("|", "+"))]
    assert tables
    assert max(map(len, tables)) <= 80


def test_two_processes_write_the_bytes_that_one_writes(run, data, pred, tmp_path):
    run("--pred", pred, "--ref", data, "--quiet", "--out", "one")
    evaluate_by_two_processes(pred, data, "two")
    for name in ("cases.csv", "lesions.csv", "summary.json"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_no_torch_is_imported_by_plain_rules(data, pred):
    modules, _ = modules_of_an_evaluation(pred, data)
    assert "numpy" in modules
    assert not {"torch", "monai", "matplotlib"} & modules


REFERENCE = np.zeros((8, 9, 7), np.uint8)
REFERENCE[2:5, 2:6, 1:4] = 1
MOVED = TURNED.copy()
MOVED[2, 3] += 5


def with_other_forms(path):
    image = nib.Nifti1Image(REFERENCE, MOVED)
    image.header.set_qform(TURNED, 1)
    image.header.set_sform(MOVED, 2)
    nib.save(image, path)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def doubled(path):
    save(path.with_name("c2.nii"), REFERENCE, TURNED)


DAMAGES = {
    "missing": (Path.unlink, "has no prediction c2.nii.gz. Predict it"),
    "cut": (cut_short, "the gzip stream is cut short"),
    "text": (lambda path: path.write_text("no"), "is not a NIfTI file"),
    "shape": (
        lambda path: save(path, REFERENCE[1:], TURNED),
        "reference is 8x9x7, prediction is 7x9x7. Resample one onto the other's grid",
    ),
    "channels": (
        lambda path: save(path, np.stack([REFERENCE, REFERENCE], -1), TURNED),
        "expected a 3-D label with one integer per voxel, got 8x9x7x2",
    ),
    "affine": (
        lambda path: save(path, REFERENCE, MOVED),
        "reference and prediction affines differ by 5 mm in z",
    ),
    "forms": (with_other_forms, "prediction: qform and sform differ by 5 mm in z; programs read"),
    "value": (
        lambda path: save(path, REFERENCE * 4, TURNED),
        "prediction: label holds {0,4}; the config declares {0,1}.",
    ),
    "fraction": (
        lambda path: save(path, REFERENCE * np.float32(0.5), TURNED),
        "label holds 0.5, expected integers (36 voxels are not)",
    ),
    "double": (doubled, "c2.nii and c2.nii.gz have one name. Remove one."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_mistake_is_one_line_and_costs_its_own_case_alone(run, data, pred, damage):
    harm, message = DAMAGES[damage]
    harm(pred / "c2.nii.gz")
    status, out, err = run("--pred", pred, "--ref", data)
    assert status == 1
    lines = [line for line in err.splitlines() if not line.startswith("note ")]
    assert len(lines) == 1
    assert lines[0].startswith("error  c2: ")
    assert message in lines[0]
    assert "evaluated 1 case · 1 problem" in out


def test_a_damaged_reference_is_named_as_such(run, data, pred):
    cut_short(data / "labelsTr/c1.nii.gz")
    save(data / "labelsTr/c2.nii.gz", REFERENCE * 5, TURNED)
    status, out, err = run("--pred", pred, "--ref", data, "--json")
    assert (status, err) == (1, "")
    problems = {problem["case"]: problem for problem in json.loads(out)["problems"]}
    assert problems["c1"]["kind"] == "damaged-gzip"
    assert problems["c2"]["message"].startswith("reference: label holds {0,5}")


def test_brats_label_4_names_the_preset(run, tmp_path):
    old = label_of((6, 5, 4), (0, 1, 2, 4))
    new = np.where(old == 4, 3, old)
    save(tmp_path / "ref/b.nii.gz", old)
    save(tmp_path / "pred/b.nii.gz", old)
    paths = ("--pred", tmp_path / "pred", "--ref", tmp_path / "ref")
    status, _, err = run(*paths, "--set", "data.labels=brats23")
    assert status == 1
    assert "BraTS 2018-22 uses 4 for ET: set data.labels: brats18-22." in err
    assert err.splitlines()[-1].startswith("note   data.* and loss.* are settings: --set ")
    status, out, _ = run(*paths, "--set", "data.labels=brats18-22")
    assert (status, "regions WT,TC,ET" in out) == (0, True)
    save(tmp_path / "pred/b.nii.gz", new)
    status, _, err = run(*paths, "--set", "data.labels=brats18-22")
    assert status == 1
    assert "error  b: prediction: label holds {0,1,2,3}; " in err


def test_a_prediction_decides_every_voxel(run, tmp_path):
    root = msd(
        tmp_path / "data", cases=("c1",), labels={"0": "background", "1": "a", "9": "ignore"}
    )
    save(tmp_path / "pred/c1.nii.gz", label_of((6, 5, 4), (0, 1, 9)))
    status, _, err = run("--pred", tmp_path / "pred", "--ref", root)
    assert status == 1
    assert "c1: prediction holds the ignored value 9 in " in err
    assert " voxels whose reference is known. A prediction decides: write a class or 0" in err
    save(root / "labelsTr/c1.nii.gz", np.full((6, 5, 4), 9, np.uint8))
    save(tmp_path / "pred/c1.nii.gz", label_of((6, 5, 4)))
    assert (
        "every voxel of the reference is ignored"
        in run("--pred", tmp_path / "pred", "--ref", root)[2]
    )


def test_references_without_a_prediction_may_be_as_they_should_be(run, data, pred):
    (pred / "c1.nii.gz").unlink()
    assert run("--pred", pred, "--ref", data)[0] == 1
    status, _, err = run("--pred", pred, "--ref", data, "--allow-missing")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pred", "nowhere", "--ref", "REF"], "--pred nowhere does not exist."),
        (["--pred", "PRED", "--ref", "nowhere"], "--ref nowhere does not exist."),
        (["--pred", ".", "--ref", "REF"], "--pred .: holds no volume"),
        (["--pred", "PRED", "--ref", "."], "no layout was recognised"),
        (["--pred", "PRED", "--ref", "REF", "--tolerance", "-1"], "--tolerance: expected "),
        (["--pred", "PRED", "--ref", "REF", "--out", "no/where"], "the folder no does not exist."),
        (["--pred", "PRED", "--ref", "REF", "--out", "PRED"], "is --pred's folder."),
        (["--pred", "PRED", "--ref", "REF", "--out", "REF"], "is --ref's folder."),
        (["--pred", "PRED", "--ref", "REF", "--config", "no.yaml"], "no.yaml does not exist."),
        (["--pred", "PRED", "--ref", "REF", "--set", "data.label=3"], "Did you mean data.labels?"),
        (
            ["--pred", "PRED", "--ref", "REF", "--set", "data.labels=brats"],
            "unknown preset 'brats'",
        ),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(run, data, pred, tmp_path, arguments, message):
    places = {"REF": data, "PRED": pred}
    status, out, err = run(*[places.get(word, word) for word in arguments])
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert err.startswith("segfocal-evaluate: ")
    assert not list((tmp_path / "empty").iterdir())


def test_files_of_somebody_else_are_not_overwritten(run, data, pred):
    Path("scores").mkdir()
    Path("scores/cases.csv").write_text("mine")
    status, _, err = run("--pred", pred, "--ref", data, "--out", "scores")
    assert status == 2
    assert err == (
        "segfocal-evaluate: --out scores holds files that segfocal-evaluate did not write. Pass "
        "another --out.\n"
    )
    Path("scores/cases.csv").unlink()
    assert run("--pred", pred, "--ref", data, "--out", "scores", "--quiet")[0] == 0
    assert run("--pred", pred, "--ref", data, "--out", "scores", "--quiet")[0] == 0


def test_where_no_case_can_be_evaluated_the_record_says_why(run, data, pred):
    for case in ("c1", "c2"):
        cut_short(pred / f"{case}.nii.gz")
    status, out, err = run("--pred", pred, "--ref", data, "--out", "scores")
    assert (status, len(err.splitlines())) == (1, 2)
    assert out.splitlines()[0] == "evaluated 0 cases · 2 problems"
    record = json.loads(Path("scores/summary.json").read_text())
    assert (record["num_cases"], len(record["problems"])) == (0, 2)
