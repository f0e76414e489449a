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
    *("train.optimizer=SGD", "train.lr=0.02", "train.warmup_fraction=0", "train.batch_size=5"),
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
    said = {}
    for count in (None, 2, 3):
        runs = [
            {"out": str(folder / f"{name} {count}"), "settings": (*always, *given)}
            for name, given in RUNS.items()
            if count != 3 or name in ON_THREE
        ]
        regions = (*always, *RUNS["regions"])
        if count is not None:
            cut = str(folder / f"cut {count}")
            runs += [
                {"out": cut, "settings": regions},
                {"out": cut, "settings": (*regions, LONGER), "options": {"resume": True}},
                {"out": f"{cut} whole", "settings": (*regions, LONGER)},
            ]
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
    cut, whole = (weights(folder / name) for name in (f"cut {count}", f"cut {count} whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
