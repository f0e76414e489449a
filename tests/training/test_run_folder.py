import shlex
import subprocess
import sys

import pytest

from segfocal.errors import UserError
from segfocal.training.run_folder import RunFolder, begun_by


def message(path, *, resume=False):
    with pytest.raises(UserError) as error, RunFolder(path, resume=resume):
        pass
    return str(error.value)


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert message(tmp_path) == (
        f"{tmp_path} already holds a run. Pass --resume to go on with a run, or --out for another "
        f"folder."
    )


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.docx").touch()
    assert "already holds other files (thesis.docx)" in message(tmp_path)


def test_what_is_hidden_takes_no_folder(tmp_path):
    for name in (".DS_Store", ".config.yaml.12-0a1b2c3d.tmp"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path, resume=False):
        pass


def test_resuming_nothing_is_refused_and_makes_no_folder(tmp_path):
    path = tmp_path / "run"
    assert message(path, resume=True) == (
        f"{path} holds no run to resume. Start it without --resume."
    )
    assert not path.exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "run"
    path.touch()
    assert message(path) == f"{path} is a file; --out needs a folder."


def test_two_processes_cannot_write_one_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from segfocal.training.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1]), resume=False): print('in', flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "in\n"
        assert "is being written by another process" in message(tmp_path / "run")
        other.communicate("\n")
    with RunFolder(tmp_path / "run", resume=False):
        pass


def test_identity_and_end_are_told_by_files(tmp_path):
    with RunFolder(tmp_path / "run", resume=False) as folder:
        folder.begin({"loss": {"gamma": 2.0}})
        for _ in range(2):
            folder.finish("no memory")
            assert (folder / "FAILED.txt").read_text() == "no memory\n"
            assert not (folder / "DONE").exists()
            folder.finish()
    assert (tmp_path / "run" / "config.yaml").read_text() == "loss:\n  gamma: 2.0\n"
    assert '"torch"' in (tmp_path / "run" / "env.json").read_text()
    assert (tmp_path / "run" / "DONE").exists()
    assert not (tmp_path / "run" / "FAILED.txt").exists()


def test_a_run_that_begins_again_tells_of_no_end_yet(tmp_path):
    for name in ("config.yaml", "DONE", "FAILED.txt", "report.html", "metrics.csv"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path, resume=True) as folder:
        folder.begin({})
    held = {path.name for path in tmp_path.iterdir()}
    assert held - {".lock"} == {"config.yaml", "command.txt", "env.json", "metrics.csv"}


def test_every_start_leaves_its_command_as_a_shell_takes_it(tmp_path, monkeypatch):
    out = tmp_path / "runs" / "new"
    for start in (
        ["segfocal-train", "--set", "data.labels={a: 1}"],
        ["segfocal-train", "--resume"],
    ):
        monkeypatch.setattr(sys, "argv", start)
        with RunFolder(out, resume=out.exists()) as folder:
            folder.begin({})
    lines = (out / "command.txt").read_text().splitlines()
    assert [shlex.split(line) for line in lines] == [
        ["segfocal-train", "--set", "data.labels={a: 1}"],
        ["segfocal-train", "--resume"],
    ]


def test_what_a_killed_run_left_half_written_goes_when_it_goes_on(tmp_path):
    (tmp_path / "samples").mkdir()
    left = (".last.pt.1234-0a1b2c3d.tmp", "samples/.epoch_001.png.99-ffffffff.tmp")
    kept = ("config.yaml", "notes.tmp", ".mine.tmp")
    for name in (*left, *kept):
        (tmp_path / name).touch()
    with RunFolder(tmp_path, resume=True):
        assert not any((tmp_path / name).exists() for name in left)
        assert all((tmp_path / name).exists() for name in kept)


def test_a_restart_knows_the_folder_that_its_own_torchrun_began(tmp_path):
    assert not begun_by(tmp_path, lambda: ["a"])
    with RunFolder(tmp_path, resume=False) as folder:
        folder.begin({}, ["a", "b"])
    assert begun_by(tmp_path, lambda: ["b", "c"])
    assert not begun_by(tmp_path, lambda: ["c"])
    (tmp_path / "config.yaml").unlink()
    assert not begun_by(tmp_path, lambda: ["a"])  # killed before there was a run


def test_a_run_without_torchrun_is_nobody_s_restart(tmp_path):
    with RunFolder(tmp_path, resume=False) as folder:
        folder.begin({}, ["a"])
        folder.begin({})
    assert not begun_by(tmp_path, lambda: ["a"])
    assert not begun_by(tmp_path, tuple)
    assert not (tmp_path / ".torchrun").exists()
