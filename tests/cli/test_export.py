"""segfocal-export: mistakes in one line with their cure, exit status, what it prints."""

import json
import shlex
import sys

import pytest

from segfocal.cli.export import main
from segfocal.data.phantom.stamp import STAMP
from tests.export.run_folders import write_run

TWO_LAYERS = ("network.name=tests.export.run_folders.TwoLayers", "network.args={}")


@pytest.fixture
def export(run_in_empty_folder):
    return run_in_empty_folder(main)


@pytest.fixture
def run(phantom, tmp_path):
    return write_run(phantom, tmp_path / "run", *TWO_LAYERS)


def test_a_bundle_is_written_into_the_run_and_how_to_run_it_is_told(export, run):
    status, out, err = export("--run", run, "--format", "bundle")
    assert (status, err) == (0, "")
    assert (run / "bundle" / "configs" / "inference.json").is_file()
    lines = out.splitlines()
    assert lines[0].startswith(f"bundle {run / 'bundle'}: tests.export.run_folders.TwoLayers, ")
    assert lines[0].endswith("best.pt of epoch 3; FLAIR,T1w,T1gd,T2w to WT,TC,ET")
    assert STAMP in lines[-1]


def test_how_to_run_a_bundle_is_a_command_that_a_shell_takes(export, run, tmp_path):
    place = tmp_path / "my bundles" / "a"
    _, out, _ = export("--run", run, "--format", "bundle", "--out", place)
    told = out.split("run it: ")[1].split("LABELS")[0].replace("\\\n", " ")
    assert shlex.split(told) == [
        *("cd", str(place), "&&", "python", "-m", "monai.bundle", "run"),
        *("--config_file", "configs/inference.json", "--bundle_root", "."),
        *("--dataset_dir", "IMAGES", "--output_dir"),
    ]


def test_an_onnx_file_is_written_into_the_run(export, run):
    status, out, err = export("--run", run, "--format", "onnx")
    assert (status, err) == (0, "")
    assert (run / "model.onnx").is_file()
    assert "check  onnx.checker; onnxruntime beside the network" in out


def test_quiet_says_nothing(export, run, tmp_path):
    assert export("--run", run, "--format", "bundle", "--quiet") == (0, "", "")


def test_json_is_all_that_is_printed(export, run, tmp_path):
    out_path = tmp_path / "new" / "bundle"
    status, out, err = export("--run", run, "--format", "bundle", "--json", "--out", out_path)
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["format"] == "bundle"
    assert told["path"] == str(out_path)
    assert told["checkpoint"] == str(run / "best.pt")
    assert told["notice"] == STAMP
    assert out_path.is_dir()


def test_another_checkpoint_needs_no_run(export, run):
    (run / "best.pt").rename(run / "last.pt")
    assert export("--ckpt", run / "last.pt", "--format", "bundle", "--quiet")[0] == 0
    readme = (run / "bundle" / "docs" / "README.md").read_text()
    assert "exported by segfocal" in readme
    assert "`last.pt`" in readme


def test_neither_run_nor_checkpoint(export):
    told = "--run is missing: the folder of a run. Or pass --ckpt RUN/best.pt."
    assert export("--format", "onnx") == (2, "", f"segfocal-export: {told}\n")


@pytest.mark.parametrize(
    ("holds", "told"),
    [
        (None, "--run R does not exist. Pass the folder that segfocal-train made."),
        ("file", "--run R is a file; it must be the folder of a run. Or pass --ckpt."),
        ((), "--run R is no run's folder: there is no best.pt. A run writes it when it saves."),
        (
            ("config.yaml",),
            "--run R has no checkpoint yet: there is no best.pt. A run writes it when it saves.",
        ),
        (
            ("config.yaml", "last.pt"),
            (
                "--run R holds no best.pt: it was never validated. Pass --ckpt R/last.pt for the "
                "weights of its last epoch."
            ),
        ),
    ],
)
def test_what_is_no_finished_run(export, tmp_path, holds, told):
    run = tmp_path / "R"
    if holds == "file":
        run.write_text("")
    elif holds is not None:
        run.mkdir()
        for name in holds:
            (run / name).write_text("")
    status, out, err = export("--run", run, "--format", "bundle")
    assert (status, out) == (2, "")
    assert err.replace(str(run), "R") == f"segfocal-export: {told}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--ckpt", "no.pt", "--format", "onnx"), "--ckpt no.pt does not exist"),
        (("--ckpt", ".", "--format", "onnx"), "--ckpt . is a folder. Pass a file"),
    ],
)
def test_what_is_no_checkpoint(export, arguments, told):
    status, out, err = export(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"segfocal-export: {told}")
    assert err.count("\n") == 1


def test_a_damaged_checkpoint_leaves_nothing(export, run):
    (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:500])
    status, out, err = export("--run", run, "--format", "bundle")
    assert (status, out) == (2, "")
    assert "best.pt is damaged or not a checkpoint of segfocal" in err
    assert not (run / "bundle").exists()


@pytest.mark.parametrize(("form", "name"), [("bundle", "bundle"), ("onnx", "model.onnx")])
def test_what_is_there_is_never_overwritten(export, run, form, name):
    (run / name).write_text("mine")
    status, _, err = export("--run", run, "--format", form)
    assert status == 2
    assert err == (
        f"segfocal-export: {run / name} exists already. Remove it, or pass --out for another "
        f"place.\n"
    )
    assert (run / name).read_text() == "mine"


def test_an_onnx_file_needs_its_ending(export, run):
    status, _, err = export("--run", run, "--format", "onnx", "--out", "there")
    assert status == 2
    assert err == "segfocal-export: --out there: expected a file name that ends in .onnx.\n"


def test_a_bundle_has_no_fixed_size(export, run):
    status, _, err = export("--run", run, "--format", "bundle", "--fixed-size")
    assert status == 2
    told = "--fixed-size is for --format onnx. Leave it out: a bundle needs none."
    assert err == f"segfocal-export: {told}\n"


def test_an_unknown_format_is_named_beside_the_known_ones(export, run):
    status, _, err = export("--run", run, "--format", "tflite")
    assert status == 2
    assert "invalid choice: 'tflite' (choose from" in err
    assert "bundle" in err.splitlines()[-1]


def test_a_network_that_cannot_be_imported_here(export, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tests.export.run_folders", None)
    status, out, err = export("--run", run, "--format", "bundle")
    assert (status, out) == (2, "")
    told = "network.name: cannot import tests.export.run_folders.TwoLayers: "
    assert err.startswith(f"segfocal-export: {told}")
    assert err.count("\n") == 1
    assert not (run / "bundle").exists()


def test_a_folder_that_cannot_be_written(export, run, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = export("--run", run, "--format", "bundle", "--out", tmp_path / "file" / "b")
    assert status == 2
    folder = tmp_path / "file"
    assert err == f"segfocal-export: {folder} cannot be written: File exists. Use another.\n"
