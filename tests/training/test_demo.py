import time
from pathlib import Path

import pytest

from segfocal.errors import UserError
from segfocal.training import demo
from tests.runs import TINY


@pytest.mark.slow
def test_the_demo_sets_the_network_beside_the_threshold_and_names_the_next_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(demo, "NUM_CASES", 6)
    monkeypatch.chdir(tmp_path)
    baseline = demo.run_demo(None, TINY, quiet=False, started_s=time.monotonic())
    out = capsys.readouterr().out
    assert "threshold baseline" in out
    assert out.count("SYNTHETIC PHANTOM - not clinical evidence") >= 3
    base = Path("segfocal-demo")
    last = out.strip().splitlines()[-1]
    assert last == (
        f"next   segfocal-predict --ckpt {base / 'run' / 'best.pt'} -i {base / 'phantom'} "
        f"-o {base / 'predictions'}"
    )
    for name in ("progress.png", "report.html", "samples/epoch_002.png"):
        assert str(base / "run" / name) in out
        assert (base / "run" / name).is_file()
    et = [score.regions["ET"] for score in baseline.scores]
    assert len(et) == 2


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"is not empty\. Pass --out for another folder"):
        demo.run_demo(tmp_path, (), quiet=True, started_s=time.monotonic())
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_second_demo_takes_the_next_free_folder(tmp_path):
    (tmp_path / "segfocal-demo").mkdir()
    (tmp_path / "segfocal-demo-2").mkdir()
    assert demo._first_free(tmp_path / "segfocal-demo").name == "segfocal-demo-3"
