"""segfocal-stats from its arguments to its files, and every way that these can be wrong."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import segfocal
from segfocal.cli.stats import main
from segfocal.config.load import load_config
from segfocal.data.phantom.stamp import STAMP
from segfocal.statistics.voxel_counts import VoxelCounts
from segfocal.training.preflight import preflight
from tests.data.nifti_files import nnunet


@pytest.fixture
def run(run_in_empty_folder):
    return run_in_empty_folder(main, "--workers", 1)


@pytest.fixture
def data(phantom, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(phantom, tmp_path / "data")


def test_the_tables_hold_what_numpy_and_scipy_count(run, phantom, tmp_path):
    status, out, err = run("--data", phantom)
    assert (status, err) == (0, "")
    record = json.loads((tmp_path / "empty" / "stats.json").read_text())
    classes = {group["name"]: group for group in record["classes"]}
    labels = [nib.load(path) for path in sorted((phantom / "labelsTr").glob("*.nii.gz"))]
    arrays = [np.asarray(label.dataobj) for label in labels]
    annotated = sum(int((array != 255).sum()) for array in arrays)
    for value, name in enumerate(("background", "oedema", "non-enhancing", "enhancing")):
        voxels = sum(int((array == value).sum()) for array in arrays)
        assert classes[name]["voxels"] == voxels
        assert classes[name]["share"] == pytest.approx(voxels / annotated)
        assert classes[name]["cases"] == sum(bool((array == value).any()) for array in arrays)
        assert f"{voxels:,}" in out
    lesions = []
    for label, array in zip(labels, arrays, strict=True):
        components, count = ndimage.label(array == 3, np.ones((3, 3, 3)))
        voxel_mm3 = np.prod(label.header.get_zooms()).astype(float)
        lesions += [int((components == i + 1).sum()) * voxel_mm3 for i in range(count)]
    assert classes["enhancing"]["lesions"] == len(lesions)
    assert classes["enhancing"]["lesion_mm3"]["median"] == pytest.approx(np.median(lesions))
    assert classes["enhancing"]["lesion_mm3"]["smallest"] == pytest.approx(min(lesions))


def test_the_counts_are_those_that_training_makes(run, phantom, tmp_path):
    run("--data", phantom, "--quiet")
    record = json.loads((tmp_path / "empty" / "stats.json").read_text())
    counts = VoxelCounts.from_dict(record["counts"])
    loaded = load_config(
        Path("phantom.yaml"),
        [
            *(f"data.root={phantom}", "data.labels=null", "data.val_fraction=0"),
            *("loss.alpha=balanced", "loss.alpha_max_ratio=null", "loss.alpha_unit=lesions"),
        ],
    )
    plan = preflight(loaded)
    assert plan.counts.to_dict() == counts.to_dict()
    by_lesions = record["alpha_by_lesions"]["balanced"]
    assert list(plan.alpha.weights) == by_lesions["weights"]
    assert record["counts"]["provenance"]["lesions"] == {
        group["name"]: group["lesions"] for group in record["classes"] if group["values"] != [0]
    }


def test_the_table_of_alpha_is_in_the_unit_that_the_config_names(run, phantom):
    arguments = ("--data", phantom, "--set", "data.labels=msd-task01")
    _, out, _ = run(*arguments)
    assert "loss.alpha (alpha of each region)" in out
    _, out, _ = run(*arguments, "loss.alpha_unit=lesions")
    assert "loss.alpha (alpha of each region, by lesions)" in out
    record = json.loads(Path("stats.json").read_text())
    weights = record["alpha_by_lesions"]["balanced"]["weights"]
    table = out.partition("by lesions)")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    balanced = {row[0]: float(row[2]) for row in cells if row[:1] in (["WT"], ["TC"], ["ET"])}
    expected = dict(zip(("WT", "TC", "ET"), weights, strict=True))
    assert balanced == pytest.approx(expected, abs=5e-4)


def test_everything_made_from_the_phantom_says_so(run, phantom, tmp_path):
    _, out, _ = run("--data", phantom)
    assert STAMP in out
    record = json.loads((tmp_path / "empty" / "stats.json").read_text())
    assert record["dataset"]["synthetic"] == STAMP
    picture = matplotlib.image.imread(tmp_path / "empty" / "stats.png")
    stamp_red = np.abs(picture[..., :3] - np.array([0xA0, 0, 0]) / 255).max(axis=-1) < 0.01
    assert stamp_red.sum() > 1000


def test_quiet_says_nothing_and_writes_all_the_same(run, phantom, tmp_path):
    assert run("--data", phantom, "--quiet") == (0, "", "")
    names = sorted(path.name for path in (tmp_path / "empty").iterdir())
    assert names == ["stats.json", "stats.png"]


def test_a_reader_that_goes_away_costs_no_file(run, tmp_path, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr("segfocal.reports.survey_tables.headline", gone)
    status, _, err = run("--data", nnunet(tmp_path / "data", channels=("CT",)))
    assert (status, err) == (1, "")
    assert json.loads(Path("stats.json").read_text())["num_cases"] == 2
    assert Path("stats.png").is_file()


def test_json_is_all_that_is_said_and_nothing_is_written(run, phantom, tmp_path):
    status, out, err = run("--data", phantom, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["num_cases"] == 6
    assert not list((tmp_path / "empty").iterdir())


def test_a_clean_data_set_but_for_a_case_without_tumour(run, data, tmp_path):
    assert run("--data", data, "--check") == (0, "6 cases checked: no problem found.\n", "")
    path = data / "labelsTr/PHANTOM_003.nii.gz"
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), None, label.header), path)
    status, out, _ = run("--data", data, "--check")
    assert status == 1
    line, summary = out.splitlines()
    assert line.startswith("doubt  PHANTOM_003: label holds background alone")
    assert line.endswith("[empty-label]")
    assert summary == (
        "6 cases checked: 1 problem in 1 case (empty-label 1). Training stops at 0 errors; 1 doubt "
        "may be as it should be."
    )
    status, out, _ = run("--data", data, "--check", "--accept", "empty-label")
    assert (status, out) == (0, "6 cases checked: no problem found. Accepted: empty-label.\n")
    assert not list((tmp_path / "empty").iterdir())


def test_problems_of_every_case_are_listed_at_once(run, data, tmp_path):
    first, second = data / "labelsTr/PHANTOM_001.nii.gz", data / "imagesTr/PHANTOM_002.nii.gz"
    first.write_bytes(first.read_bytes()[:-8])
    second.unlink()
    shutil.copy(data / "imagesTr/PHANTOM_003.nii.gz", second)
    status, out, _ = run("--data", data, "--check", "--out", "p.json")
    assert status == 1
    assert "error  PHANTOM_001: " in out
    assert "[damaged-gzip]" in out
    assert "T2w holds the same numbers as PHANTOM_002's T2w." in out
    record = json.loads((tmp_path / "empty" / "p.json").read_text())
    assert {problem["case"] for problem in record["problems"]} >= {"PHANTOM_001", "PHANTOM_003"}
    assert record["num_cases"] == 6


def test_a_case_with_an_error_is_left_out_of_the_numbers(run, data):
    path = data / "labelsTr/PHANTOM_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-8])
    status, out, _ = run("--data", data)
    assert status == 0
    assert "left out: 1 of 6 cases, which training would refuse: PHANTOM_001" in out


def test_a_missing_partner_is_a_problem_of_its_case_and_hides_no_other(run, data):
    (data / "labelsTr/PHANTOM_001.nii.gz").unlink()
    (data / "imagesTr/PHANTOM_002.nii.gz").unlink()
    damaged = data / "imagesTr/PHANTOM_001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    broken = data / "labelsTr/PHANTOM_004.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-8])
    status, out, _ = run("--data", data, "--check")
    assert status == 1
    lines = out.splitlines()
    cure = "Copy it there, or leave the case out by data.exclude. [missing-file]"
    assert (
        f"error  PHANTOM_001: label is missing, expected labelsTr/PHANTOM_001.nii.gz. {cure}"
        in lines
    )
    assert (
        f"error  PHANTOM_002: image is missing, expected imagesTr/PHANTOM_002.nii.gz. {cure}"
        in lines
    )
    assert [line.split(":")[0] for line in lines if "[damaged-gzip]" in line] == [
        "error  PHANTOM_001",
        "error  PHANTOM_004",
    ]
    assert lines[-1].startswith(
        "6 cases checked: 4 problems in 3 cases (missing-file 2, damaged-gzip 2). Training stops "
        "at 4 errors;"
    )
    status, out, err = run("--data", data)
    assert (status, err) == (0, "")
    assert (
        "left out: 3 of 6 cases, which training would refuse: PHANTOM_001, PHANTOM_002, "
        "PHANTOM_004" in out
    )


def test_a_stray_file_is_a_problem_and_hides_no_other(run, tmp_path):
    root = nnunet(tmp_path / "data", channels=("CT",))
    shutil.copy(root / "imagesTr/c1_0000.nii.gz", root / "imagesTr/notes.nii.gz")
    damaged = root / "imagesTr/c2_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    status, out, _ = run("--data", root, "--check")
    assert status == 1
    stray, other, summary = out.splitlines()
    assert stray.startswith(f"error  {root}/imagesTr/notes.nii.gz: has no channel number, but ")
    assert stray.endswith("[dataset]")
    assert other.startswith("error  c2: ")
    assert summary.startswith(
        "2 cases checked: 2 problems in 1 case and what is of no case (dataset 1, damaged-gzip 1)."
    )
    status, out, _ = run("--data", root)
    assert status == 0
    assert "problems: 2. segfocal-stats --check lists each with its cure." in out
    assert json.loads(Path("stats.json").read_text())["faults"][0] in stray


def test_a_folder_that_makes_no_sense_is_a_problem_of_the_data_set(run, data):
    (data / "dataset.json").write_text("{")
    status, out, _ = run("--data", data, "--check")
    assert status == 1
    assert "[dataset]" in out
    assert "No case was checked: the data set as a whole has to be mended first." in out
    status, _, err = run("--data", data)
    assert status == 2
    assert "is not valid JSON" in err


def test_a_config_says_how_the_data_is_read(run, phantom):
    status, out, _ = run("--data", phantom, "--config", "phantom.yaml")
    assert status == 0
    assert "WT" in out
    assert "alpha of each region" in out
    status, out, _ = run("--data", phantom, "--set", "data.max_voxels=1000", "--check")
    assert status == 1
    assert out.count("[too-large]") == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing: the folder of the data set, or --config with data.root."),
        (["--data", "nowhere"], "--data nowhere does not exist. Expected the folder of a data set"),
        (["--data", "DATA", "--layout", "dicom"], "--layout: data.layout: expected "),
        (["--data", "DATA", "--out", "x.csv"], "--out x.csv: expected a name that ends in .json."),
        (["--data", "DATA", "--out", "no/x.json"], "the folder no does not exist."),
        (["--data", "DATA", "--accept", "shape"], "--accept shape: expected a kind of doubt: "),
        (["--data", "DATA", "--set", "data.max_voxel=3"], "Did you mean data.max_voxels?"),
    ],
)
def test_a_mistake_is_one_line(run, phantom, arguments, message):
    status, out, err = run(*[phantom if word == "DATA" else word for word in arguments])
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert err.startswith("segfocal-stats: ")


def test_a_file_of_somebody_else_is_not_overwritten(run, phantom, tmp_path):
    path = tmp_path / "empty" / "stats.json"
    path.write_text('{"counts": 1}')
    status, _, err = run("--data", phantom)
    assert status == 2
    assert err == (
        "segfocal-stats: stats.json exists and was not written by segfocal-stats. Pass another "
        "--out.\n"
    )
    path.unlink()
    assert run("--data", phantom, "--quiet")[0] == 0
    assert run("--data", phantom, "--quiet")[0] == 0


def test_a_folder_that_cannot_be_written_to_is_told_before_reading(run, phantom, monkeypatch):
    def read_only(**_where):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    status, _, err = run("--data", phantom)
    assert status == 2
    assert err == (
        f"segfocal-stats: {Path.cwd()} cannot be written: Read-only file system. Use another.\n"
    )


def test_two_processes_write_the_bytes_that_one_writes(run, phantom, tmp_path):
    run("--data", phantom, "--quiet", "--out", "one.json")
    command = [sys.executable, "-m", "segfocal.cli.stats"]
    done = subprocess.run(
        [*command, "--data", phantom, "--out", "two.json", "--workers", "2"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(segfocal.__file__).parents[1])},
    )
    assert "two.json and two.png" in done.stdout
    one, two = ((tmp_path / "empty" / name).read_bytes() for name in ("one.json", "two.json"))
    assert one == two


def test_no_torch_is_imported(phantom):
    code = (
        "import sys\nfrom segfocal.training.survey import SurveyRequest, survey\n"
        "from pathlib import Path\n"
        f"survey(SurveyRequest(data=Path({str(phantom)!r}), as_json=True, workers=1))\n"
        "heavy = {'torch', 'monai', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_record_of_a_check_says_whether_it_is_of_a_phantom(run, phantom, tmp_path):
    roots = (phantom, nnunet(tmp_path / "Dataset001_A"), tmp_path)
    records = [json.loads(run("--data", root, "--check", "--json")[1]) for root in roots]
    assert [record["synthetic"] for record in records] == [STAMP, False, None]  # null: no data set
