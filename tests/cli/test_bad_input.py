"""Every mistake: one line on standard error, exit status 2, and nothing written."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from segfocal.cli.predict import main as predict_main
from segfocal.cli.train import main as train_main
from tests.runs import TINY, tiny_run


@pytest.fixture
def data(phantom, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(phantom, tmp_path / "data")


@pytest.fixture
def mistake(tmp_path, capsys):
    """Runs segfocal-train and returns its one line."""

    def _run(root, *settings, out=None, extra=()):
        out = out or tmp_path / "run"
        there = sorted(out.rglob("*")) if out.exists() else None
        arguments = ["--config", "phantom.yaml", "--out", str(out), *extra]
        with pytest.raises(SystemExit) as stop:
            train_main([*arguments, "--set", f"data.root={root}", *TINY, *settings])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert (sorted(out.rglob("*")) if out.exists() else None) == there
        return lines[0].removeprefix("segfocal-train: ")

    return _run


def rewrite(path, change):
    image = nib.load(path)
    values, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
    nib.save(nib.Nifti1Image(values, affine), path)


def test_an_unknown_setting(mistake, phantom):
    assert mistake(phantom, "loss.gama=2") == (
        "--set: loss.gama is not a setting. Did you mean loss.gamma?"
    )


def test_a_missing_folder(mistake, tmp_path):
    assert mistake(tmp_path / "Task01") == (
        f"--set: data.root: {tmp_path / 'Task01'} does not exist. Pass --set data.root=... or try "
        f"--demo."
    )


def test_a_missing_folder_by_a_relative_path(mistake):
    assert mistake("Task01") == (
        "--set: data.root: Task01 does not exist. Pass --set data.root=... or try --demo. Relative "
        "paths count from the current folder."
    )


def test_a_label_nobody_declared(mistake, data):
    rewrite(data / "labelsTr" / "PHANTOM_002.nii.gz", lambda v, a: (np.where(v == 3, 4, v), a))
    assert mistake(data) == (
        "PHANTOM_002: label holds {0,1,2,4}; the config declares {0,1,2,3,255}. "
        "BraTS 2018-22 uses 4 for ET: set data.labels: brats18-22."
    )


def test_a_file_larger_than_the_cap(mistake, phantom):
    assert mistake(phantom, "data.max_voxels=1000").endswith(
        "more than data.max_voxels (1000). Mend the header, or raise data.max_voxels if the volume "
        "is that large."
    )


def test_image_and_label_of_another_shape(mistake, data):
    rewrite(data / "labelsTr" / "PHANTOM_001.nii.gz", lambda v, a: (v[:-1], a))
    line = mistake(data)
    assert line.startswith("PHANTOM_001: image is ")
    assert "Resample one onto the other's grid" in line


def test_image_and_label_of_another_affine(mistake, data):
    def lift(values, affine):
        affine[2, 3] += 1.5
        return values, affine

    rewrite(data / "labelsTr" / "PHANTOM_001.nii.gz", lift)
    assert mistake(data).startswith("PHANTOM_001: image and label affines differ by 1.5 mm in z.")


def test_a_wrong_channel_count(mistake, data):
    path = data / "imagesTr" / "PHANTOM_003.nii.gz"
    rewrite(path, lambda v, a: (v[..., :3], a))
    assert "holds 3 channels; expected 4 (FLAIR, T1w, T1gd, T2w)" in mistake(data)


def test_a_patch_larger_than_a_volume_with_padding_off(mistake, phantom):
    line = mistake(phantom, "train.patch_size=[64, 16, 16]", "data.pad=false")
    assert line.startswith("--set: train.patch_size: Patch 64x16x16 is larger than PHANTOM_00")
    assert "Use data.pad: true or a patch <= [" in line


def test_a_folder_in_use(mistake, phantom, tmp_path):
    out = tmp_path / "run"
    tiny_run(phantom, out, "train.epochs=1")
    assert mistake(phantom, out=out).startswith(f"{out} already holds a run. Pass --resume")


def test_resuming_with_other_classes(mistake, phantom, tmp_path):
    out = tmp_path / "run"
    tiny_run(phantom, out, "train.epochs=1")
    assert mistake(phantom, "data.labels=null", out=out, extra=["--resume"]) == (
        "Cannot resume: last.pt has 3 regions, the config 4 classes. Start a new run or use "
        "--init-from."
    )


def test_a_class_without_voxels(mistake, data):
    for path in (data / "labelsTr").glob("*.nii.gz"):
        rewrite(path, lambda v, a: (np.where(v == 3, 2, v), a))
    assert mistake(data) == (
        "Class ET has no voxel in the training split: alpha is undefined. Change the split, drop "
        "the class, or set loss.alpha."
    )


def test_a_damaged_file(mistake, data):
    path = data / "labelsTr" / "PHANTOM_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    line = mistake(data)
    assert line.startswith("PHANTOM_001: ")
    assert "PHANTOM_001.nii.gz" in line


def test_numbers_per_class_that_do_not_fit(mistake, phantom):
    assert mistake(phantom, "loss.alpha=[0.1, 0.9]") == (
        "--set: loss.alpha: expected 3 numbers, one for each of WT, TC, ET, got 2."
    )


def test_an_alpha_out_of_its_range(mistake, phantom):
    assert mistake(phantom, "loss.alpha=1.5") == (
        "--set: loss.alpha: must be finite and in [0, 1]: got 1.5."
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("loss: {alpha: 1.5}", "loss.alpha: must be finite and in [0, 1]: got 1.5."),
        (
            "loss: {normalizer: alpha, top_k: 10}",
            (
                "loss.top_k: divides by the number of voxels that it keeps: expected "
                "normalizer='valid', got 'alpha'."
            ),
        ),
        (
            "loss: {ignore_index: 0}",
            (
                "loss.ignore_index: 0 is background in msd-task01. Name values of voxels that "
                "nobody annotated, or null."
            ),
        ),
        ("network: {name: SegNet}", "network.name: unknown network 'SegNet'. Did you mean "),
        (
            "loss: {alpha: effective_number, alpha_beta: 1}",
            "loss.alpha_beta: effective_number needs 0 <= beta < 1, got 1.0.",
        ),
        ("data.exclude: ['*']", "data.exclude: * leaves out every case (6). Keep some."),
    ],
)
def test_what_only_the_run_can_refuse_has_its_line_too(mistake, phantom, tmp_path, line, message):
    config = tmp_path / "my.yaml"
    config.write_text(f"data:\n  root: there\n  labels: msd-task01\n{line}\n")
    if line.startswith("data."):
        config.write_text(f"data:\n  root: there\n  labels: msd-task01\n  {line[5:]}\n")
    told = mistake(phantom, extra=["--config", str(config)])
    assert told.startswith(f"my.yaml:4: {message}")


def test_a_case_that_is_wholly_ignored(mistake, data):
    for path in sorted((data / "labelsTr").glob("*.nii.gz")):
        rewrite(path, lambda v, a: (np.full_like(v, 255), a))
    assert "every voxel is ignored: nothing to learn from" in mistake(data)


def test_an_unknown_network_and_a_patch_it_cannot_take(mistake, phantom):
    assert "unknown network 'SegNet'" in mistake(phantom, "network.name=SegNet", "network.args={}")
    assert mistake(phantom, "network.args={out_channels: 1}") == (
        "--set: network.args: out_channels: expected 3, as the data have it, got 1. Leave it out."
    )
    assert "cannot take a patch of 17x16x16" in mistake(phantom, "train.patch_size=[17, 16, 16]")


def test_broken_json_names_its_line(mistake, data):
    (data / "dataset.json").write_text('{\n "labels": {,\n}')
    assert "dataset.json:2: is not valid JSON" in mistake(data)


def test_a_device_that_is_not_there(mistake, phantom):
    assert "cuda:99 is not there" in mistake(phantom, "train.device=cuda:99")


def test_a_split_that_names_no_case_of_the_data(mistake, phantom, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["nobody"], "val": ["PHANTOM_001"]}))
    assert "nobody" in mistake(phantom, f"data.split={split}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing. segfocal-stats --data FOLDER --suggest my.yaml writes one"),
        (["--config", "nope.yaml"], "nope.yaml does not exist. Configs that come with segfocal:"),
        (["--demo", "--resume"], "--demo brings its own data and config"),
    ],
)
def test_arguments_that_mean_nothing(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train_main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_predict_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        predict_main(["--ckpt", str(tmp_path / "no.pt"), "-i", str(tmp_path), "-o", "out"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"segfocal-predict: --ckpt {tmp_path / 'no.pt'} does not exist. A run writes best.pt in "
        f"its folder.\n"
    )
