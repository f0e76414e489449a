"""The same patches in the same steps, the same weights, on one rank, two and three (gloo)."""

import csv

import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from tests.ranks.torchrun import train_all

pytestmark = pytest.mark.slow

# SGD: AdamW divides by the gradient's size, so that a gradient of half the size is no other.
# Five patches on two ranks or three: shares of two sizes.
ALL = (
    *("train.optimizer=SGD", "train.lr=0.1", "train.warmup_fraction=0", "train.batch_size=5"),
    *("train.epochs=1", "train.steps_per_epoch=3", "train.grad_clip=null"),
)
CLASSES = "data.labels={background: 0, oedema: 1, core: 2, enhancing: 3}"

RUNS = {
    "regions": ("train.epochs=2", "train.val_every=2", "train.schedule=constant"),
    "per sample": ("loss.batch=false", "loss.absent=skip", "network.args.dropout_prob=0.4"),
    "softmax": (CLASSES, "train.grad_clip=0.05", "loss.normalizer=alpha"),
    "accumulate": ("train.accumulate=2", "train.ema_decay=0.5"),
    "generalized": (CLASSES, "loss.name=GeneralizedDiceFocalLoss"),
    "unified": ("loss.name=UnifiedFocalLoss", "loss.alpha=null"),
    "partial": ("data.partial={'PHANTOM_00[135]': [WT], PHANTOM_002: [WT, TC]}",),
    "AdamW": ("train.optimizer=AdamW", "train.lr=1e-3"),
}
ON_THREE = ("regions", "per sample")
LONGER = "train.epochs=4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def told(folder, phantom):
    """Every run in one process, on two ranks and on three; what was printed."""
    always = (*ALL, f"data.cache_dir={folder / 'cache'}")
    regions = (*always, *RUNS["regions"])
    said = {}
    for count, begins, goes_on in (
        (2, "by two", None),
        (None, "by one", "by two"),
        (3, None, "by one"),
    ):
        runs = [
            {"out": str(folder / f"{name} {count}"), "settings": (*always, *given)}
            for name, given in RUNS.items()
            if count != 3 or name in ON_THREE
        ]
        longer = {"settings": (*regions, LONGER)}
        again = {**longer, "options": {"resume": True}}
        runs.append({**longer, "out": str(folder / f"whole {count}")})
        runs.append({**again, "out": str(folder / f"regions {count}")})
        if begins:
            runs.append({"out": str(folder / begins), "settings": regions})
        if goes_on:
            runs.append({**again, "out": str(folder / goes_on)})
        said[count] = train_all(count, phantom, runs, folder)
    return said


def weights(path):
    return load_checkpoint(path / "last.pt").model


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        # 4 steps in float32; a wrong share of the gradient is off by a third or more
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=2e-6)


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", list(RUNS))
def test_two_ranks_end_with_the_weights_of_one_process(told, folder, name):
    assert_same(weights(folder / f"{name} None"), weights(folder / f"{name} 2"))


@pytest.mark.parametrize("name", ON_THREE)
def test_three_ranks_end_with_the_weights_of_one_process(told, folder, name):
    assert_same(weights(folder / f"{name} None"), weights(folder / f"{name} 3"))


@pytest.mark.parametrize("count", [2, 3])
def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_never_stopped(told, folder, count):
    cut, whole = weights(folder / f"regions {count}"), weights(folder / f"whole {count}")
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


@pytest.mark.parametrize("begun", ["by one", "by two"])
def test_a_run_goes_on_with_another_number_of_ranks(told, folder, begun):
    assert load_checkpoint(folder / begun / "last.pt").progress["epoch"] == 4
    assert_same(weights(folder / begun), weights(folder / "whole None"))


def test_checkpoints_hold_the_names_of_the_plain_network(told, folder):
    plain = load_checkpoint(folder / "whole None" / "last.pt")
    shared = load_checkpoint(folder / "whole 2" / "last.pt")
    assert shared.model.keys() == plain.model.keys()
    assert shared.resume["network"].keys() == plain.resume["network"].keys()


@pytest.mark.parametrize("count", [2, 3])
def test_validation_is_that_of_one_process_with_more_ranks_than_cases_too(told, folder, count):
    cases = {n: rows_of(folder / f"whole {n}" / "val_cases.csv") for n in (None, count)}
    assert len({row["case"] for row in cases[None]}) == 2
    assert cases[count] == cases[None]
    epochs = {n: rows_of(folder / f"whole {n}" / "metrics.csv") for n in (None, count)}
    for one, other in zip(epochs[None], epochs[count], strict=True):
        assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
        for name in set(one) - {"elapsed_s", "steps_per_s", "loss", "loss/dice", "loss/focal"}:
            assert other[name] == one[name]
    names = {n: {p.name for p in (folder / f"whole {n}").rglob("*")} for n in (None, count)}
    assert names[count] - names[None] == {".torchrun"}


def test_the_header_says_how_many_ranks_there_are_and_is_written_once(told, folder):
    log = (folder / "whole 2" / "log.txt").read_text()
    assert log.count("2 ranks on the cpu (1 threads each)") == log.count("segfocal 0.") == 1


def test_cases_are_in_files_that_all_ranks_map_and_are_prepared_once(told, folder):
    log = (folder / "regions 2" / "log.txt").read_text()
    assert "cache  training cases: 4 on disk (" in log
    assert "in memory" not in log
    assert "written now" in log
    assert "4 found there" in (folder / "whole 3" / "log.txt").read_text()


def test_nothing_is_said_by_quiet_ranks(told):
    for said, _ in told.values():
        assert said == ""
