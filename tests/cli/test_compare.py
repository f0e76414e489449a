"""segfocal-compare from its arguments to its files, and every way that these can be wrong."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread

from segfocal.cli.compare import main
from segfocal.cli.evaluate import main as evaluate
from segfocal.data.phantom.stamp import STAMP
from tests.data.nifti_files import TURNED, nnunet, save

CASES = ("c1", "c2", "c3", "c4")


@pytest.fixture
def run(run_in_empty_folder):
    return run_in_empty_folder(main)


@pytest.fixture
def evaluated(run_in_empty_folder):
    return run_in_empty_folder(evaluate, "--workers", 1)


def tumour(width):
    volume = np.zeros((8, 9, 7), np.uint8)
    volume[2 : 2 + width, 2:6, 1:4] = 1
    return volume


@pytest.fixture
def scores(tmp_path, evaluated):
    """Evaluations of two methods, one tumour of 4 rows in each of four cases."""
    root = nnunet(tmp_path / "data", channels=("CT",))
    widths = {"a": (2, 3, 3, 2), "b": (3, 4, 3, 4)}
    for case in CASES:
        save(root / f"labelsTr/{case}.nii.gz", tumour(4), TURNED)
    for method, predicted in widths.items():
        for case, width in zip(CASES, predicted, strict=True):
            save(tmp_path / f"pred/{method}/{case}.nii.gz", tumour(width), TURNED)
        out = tmp_path / f"scores/{method}"
        out.parent.mkdir(exist_ok=True)
        status, *_ = evaluated("--pred", tmp_path / f"pred/{method}", "--ref", root, "--out", out)
        assert status == 0
    return tmp_path / "scores"


def dice(width):
    return 2 * width / (width + 4)


def rows_of(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def edited(path, change):
    path.write_text(change(path.read_text()))


def test_tables_and_files_hold_what_scipy_says(run, scores):
    status, out, err = run(scores / "a", scores / "b", "--out", "found")
    assert (status, err) == (0, "")
    first = np.array([dice(2), dice(3), dice(3), dice(2)])
    second = np.array([dice(3), dice(4), dice(3), dice(4)])
    expected = scipy.stats.ttest_rel(second, first)
    low, high = expected.confidence_interval()
    (row,) = [
        row for row in rows_of("found/comparison.csv")
        if (row["measure"], row["method"]) == ("dice", "b")
    ]  # fmt: skip
    assert (row["class"], row["baseline"], row["cases"], row["patients"]) == (
        "tumour",
        "a",
        "4",
        "4",
    )
    assert float(row["value"]) == pytest.approx(second.mean())
    assert float(row["difference"]) == pytest.approx((second - first).mean())
    assert float(row["difference_low"]) == pytest.approx(low)
    assert float(row["difference_high"]) == pytest.approx(high)
    assert (row["better"], row["same"], row["worse"], row["p"]) == ("3", "1", "0", "0.25")
    alone = {
        (row["case"], row["method"]): float(row["value"])
        for row in rows_of("found/comparison_cases.csv") if row["measure"] == "dice"
    }  # fmt: skip
    assert alone["c4", "a"] == pytest.approx(dice(2))
    assert alone["c2", "b"] == 1
    assert len(alone) == 8
    record = json.loads(Path("found/comparison.json").read_text())
    assert (record["baseline"], record["left_out"], record["level"]) == ("a", {}, 0.95)
    assert list(record["measures"]) == [
        "dice", "nsd", "hd95_mm", "assd_mm", "lesion_f1", "sensitivity", "false_positives"
    ]  # fmt: skip
    far = record["measures"]["dice"]["classes"]["tumour"]["differences"]["b"]["estimate"]
    assert far["value"] == pytest.approx((second - first).mean())
    assert "compared 2 methods on 4 cases\n" in out
    assert "Dice (higher is better), differences from a" in out
    assert "HD95 in mm (lower is better), differences from a" in out
    line = next(line for line in out.splitlines() if line.startswith("|       |b "))
    assert f"+{(second - first).mean():.3f}"[1:].lstrip("0") in line
    assert "3:0" in line
    assert imread("found/comparison.png").shape[2] == 4
    assert out.splitlines()[-1].startswith("wrote  found/comparison.csv")


def test_it_does_not_load_torch(scores):
    code = (
        "import sys\nfrom segfocal.evaluation.compare import CompareRequest, compare\n"
        f"compare(CompareRequest(({str(scores / 'a')!r}, {str(scores / 'b')!r})))\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_evaluation_names_the_command_for_its_folder(scores, evaluated):
    root = scores.parent
    arguments = ("--pred", root / "pred/a", "--ref", root / "data", "--allow-missing")
    _, out, _ = evaluated(*arguments, "--out", root / "my scores")
    assert out.splitlines()[-1] == f"next   segfocal-compare '{root}/my scores' [OTHER ...]"
    _, out, _ = evaluated(*arguments)
    assert "segfocal-compare" not in out


def test_json_is_the_record(run, scores):
    status, out, err = run(scores / "a", scores / "b", "--json", "--measures", "dice", "nsd")
    assert (status, err) == (0, "")
    assert list(json.loads(out)["measures"]) == ["dice", "nsd"]


def test_methods_have_names(run, scores):
    shutil.move(scores / "a", scores / "one/scores")
    shutil.move(scores / "b", scores / "two/scores")
    _, out, _ = run(scores / "one/scores", scores / "two/scores", "--measures", "dice")
    assert "differences from one\n" in out
    assert "|two " in out
    _, out, _ = run(f"nnU-Net={scores}/one/scores", scores / "two/scores", "--baseline", "scores")
    assert "differences from scores\n" in out
    assert "|nnU-Net " in out
    status, _, err = run(scores / "one/scores", scores / "one/scores")
    assert status == 2
    assert "Name them: a=" in err
    status, _, err = run(scores / "one/scores", scores / "two/scores", "--baseline", "three")
    assert (status, err) == (
        2, "segfocal-compare: --baseline three: the methods are one, two.\n"
    )  # fmt: skip


def test_one_method_alone_has_intervals(run, scores):
    status, out, _ = run(scores / "b", "--out", "alone")
    assert status == 0
    assert out.splitlines()[0] == "b, 4 cases"
    assert "differ" not in out
    assert "p:" not in out
    values = [dice(3), dice(4), dice(3), dice(4)]
    low, _ = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    row = rows_of("alone/comparison.csv")[0]
    assert float(row["low"]) == pytest.approx(low)
    assert float(row["high"]) == 1  # Student's end is 1.002
    assert row["difference"] == ""


def test_cases_that_a_method_lacks_are_left_out_and_told(run, scores):
    edited(scores / "b/cases.csv", lambda text: text.replace("c2,", "c9,"))
    status, out, err = run(scores / "a", scores / "b")
    assert status == 1
    assert err == "error  c2: left out, b lacks it\nerror  c9: left out, a lacks it\n"
    assert "compared 2 methods on 3 cases · 2 left out" in out
    status, _, err = run(scores / "a", scores / "b", "--allow-missing")
    assert (status, err) == (0, "")


def test_cases_that_a_network_was_trained_on_are_doubted(run, scores):
    edited(
        scores / "b/summary.json",
        lambda text: text.replace('"trained_on": []', '"trained_on": ["c2", "c4", "c9"]'),
    )
    _, out, _ = run(scores / "a", scores / "b", "--out", "found")
    assert "doubt  b was trained on 2 of the cases (c2 ...): for them this is no measure" in out
    assert "doubt  a" not in out
    record = json.loads(Path("found/comparison.json").read_text())
    assert record["methods"]["b"]["trained_on"] == ["c2", "c4", "c9"]


def test_patients_are_read_off_the_ids(run, scores):
    for method in ("a", "b"):
        edited(scores / method / "cases.csv", lambda text: text.replace("c2,", "c1x,"))
    _, out, _ = run(scores / "a", scores / "b", "--patient", "c{patient}*")
    assert "compared 2 methods on 4 cases of 3 patients" in out
    status, _, err = run(scores / "a", scores / "b", "--patient", "{patient}_T*")
    assert status == 2
    assert "c1 does not fit {patient}_T*" in err
    for method in ("a", "b"):
        edited(
            scores / method / "cases.csv",
            lambda text: text.replace("c1,", "sub-1_ses-1,").replace("c1x,", "sub-1_ses-2,"),
        )
    _, out, _ = run(scores / "a", scores / "b")
    assert "compared 2 methods on 4 cases of 3 patients" in out


def refused(run, *arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_what_was_not_measured_alike_is_not_compared(run, scores, evaluated):
    root = scores.parent
    evaluated("--pred", root / "pred/b", "--ref", root / "data", "--out", scores / "b",
              "--tolerance", "1", "--lesionwise", "brats-gli")  # fmt: skip
    status, out, _ = run(scores / "a", scores / "b")
    assert status == 0
    assert "Dice (higher" in out
    assert "NSD" not in out
    assert "Lesion F1" not in out
    err = refused(run, scores / "a", scores / "b", "--measures", "nsd")
    assert "by 2.0 and" in err
    assert "with one --tolerance." in err
    err = refused(run, scores / "a", scores / "b", "--measures", "lesion_f1")
    assert "with one --lesionwise." in err
    err = refused(run, scores / "b", scores / "a", "--measures", "lesion_dice")
    assert err.endswith("scores/a has no lesion_dice.\n")
    _, out, _ = run(scores / "b")
    assert "BraTS lesion-wise Dice" in out


def test_other_references_are_refused(run, scores):
    edited(
        scores / "b/cases.csv",
        lambda text: "\n".join(
            ",".join([*cells[:7], "49", *cells[8:]]) if cells[0] == "c3" else ",".join(cells)
            for cells in (line.split(",") for line in text.splitlines())
        ),
    )
    err = refused(run, scores / "a", scores / "b")
    assert "c3: the reference of tumour is 48 voxels in" in err
    assert "49 voxels in" in err
    assert "Evaluate both against the same labels." in err


def test_other_classes_are_refused(run, scores):
    edited(scores / "b/cases.csv", lambda text: text.replace("tumour", "lesion"))
    err = refused(run, scores / "a", scores / "b")
    assert "scores/a holds tumour, " in err
    assert "scores/b lesion. Evaluate both with the same data.labels." in err


def test_no_common_case_is_refused(run, scores):
    edited(scores / "b/cases.csv", lambda text: text.replace("\nc", "\nd"))
    assert "have no case in common." in refused(run, scores / "a", scores / "b")


def test_what_is_no_score_is_refused(run, scores, tmp_path):
    assert "nowhere: no such folder." in refused(run, tmp_path / "nowhere")
    err = refused(run, tmp_path / "pred/a")
    assert "pred/a holds neither summary.json and cases.csv" in err
    assert err.endswith(f"segfocal-evaluate --pred {tmp_path}/pred/a --ref LABELS --out SCORES.\n")
    edited(scores / "a/cases.csv", lambda text: text.replace(",48,", ",many,", 1))
    assert "a/cases.csv:2: not a row as segfocal-evaluate writes it" in refused(run, scores / "a")
    edited(scores / "b/cases.csv", lambda text: text.splitlines()[0] + "\n")
    assert "b/cases.csv: holds no case." in refused(run, scores / "b")
    edited(scores / "b/summary.json", lambda text: text.replace("segfocal-evaluate 1", "other 1"))
    assert "is not by segfocal-evaluate" in refused(run, scores / "b")


def test_an_evaluation_of_no_case_is_none(run, scores):
    (scores / "a/cases.csv").unlink()
    assert "a holds neither summary.json and cases.csv" in refused(run, scores / "a")


def test_mistakes_in_the_arguments_are_told(run, scores, tmp_path):
    err = refused(run, scores / "a", "--measures", "dise")
    assert "--measures dise: expected some of dice, nsd," in err
    assert "is a file" in refused(run, scores / "a", "--out", scores / "a/cases.csv")
    assert "does not exist" in refused(run, scores / "a", "--out", "no/folder")
    Path("mine").mkdir()
    Path("mine/comparison.csv").write_text("mine")
    assert "did not write" in refused(run, scores / "a", "--out", "mine")
    assert Path("mine/comparison.csv").read_text() == "mine"
    for _ in range(2):
        status, *_ = run(scores / "a", "--out", "found", "--quiet")
        assert status == 0


VALIDATION = """\
epoch,case,region,dice,ref_voxels,pred_voxels,lesions,lesions_found,false_positives,ref_ml,\
pred_ml,note
8,c1,ET,0.5,100,90,3,2,1,0.1,0.09,{note}
8,c1,WT,0.8,200,210,1,1,0,0.2,0.21,{note}
8,c2,ET,,,,,,,,,{note}
8,c2,WT,0.6,300,200,1,1,0,0.3,0.2,{note}
"""


def test_runs_are_compared_by_their_validation_cases(run, tmp_path):
    for name, better in (("one", "0.5"), ("two", "0.9")):
        (tmp_path / name).mkdir()
        text = VALIDATION.format(note="").replace("0.5,100", f"{better},100")
        (tmp_path / name / "val_cases.csv").write_text(text)
    status, out, err = run(tmp_path / "one", tmp_path / "two", "--out", "found")
    assert (status, err) == (0, "")
    assert "doubt  one, two: validation cases, by which the epoch of best.pt was chosen." in out
    (row,) = [
        row for row in rows_of("found/comparison.csv")
        if (row["measure"], row["class"], row["method"]) == ("dice", "ET", "two")
    ]  # fmt: skip
    assert (row["cases"], float(row["difference"])) == ("1", pytest.approx(0.4))
    assert row["difference_low"] == ""
    assert STAMP not in out
    assert not any(row["note"] for row in rows_of("found/comparison_cases.csv"))


def test_the_phantoms_stamp_stands_on_everything(run, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/val_cases.csv").write_text(VALIDATION.format(note=STAMP))
    _, out, _ = run(tmp_path / "one", "--out", "found")
    assert STAMP in out
    for name in ("comparison.csv", "comparison_cases.csv"):
        assert {row["note"] for row in rows_of(f"found/{name}")} == {STAMP}
    assert json.loads(Path("found/comparison.json").read_text())["synthetic"] == STAMP
    assert STAMP.encode() in Path("found/comparison.png").read_bytes()
    (tmp_path / "two").mkdir()
    (tmp_path / "two/val_cases.csv").write_text(VALIDATION.format(note=""))
    _, out, _ = run(tmp_path / "two", tmp_path / "one")
    assert STAMP in out


def test_folds_are_one_method(run, tmp_path):
    """Two runs a method, each with the validation cases of its fold."""
    for name, dice in (("one", "0.5"), ("two", "0.9")):
        for fold in (0, 1):
            text = VALIDATION.format(note="").replace("0.5,100", f"{dice},100")
            folder = tmp_path / f"{name}_{fold}"
            folder.mkdir()
            (folder / "val_cases.csv").write_text(text.replace("8,c", f"8,fold{fold}c"))
    (tmp_path / "one_notes").write_text("no folder")
    status, out, err = run(f"one={tmp_path}/one_*", f"two={tmp_path}/two_[01]", "--out", "found")
    assert (status, err) == (0, "")
    assert "compared 2 methods on 4 cases" in out
    (row,) = [
        row for row in rows_of("found/comparison.csv")
        if (row["measure"], row["class"], row["method"]) == ("dice", "ET", "two")
    ]  # fmt: skip
    assert (row["cases"], float(row["difference"])) == ("2", pytest.approx(0.4))
    assert "three_*: no such folder." in refused(run, f"one={tmp_path}/three_*")
    shutil.copy(tmp_path / "one_0/val_cases.csv", tmp_path / "one_1/val_cases.csv")
    err = refused(run, f"one={tmp_path}/one_*")
    assert "one: fold0c1 is in " in err
    assert "one_1 and in another of its folders." in err
    other = (tmp_path / "two_0/val_cases.csv").read_text().replace("ET", "RC")
    (tmp_path / "two_0/val_cases.csv").write_text(other)
    assert "were not measured alike" in refused(run, f"two={tmp_path}/two_*")
