"""Whole runs that are told to trackers: what arrives, what does not; training is the same."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from segfocal.errors import UserError
from segfocal.reports.trackers.trackers import Trackers
from tests.reports.trackers.mlflow_server import mlflow_server
from tests.reports.trackers.stand_in import stand_in
from tests.reports.trackers.test_tensorboard import STAMP, curve, events, texts
from tests.reports.trackers.wandb_file import content
from tests.runs import tiny_run

EXCLUDED = "PHANTOM_003"


@pytest.fixture(scope="module")
def tracked(phantom, tmp_path_factory):
    """A run that all three were told of: its folder, and what MLflow's server was sent."""
    out = tmp_path_factory.mktemp("tracked") / "a"
    with pytest.MonkeyPatch.context() as patch, mlflow_server() as server:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("WANDB_MODE", "offline")
        tiny_run(phantom, out, "trackers=[tensorboard, mlflow, wandb]", *hidden(phantom))
    return out, server


def hidden(root):
    """Settings that name cases and paths."""
    return f"data.exclude=[{EXCLUDED}]", f"data.cache_dir={root.parent / 'cache'}", "train.epochs=3"


@pytest.fixture(scope="module")
def untracked(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("untracked") / "a"
    tiny_run(phantom, out, *hidden(phantom))
    return out


def rows_of(out):
    """Number of each cell that is not empty, by column, by epoch."""
    with (out / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        int(row["epoch"]): {n: float(v) for n, v in row.items() if v and n != "note"}
        for row in rows
    }


def assert_same_weights(one, other):
    one, other = (load_checkpoint(out / "last.pt").model for out in (one, other))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_tensorboard_has_the_numbers_of_metrics_csv_and_no_other(tracked):
    out, _ = tracked
    read, rows = events(out / "tensorboard" / STAMP), rows_of(out)
    assert sorted(rows) == [1, 2, 3]
    names = {name for row in rows.values() for name in row}
    assert {*read.Tags()["scalars"]} == names
    for name in names:
        expected = [(epoch, row[name]) for epoch, row in rows.items() if name in row]
        single = [(epoch, float(np.float32(value))) for epoch, value in expected]
        assert curve(read, name) == single, name
    assert [image.step for image in read.Images("sample")] == [2, 3]
    for image in read.Images("sample"):
        written = (out / "samples" / f"epoch_{image.step:03d}.png").read_bytes()
        assert image.encoded_image_string == written
    assert "| status | done |" in texts(read, "end")[0]


def test_mlflow_is_sent_the_numbers_of_metrics_csv_and_no_other(tracked):
    out, server = tracked
    sent = [m for call in server.sent("log-batch") for m in call.get("metrics", [])]
    numbers = {(m["step"], m["key"]): m["value"] for m in sent if not m["key"].startswith("best_")}
    rows = rows_of(out)
    assert numbers == {(epoch, name): v for epoch, row in rows.items() for name, v in row.items()}
    best = load_checkpoint(out / "best.pt").progress
    told = {m["key"]: m["value"] for m in sent if m["key"].startswith("best_")}
    assert told == {"best_epoch": best["epoch"], "best_mean_dice": best["best_score"]}
    tags = [tag for call in server.sent("log-batch") for tag in call.get("tags", [])]
    assert {"key": "mlflow.note.content", "value": STAMP} in tags
    assert server.sent("runs/update")[-1]["status"] == "FINISHED"


def test_wandb_is_told_the_numbers_of_metrics_csv_and_no_other(tracked):
    out, _ = tracked
    told = content(out)
    rows = {step: only for step, (only,) in told["history"].items()}
    numbers = {e: {n: v for n, v in row.items() if n[0] != "_"} for e, row in rows.items()}
    assert numbers == rows_of(out)
    assert told["tags"] == {STAMP}
    assert told["config"]["train.lr"] == 0.004
    assert "balanced, from 3 cases: WT" in told["config"]["run"]["alpha"]


def test_nothing_that_is_sent_names_a_case_or_a_path_or_shows_one(tracked, phantom):
    out, server = tracked
    split = json.loads((out / "split.json").read_text())
    cases = [*split["train"], *split["val"], EXCLUDED]
    assert len(cases) == 6
    (offline,) = out.glob("wandb/offline-run-*")
    for_wandb = [
        *offline.glob("*.wandb"),
        *(p for p in (offline / "files").rglob("*") if p.is_file()),
    ]
    sent = b"".join(path.encode() + body for path, body in server.requests)
    sent += b"".join(path.read_bytes() for path in for_wandb)
    assert STAMP.encode() in sent
    secrets = [*cases, str(phantom), str(out.parent), "\x89PNG", "<html", "sha256"]
    assert [text for text in secrets if text.encode("latin-1") in sent] == []


def test_a_tracked_run_ends_with_the_weights_of_one_that_is_not(tracked, untracked):
    out, _ = tracked
    assert_same_weights(out, untracked)
    assert not (untracked / "tensorboard").exists()


def test_a_tracker_that_fails_in_the_middle_changes_no_weight(
    phantom, tmp_path, untracked, monkeypatch, capsys
):
    stand_in(tmp_path, monkeypatch)("log raises")
    tiny_run(phantom, tmp_path / "a", "trackers=[wandb]", *hidden(phantom))
    assert_same_weights(tmp_path / "a", untracked)
    assert (tmp_path / "a" / "DONE").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: wandb ")
    assert line in (tmp_path / "a" / "log.txt").read_text()


def test_a_tracker_that_comes_later_is_told_of_the_run_from_its_beginning(
    phantom, tmp_path, untracked, monkeypatch
):
    def log(self, record, best=None):
        done = load_checkpoint(tmp_path / "a" / "last.pt").progress["epoch"]
        assert record.epoch <= done, "told before it was safe"
        real_log(self, record, best)

    real_log = Trackers.log
    monkeypatch.setattr(Trackers, "log", log)
    shutil.copytree(untracked, tmp_path / "a")
    longer = (*hidden(phantom), "train.epochs=4")
    tiny_run(phantom, tmp_path / "a", *longer, "trackers=tensorboard", resume=True)
    read = events(tmp_path / "a" / "tensorboard" / STAMP)
    assert [step for step, _ in curve(read, "loss")] == [1, 2, 3, 4]
    assert [image.step for image in read.Images("sample")] == [2, 3, 4]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_package_that_is_missing_is_told_before_anything_is_read(tmp_path, monkeypatch, dry_run):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^trackers: wandb needs the package wandb. Install it: "):
        tiny_run(tmp_path / "none", tmp_path / "a", "trackers=[wandb]", dry_run=dry_run)
    assert not (tmp_path / "a").exists()
