import csv
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from segfocal.checkpoint import load_checkpoint
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import UserError
from segfocal.export.run import ExportRequest, export
from segfocal.reports import figures
from segfocal.training.reporter import next_command
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def drawn():
    """Epochs on each progress.png of `finished`."""
    return []


@pytest.fixture(scope="module")
def finished(phantom, tmp_path_factory, drawn):
    out = tmp_path_factory.mktemp("runs") / "a"
    draw = figures.progress_figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            figures,
            "progress_figure",
            lambda records, *to, **how: drawn.append(len(records)) or draw(records, *to, **how),
        )
        return tiny_run(phantom, out), out


def weights(path):
    return load_checkpoint(path).model


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_leaves_every_file_that_the_readme_lists(finished):
    _, out = finished
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert names - {".lock"} == {
        *("config.yaml", "command.txt", "env.json", "stats.json", "split.json", "log.txt"),
        *("metrics.csv", "val_cases.csv", "progress.png", "last.pt", "best.pt", "report.html"),
        *("DONE", "samples/epoch_002.png"),
    }


def test_curves_are_drawn_once_a_validation(finished, drawn):
    assert drawn == [2]


def test_metrics_have_a_row_an_epoch_and_say_that_it_is_a_phantom(finished):
    _, out = finished
    rows = rows_of(out / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["2", "4"]
    assert rows[0]["val/mean_dice"] == ""
    assert 0 <= float(rows[1]["val/WT/dice"]) <= 1
    assert "PHANTOM" in rows[1]["note"]


def test_the_log_begins_with_what_is_trained_on_what(finished):
    _, out = finished
    versions, data, files, alpha = (out / "log.txt").read_text().splitlines()[:4]
    assert re.search(r"segfocal \S+ · torch \d+\.\d+\.\d+ · monai \S+ · cpu", versions)
    assert data.endswith(
        ": 4 train / 2 val · channels FLAIR,T1w,T1gd,T2w · regions WT,TC,ET · " + STAMP
    )
    assert "annotated in part" not in files
    assert "alpha  balanced, from 4 cases: " in alpha
    assert "resume after" not in (out / "log.txt").read_text()
    report = (out / "report.html").read_text()
    assert f"<title>phantom - {STAMP}</title>" in report
    assert "epoch 2, " in report
    assert " · done" in report


def test_val_cases_are_those_of_the_split_and_trained_ones_are_not(finished):
    _, out = finished
    split = json.loads((out / "split.json").read_text())
    rows = rows_of(out / "val_cases.csv")
    assert {row["note"] for row in rows} == {STAMP}
    scored = {row["case"] for row in rows}
    assert scored == set(split["val"])
    assert not scored & set(split["train"])


@pytest.mark.parametrize(
    ("told", "epoch", "hint"),
    [
        (
            (0.0, 0.0, 0.0),
            3,
            "doubt  nothing right was predicted yet: every validation's mean Dice",
        ),
        ((math.nan,) * 3, 3, "doubt  mean Dice is undefined: no validation case holds a lesion"),
        ((0.0, 0.1, 0.0), 2, None),
        ((0.0, 0.1, 0.1), 2, None),
    ],
)
def test_while_nothing_right_is_predicted_the_later_epoch_is_best(
    phantom, tmp_path, monkeypatch, told, epoch, hint
):
    from segfocal.training import session

    scores = iter(told)
    monkeypatch.setattr(session, "mean_dice", lambda summary: next(scores))
    tiny_run(phantom, tmp_path / "a", "train.epochs=3", "train.val_every=1")
    assert load_checkpoint(tmp_path / "a" / "best.pt").progress["epoch"] == epoch
    assert {row["epoch"] for row in rows_of(tmp_path / "a" / "val_cases.csv")} == {f"{epoch}"}
    log = (tmp_path / "a" / "log.txt").read_text()
    doubts = [line for line in log.splitlines() if "Dice is" in line]
    assert [hint in line for line in doubts] == ([] if hint is None else [True])
    assert (" best" in log.partition("done ")[0]) == (hint is None)


def test_results_are_those_of_best_pt_and_name_its_epoch(phantom, tmp_path, monkeypatch):
    from segfocal.training import session

    scores = iter((0.2, 0.6, 0.4))
    monkeypatch.setattr(session, "mean_dice", lambda summary: next(scores))
    out = tmp_path / "a"
    tiny_run(phantom, out, "train.epochs=3", "train.val_every=1", "train.lr=0.05")
    assert load_checkpoint(out / "best.pt").progress["epoch"] == 2
    cases = rows_of(out / "val_cases.csv")
    assert {row["epoch"] for row in cases} == {"2"}
    report = (out / "report.html").read_text()
    assert "Validation cases, epoch 2<" in report
    assert "network, best.pt (epoch 2)" in report
    assert "validation, 2 cases, best.pt (epoch 2)" in (out / "log.txt").read_text()
    second = rows_of(out / "metrics.csv")[1]
    shown = re.search(r"<tr><td>WT</td><td>([^<]*)</td><td>(\d+/\d+)</td><td>(\d+)<", report)
    found, lesions = second["val/WT/lesions_found"], second["val/WT/lesions"]
    assert shown.groups()[1:] == (f"{found}/{lesions}", second["val/WT/false_positives"])
    assert float(shown.group(1)) == pytest.approx(float(second["val/WT/dice"]), abs=6e-4)


def test_a_checkpoint_tells_where_its_alpha_came_from(finished):
    _, out = finished
    checkpoint = load_checkpoint(out / "best.pt")
    assert checkpoint.alpha["scheme"] == "balanced"
    assert checkpoint.alpha["provenance"]["num_cases"] == 4
    assert checkpoint.channels == ("FLAIR", "T1w", "T1gd", "T2w")
    assert checkpoint.scheme.output_names == ("WT", "TC", "ET")
    assert checkpoint.synthetic
    assert checkpoint.resume is None
    assert load_checkpoint(out / "last.pt").resume["step"] == 4


def test_alpha_by_lesions_is_in_the_checkpoint_and_doubts_of_it_are_told(phantom, tmp_path, capsys):
    by_lesions = ("loss.alpha_unit=lesions", "train.epochs=1", "loss.alpha_max_ratio=null")
    out = tmp_path / "a"
    tiny_run(phantom, out, *by_lesions, "loss.alpha=effective_number", "loss.alpha_beta=0.1")
    warning = "warning: effective_number saturates: beta 0.1 tells counts apart up to about 1, "
    assert capsys.readouterr().err.count(warning) == 1
    log = (out / "log.txt").read_text()
    assert log.count(warning) == 1
    assert "alpha  effective_number by lesions, from 4 cases: WT 0.5 TC 0.5 ET 0.5" in log
    for name in ("last.pt", "best.pt"):
        alpha = load_checkpoint(out / name).alpha
        assert alpha["options"]["unit"] == "lesions"
        assert set(alpha["provenance"]["lesions"]) >= {"WT", "TC", "ET"}
    stats = json.loads((out / "stats.json").read_text())
    assert stats["synthetic"] == STAMP
    counts = stats["counts"]
    assert len(counts["lesions"]) == 4


def test_every_file_of_a_run_on_the_phantom_says_so(phantom, tmp_path):
    out = tmp_path / "a"
    tiny_run(phantom, out, "train.epochs=1", "train.val_every=1")
    (out / "command.txt").write_text("segfocal-train --config phantom\n")  # as it was before
    tiny_run(phantom, out, "train.val_every=1", resume=True)
    tiny_run(phantom, out, "train.val_every=1", "train.epochs=3", resume=True)
    files = {path.name: path for path in out.rglob("*") if path.is_file()}
    for name in ("best.pt", "last.pt"):
        assert load_checkpoint(files.pop(name)).synthetic
    del files[".lock"]
    assert [name for name, path in files.items() if STAMP.encode() not in path.read_bytes()] == []
    assert {"config.yaml", "split.json", "env.json", "command.txt", "DONE"} <= set(files)
    for name in ("split.json", "env.json", "stats.json"):
        assert json.loads(files[name].read_text())["synthetic"] == STAMP
    begun = files["command.txt"].read_text().splitlines()
    assert begun[0] == "segfocal-train --config phantom"
    assert [line for line in begun if line.startswith("#")] == [f"# {STAMP}"]
    assert len(begun) == 4
    assert len(rows_of(out / "metrics.csv")) == 3


def test_a_run_on_other_data_has_no_stamp(phantom, tmp_path):
    root = shutil.copytree(phantom, tmp_path / "data")
    told = json.loads((root / "dataset.json").read_text())
    told |= {"name": "Toy", "synthetic": False, "description": ""}
    (root / "dataset.json").write_text(json.dumps(told))
    out = tmp_path / "a"
    tiny_run(root, out, "train.epochs=1")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert [path for path in files if STAMP.encode() in path.read_bytes()] == []


def test_the_resolved_config_repeats_the_run(finished, phantom, tmp_path):
    _, out = finished
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["train"]["epochs"] == 2
    assert settings["loss"]["alpha"] == "balanced"


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, phantom, tmp_path):
    _, out = finished
    tiny_run(phantom, tmp_path / "b")
    assert same(weights(out / "last.pt"), weights(tmp_path / "b" / "last.pt"))
    tiny_run(phantom, tmp_path / "c", "train.seed=1")
    assert not same(weights(out / "last.pt"), weights(tmp_path / "c" / "last.pt"))


@pytest.mark.parametrize(
    "settings", [("data.cache=none",), ("data.cache=auto", "data.cache_ram_gb=0.0001")]
)
def test_where_cases_are_kept_changes_no_weight(finished, phantom, tmp_path, settings):
    tiny_run(phantom, tmp_path / "b", f"data.cache_dir={tmp_path / 'cache'}", *settings)
    assert same(weights(finished[1] / "last.pt"), weights(tmp_path / "b" / "last.pt"))
    assert (tmp_path / "cache").exists() == ("data.cache=auto" in settings)


def test_the_cache_on_disk_and_a_damaged_file_in_it_change_no_weight(finished, phantom, tmp_path):
    cache = tmp_path / "cache"
    where = ("data.cache=disk", f"data.cache_dir={cache}")
    tiny_run(phantom, tmp_path / "b", *where)
    victim = min(cache.iterdir())
    raw = bytearray(victim.read_bytes())
    raw[-5000] ^= 4
    victim.write_bytes(raw)
    tiny_run(phantom, tmp_path / "c", *where)
    told = (tmp_path / "c" / "log.txt").read_text()
    assert told.count(f"{victim} is damaged (its checksum is wrong); prepared anew") == 1
    assert " found there; mapped); validation cases: 2 on disk (" in told
    assert len(list(cache.iterdir())) == 6
    for name in "bc":
        run = tmp_path / name
        assert same(weights(finished[1] / "last.pt"), weights(run / "last.pt"))
        assert rows_of(finished[1] / "val_cases.csv") == rows_of(run / "val_cases.csv")


def test_other_crop_centres_train_and_give_other_weights(finished, phantom, tmp_path):
    tiny_run(
        phantom,
        tmp_path / "b",
        "train.foreground_by=lesion",
        "train.foreground_weights={enhancing: 5, oedema: 0}",
    )
    assert not same(weights(finished[1] / "last.pt"), weights(tmp_path / "b" / "last.pt"))


@pytest.mark.parametrize(
    ("weights_given", "message"),
    [
        (
            "{enhancin: 2}",
            (
                "enhancin is not a foreground class; there are oedema, non-enhancing, enhancing. "
                "Did you mean enhancing?"
            ),
        ),
        (
            "{oedema: 0, non-enhancing: 0, enhancing: 0}",
            "every class has weight 0. Give one more, or set train.foreground_fraction: 0.",
        ),
        ("{enhancing: -1}", "expected numbers >= 0, got {'enhancing': -1}."),
    ],
)
def test_weights_of_classes_that_are_not_there_are_refused(
    phantom, tmp_path, weights_given, message
):
    with pytest.raises(UserError) as error:
        tiny_run(phantom, tmp_path / "a", f"train.foreground_weights={weights_given}")
    assert str(error.value) == f"--set: train.foreground_weights: {message}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_cut_in_two_ends_with_the_same_weights_bit_for_bit(phantom, tmp_path, workers):
    settings = ("train.epochs=4", "network.args.dropout_prob=0.2", "train.val_every=3")
    tiny_run(phantom, tmp_path / "whole", *settings)
    settings += (f"data.num_workers={workers}",)

    from segfocal.training import reporter

    class StopHereError(Exception):
        pass

    original = reporter.Reporter.epoch_done

    def stop_after_two(self, epoch, *rest):
        if epoch == 3:
            raise StopHereError
        original(self, epoch, *rest)

    reporter.Reporter.epoch_done = stop_after_two
    try:
        with pytest.raises(StopHereError):
            tiny_run(phantom, tmp_path / "cut", *settings)
    finally:
        reporter.Reporter.epoch_done = original
    assert load_checkpoint(tmp_path / "cut" / "last.pt").progress["epoch"] == 2
    tiny_run(phantom, tmp_path / "cut", *settings, resume=True)
    whole, cut = (load_checkpoint(tmp_path / n / "last.pt") for n in ("whole", "cut"))
    assert same(whole.model, cut.model)
    assert same(whole.resume["network"], cut.resume["network"])
    rows = rows_of(tmp_path / "cut" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]


def test_a_finished_run_can_be_extended_but_not_repeated(phantom, tmp_path):
    tiny_run(phantom, tmp_path / "a", "train.epochs=1")
    with pytest.raises(UserError, match=r"is done: 1 epochs\. Raise train\.epochs"):
        tiny_run(phantom, tmp_path / "a", "train.epochs=1", resume=True)
    tiny_run(phantom, tmp_path / "a", "train.epochs=2", resume=True)
    assert load_checkpoint(tmp_path / "a" / "last.pt").progress["epoch"] == 2
    assert (tmp_path / "a" / "log.txt").read_text().count("resume after epoch 1\n") == 1


def test_resuming_with_other_regions_is_refused_and_changes_nothing(phantom, tmp_path):
    out = tmp_path / "a"
    tiny_run(phantom, out, "train.epochs=1")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    other = "data.labels={background: 0, tumour: [1, 2, 3], enhancing: 3, x: 2, y: 1}"
    with pytest.raises(UserError) as error:
        tiny_run(phantom, out, other, "data.regions_class_order=[1, 3, 2, 1]", resume=True)
    assert str(error.value) == (
        "Cannot resume: last.pt has 3 regions, the config 4. Start a new run or use --init-from."
    )
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_weights_of_another_run_are_taken_over(finished, phantom, tmp_path):
    _, out = finished
    run = tiny_run(
        phantom, tmp_path / "b", "train.epochs=1", "train.lr=1e-12", init_from=out / "best.pt"
    )
    assert run.progress.epoch == 1
    ours, theirs = weights(tmp_path / "b" / "last.pt"), weights(out / "best.pt")
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-5) for k in ours)


def test_a_run_that_goes_on_takes_no_weights_and_says_so(finished, phantom, tmp_path):
    """As a job that a scheduler starts again is written: both options, every time."""
    best, out = finished[1] / "best.pt", tmp_path / "a"
    settings = ("train.lr=1e-12", "data.val_fraction=0.5")
    tiny_run(phantom, out, "train.epochs=1", *settings)
    before = weights(out / "last.pt")
    tiny_run(phantom, out, "train.epochs=2", *settings, resume=True, init_from=best)
    after = weights(out / "last.pt")
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in after)
    told = f"  init   {best} is not looked at: the run goes on with its own\n"
    assert (out / "log.txt").read_text().count(told) == 1


def test_how_much_was_taken_over_is_told(finished, phantom, tmp_path):
    best = finished[1] / "best.pt"
    settings = ("train.epochs=1", "data.labels=null", "data.channels=[T1w, FLAIR, T1gd, T2w]")
    tiny_run(phantom, tmp_path / "a", *settings, init_from=best)
    log = (tmp_path / "a" / "log.txt").read_text()
    total = len(weights(best))
    head = "new: conv_final.2.conv.weight, conv_final.2.conv.bias\n"
    assert f"  init   {total - 2} of {total} tensors from {best}, epoch 2; {head}" in log
    assert "  doubt  best.pt has channels FLAIR,T1w,T1gd,T2w; this run T1w,FLAIR," in log
    assert "not by name. Set data.channels: [FLAIR, T1w, T1gd, T2w].\n" in log
    assert "  doubt  best.pt has outputs WT,TC,ET; this run background,oedema," in log
    named = ("data.labels={background: 0, all: [1, 2, 3], TC: [2, 3], ET: 3}", "train.epochs=1")
    tiny_run(phantom, tmp_path / "b", *named, init_from=best)
    told = (
        "best.pt has outputs WT,TC,ET; this run all,TC,ET. Weights are copied by position, not by"
    )
    assert f"{told} name.\n" in (tmp_path / "b" / "log.txt").read_text()


def test_weights_of_a_bundle_are_taken_over(finished, phantom, tmp_path):
    best = finished[1] / "best.pt"
    bundle = tmp_path / "bundle"
    export(ExportRequest("bundle", checkpoint=best, out=bundle), lambda _line: None)
    plain = bundle / "models" / "model.pt"
    tiny_run(phantom, tmp_path / "a", "train.epochs=1", "train.lr=1e-12", init_from=plain)
    ours, theirs = weights(tmp_path / "a" / "last.pt"), weights(best)
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-5) for k in ours)
    log = (tmp_path / "a" / "log.txt").read_text()
    assert f"  init   {len(theirs)} of {len(theirs)} tensors from {plain}\n" in log
    assert (
        "  doubt  model.pt holds weights alone and does not tell its channels and outputs." in log
    )


def test_weights_of_another_bundle_are_refused(phantom, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"conv.weight": torch.ones(1, 1, 3, 3, 3)}, path)
    with pytest.raises(UserError) as error:
        tiny_run(phantom, tmp_path / "a", init_from=path)
    assert str(error.value).endswith(
        "expected at least half. Set network.name and network.args to those of the network that "
        "was saved, in a MONAI bundle network_def of configs/inference.json."
    )


def test_weights_of_another_network_are_refused(finished, phantom, tmp_path):
    best = finished[1] / "best.pt"
    other = "network.args={init_filters: 16, blocks_down: [1, 1], blocks_up: [1]}"
    with pytest.raises(UserError) as error:
        tiny_run(phantom, tmp_path / "a", other, init_from=best)
    assert re.fullmatch(
        re.escape(f"--init-from {best}: 0 of ") + r"\d+ kernels have the name and shape of this "
        r"network's; expected at least half\. Set network\.name and network\.args to those of that "
        r"run: SegResNet \{'init_filters': 8, .*\}\.",
        str(error.value),
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.optimizer=SGD", "train.optimizer was AdamW at the start of the run and is SGD now"),
        ("data.val_fraction=0.5", "data.val_fraction was 0.34 at the start of the run and is 0.5"),
    ],
)
def test_resuming_with_what_a_run_keeps_is_refused_and_changes_nothing(
    finished, phantom, tmp_path, setting, told
):
    out = shutil.copytree(finished[1], tmp_path / "a")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    with pytest.raises(UserError, match=rf"Cannot resume: {told}.*Set it back, or start a new run"):
        tiny_run(phantom, out, "train.epochs=3", setting, resume=True)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(("smoothing", "backend"), [(0.0, "numba"), (0.1, "chunked")])
def test_the_log_names_what_computes_the_loss(phantom, tmp_path, smoothing, backend):
    pytest.importorskip("numba", reason="the extra [fast-cpu] is not installed")
    tiny_run(phantom, tmp_path / "a", f"loss.label_smoothing={smoothing}", "train.epochs=1")
    told = (tmp_path / "a" / "log.txt").read_text()
    assert re.search(rf"  net    .* DiceFocalLoss gamma 2\.0 \({backend}\)$", told, re.MULTILINE)
    slower = (
        "  loss   slower than it could be: backend numba cannot run: it has no label smoothing."
    )
    assert (slower in told) == (backend == "chunked")


def test_a_dry_run_counts_the_cases_that_it_checked(phantom, tmp_path, capsys):
    split = tmp_path / "split.json"
    split.write_text('{"train": ["PHANTOM_001", "PHANTOM_002"], "val": ["PHANTOM_003"]}')
    tiny_run(phantom, tmp_path / "a", f"data.split={split}", dry_run=True, quiet=False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("dry run: config, 3 cases and network are in order;")


def blank_in(phantom, root):
    """The phantom with T1w of one case and all but T1w of another blank: fourth and sixth case."""
    shutil.copytree(phantom, root)
    for case, channels in (("PHANTOM_004", [1]), ("PHANTOM_006", [0, 2, 3])):
        path = root / "imagesTr" / f"{case}.nii.gz"
        image = nib.load(path)
        voxels = np.asarray(image.dataobj).copy()
        voxels[..., channels] = 7
        nib.save(nib.Nifti1Image(voxels, image.affine, image.header), path)
    return root


BLANK = (
    "doubt  one value in every voxel: PHANTOM_004 (T1w), PHANTOM_006 (FLAIR, T1gd, T2w). Was it "
    "converted wrongly? segfocal-stats --check tells of each."
)


@pytest.mark.parametrize("place", [("data.cache=ram",), ("data.cache=disk",)])
def test_blank_channels_are_told_before_the_first_epoch(phantom, tmp_path, place):
    root = blank_in(phantom, tmp_path / "data")
    split = tmp_path / "split.json"
    ids = [f"PHANTOM_00{number}" for number in range(1, 7)]
    split.write_text(json.dumps({"train": ids[:5], "val": ids[5:]}))
    place += (f"data.split={split}", f"data.cache_dir={tmp_path / 'cache'}", "train.epochs=1")
    for run in ("a", "b"):  # the second finds what the first prepared
        tiny_run(root, tmp_path / run, *place)
        told = (tmp_path / run / "log.txt").read_text().splitlines()
        assert [line.endswith(f"  {BLANK}") for line in told].count(True) == 1
        rest = [line.split("  ", 1)[1] for line in told]
        (first_epoch,) = (n for n, line in enumerate(rest) if line.startswith("epoch"))
        assert rest.index(BLANK) < first_epoch


@pytest.mark.parametrize("num_workers", [0, 1])
def test_blank_channels_of_cases_that_nothing_holds_are_told_when_first_read(
    phantom, tmp_path, num_workers
):
    root = blank_in(phantom, tmp_path / "data")
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["PHANTOM_004", "PHANTOM_005"], "val": ["PHANTOM_006"]}))
    where = (f"data.split={split}", "data.cache=none", f"data.num_workers={num_workers}")
    tiny_run(root, tmp_path / "a", *where, "train.epochs=2", "train.val_every=1")
    told = (tmp_path / "a" / "log.txt").read_text().splitlines()
    rest = [line.split("  ", 1)[1] for line in told]
    assert [line for line in rest if line.startswith("doubt  one value")] == [BLANK]
    epochs = [number for number, line in enumerate(rest) if line.startswith("epoch")]
    assert rest.index(BLANK) < epochs[1]


def test_a_dry_run_tells_blank_channels(phantom, tmp_path, capsys):
    root = blank_in(phantom, tmp_path / "data")
    split = tmp_path / "split.json"
    split.write_text('{"train": ["PHANTOM_001", "PHANTOM_004"], "val": ["PHANTOM_006"]}')
    tiny_run(root, tmp_path / "a", f"data.split={split}", dry_run=True, quiet=False)
    told = " ".join(capsys.readouterr().out.split())
    assert " ".join(BLANK.split()) in told


def test_the_next_command_is_what_a_shell_takes():
    words = ["segfocal-predict", "--ckpt", str(Path("my runs/größe/best.pt"))]
    words += ["-i", "FOLDER_OF_IMAGES", "-o", "predictions"]
    assert shlex.split(next_command(Path("my runs/größe"))) == words


def test_a_dry_run_writes_nothing(phantom, tmp_path):
    assert tiny_run(phantom, tmp_path / "a", dry_run=True) is None
    assert list(tmp_path.iterdir()) == []


def test_training_on_every_case_needs_no_validation(phantom, tmp_path):
    outcome = tiny_run(phantom, tmp_path / "a", "data.val_fraction=0")
    assert outcome.progress.best_epoch == 0
    assert load_checkpoint(tmp_path / "a" / "best.pt").progress["epoch"] == 2
    assert (tmp_path / "a" / "progress.png").is_file()


def test_the_folds_of_a_cross_validation_lie_side_by_side_and_share_prepared_cases(
    phantom, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    made_files = []
    for fold in (0, 1):
        settings = ("data.folds=3", f"data.fold={fold}", "train.epochs=1")
        tiny_run(phantom, None, "data.cache=disk", "data.cache_dir=cache", *settings)
        made_files.append({path.name for path in Path("cache").iterdir()})
    runs = [Path(f"runs/phantom-fold{fold}") for fold in (0, 1)]
    splits = [json.loads((run / "split.json").read_text()) for run in runs]
    assert set(splits[0]["val"]).isdisjoint(splits[1]["val"])
    assert splits[1]["made_by"] == {"method": "folds", "folds": 3, "fold": 1, "seed": 0}
    in_both = set(splits[0]["train"]) & set(splits[1]["train"])
    assert in_both
    made_anew = {name.split("-")[0] for name in made_files[1] - made_files[0]}
    assert made_anew == {*splits[0]["val"], *splits[1]["val"]}  # once to train, once to validate
    assert f", fold 1 of 3: {len(splits[1]['train'])} train / " in (runs[1] / "log.txt").read_text()
    assert ", fold 1 of 3: " in (runs[1] / "report.html").read_text()
    with pytest.raises(UserError, match=r"data.fold was 1 at the start of the run and is 0 now"):
        tiny_run(phantom, runs[1], "data.folds=3", "data.fold=0", resume=True)


def test_slow_loading_is_told_once(phantom, tmp_path, monkeypatch):
    asked = []

    def slow(waited, num_workers, device, _ranks):
        asked.append((0 <= waited <= 1, num_workers, device.type))
        return "loader is slow"

    monkeypatch.setattr("segfocal.training.session.slow_loading", slow)
    tiny_run(phantom, tmp_path / "a", "data.num_workers=1", "train.device=cpu")
    assert asked == [(True, 1, "cpu")]
    assert (tmp_path / "a" / "log.txt").read_text().count("loader is slow") == 1


def test_a_wall_clock_budget_ends_the_run_in_time_and_at_rate_zero(phantom, tmp_path):
    import time

    began = time.monotonic()
    outcome = tiny_run(
        phantom,
        tmp_path / "a",
        "train.epochs=100000",
        "train.max_minutes=0.4",
        "train.val_every=50",
    )
    assert time.monotonic() - began < 24
    assert outcome.progress.epoch > 2
    rows = rows_of(tmp_path / "a" / "metrics.csv")
    assert float(rows[-1]["lr"]) < 0.2 * max(float(row["lr"]) for row in rows)
    assert rows[-1]["val/mean_dice"] != ""


def test_a_region_that_no_training_voxel_has_is_doubted(phantom, tmp_path):
    labels = "{background: 0, tumour: [1, 2, 3], cyst: 7}"
    settings = (f"data.labels={labels}", "data.regions_class_order=[1, 7]", "loss.alpha=null")
    tiny_run(phantom, tmp_path / "a", *settings, "loss.ignore_index=255", "train.epochs=1")
    assert (
        "  doubt  cyst has no voxel in the training split: nothing can be learned of it. Change "
        "the split, or drop it from data.labels.\n"
    ) in (tmp_path / "a" / "log.txt").read_text()


@pytest.mark.parametrize("network", ["UNet", "DynUNet", "monai.networks.nets.BasicUNet"])
@pytest.mark.slow
def test_other_networks_train(phantom, tmp_path, network):
    args = {
        "UNet": "{channels: [8, 16], strides: [2], num_res_units: 1}",
        "DynUNet": (
            "{kernel_size: [3, 3, 3], strides: [1, 2, 2], upsample_kernel_size: [2, 2], "
            "filters: [8, 16, 16]}"
        ),
        "monai.networks.nets.BasicUNet": "{features: [8, 8, 8, 8, 8, 8]}",
    }[network]
    settings = (
        f"network.name={network}",
        f"network.args={args}",
        "train.epochs=1",
        "train.patch_size=[32, 32, 32]",
    )
    assert tiny_run(phantom, tmp_path / "a", *settings).progress.epoch == 1


@pytest.mark.parametrize(
    "settings",
    [
        ("loss.name=FocalLoss", "train.schedule=poly", "train.optimizer=SGD"),
        ("loss.name=DiceLoss", "loss.alpha=null", "train.accumulate=2", "train.ema_decay=0.9"),
        ("data.labels=null", "loss.alpha=effective_number", "loss.batch=true"),
        ("data.spacing_mm=[3, 3, 3]", "data.num_workers=2"),
    ],
    ids=["focal-sgd", "dice-accumulate-ema", "softmax", "resampled-workers"],
)
@pytest.mark.slow
def test_other_settings_train(phantom, tmp_path, settings):
    assert tiny_run(phantom, tmp_path / "a", *settings).progress.epoch == 2
