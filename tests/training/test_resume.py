"""What a run takes from its last.pt, and what it refuses to go on with."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segfocal.checkpoint import Checkpoint
from segfocal.config.schema import TrainConfig
from segfocal.errors import UserError
from segfocal.labels import LabelScheme, Region
from segfocal.training.learner import Learner
from segfocal.training.progress import Progress
from segfocal.training.resume import resume_from

CLASSES = LabelScheme(("background", "a", "b"), (0, 1, 2))
REGIONS = LabelScheme(
    CLASSES.names,
    CLASSES.values,
    (Region("all", (1, 2), 1), Region("b", (2,), 2), Region("a", (1,), 1)),
)
SETTINGS = {
    "train": {"optimizer": "SGD"},
    "data": {"val_fraction": 0.2, "split": None, "folds": None, "fold": None},
}


def learner(network=None, optimizer=torch.optim.SGD):
    network = nn.Conv3d(1, 2, 1) if network is None else network
    made = optimizer(network.parameters(), 0.1)
    return Learner(network, lambda *_: {}, made, TrainConfig(), torch.device("cpu"))


def written(by=None, **changed):
    """The last.pt of a run that has come to epoch 3."""
    by = learner() if by is None else by
    by.step = 7
    contents = {
        "model": {},
        "config": SETTINGS,
        "scheme": CLASSES,
        "channels": ("T1", "T2"),
        "file_channels": ("T2", "T1"),
        "alpha": None,
        "versions": {},
        "progress": {"epoch": 3, "best_score": 0.5, "best_epoch": 2, "step": 7, "later": 1},
        "synthetic": False,
        "resume": by.resume_state(),
    }
    return Checkpoint(**{**contents, **changed})


def resume(checkpoint, *, into=None, scheme=CLASSES, channels=("T1", "T2"), settings=SETTINGS):
    plan = SimpleNamespace(dataset=SimpleNamespace(scheme=scheme), channels=channels)
    return resume_from(checkpoint, learner() if into is None else into, plan, settings)


def message(*args, **options):
    with pytest.raises(UserError) as error:
        resume(*args, **options)
    return str(error.value)


def test_a_learner_and_the_place_in_the_run_are_those_of_the_checkpoint():
    first, second = learner(), learner()
    assert not torch.equal(first.network.weight, second.network.weight)
    progress = resume(written(first), into=second)
    assert progress == Progress(epoch=3, best_score=0.5, best_epoch=2)
    assert second.step == 7
    assert torch.equal(first.network.weight, second.network.weight)


@pytest.mark.parametrize(
    ("scheme", "difference"),
    [
        (REGIONS, "last.pt has 3 classes, the config 3 regions"),
        (LabelScheme(("background", "a"), (0, 1)), "last.pt has 3 classes, the config 2"),
        (replace(CLASSES, names=("background", "a", "c")), None),
        (replace(CLASSES, values=(0, 1, 4)), None),
    ],
    ids=["regions", "fewer", "names", "values"],
)
def test_other_labels_are_told_apart(scheme, difference):
    difference = difference or ("last.pt has other label names, values or regions than the config")
    assert message(written(), scheme=scheme) == (
        f"Cannot resume: {difference}. Start a new run or use --init-from."
    )


def test_another_order_of_channels_is_told():
    assert message(written(), channels=("T2", "T1")) == (
        "Channel order: the config has T2,T1; the checkpoint expects T1,T2. Set data.channels."
    )


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("train.optimizer", "AdamW", "last.pt holds the other one's state"),
        ("data.val_fraction", 0.5, "the run goes on with its split.json"),
        ("data.split", "split.json", "the run goes on with its split.json"),
        ("data.folds", 5, "the run goes on with its split.json"),
        ("data.fold", 0, "the run goes on with its split.json"),
    ],
)
def test_what_a_run_keeps_from_its_start_is_named_with_the_reason(setting, value, why):
    section, name = setting.split(".")
    now = {**SETTINGS, section: {**SETTINGS[section], name: value}}
    was = SETTINGS[section][name]
    assert message(written(), settings=now) == (
        f"Cannot resume: {setting} was {was} at the start of the run and is {value} now, but "
        f"{why}. Set it back, or start a new run."
    )
    older = {**SETTINGS, section: {k: v for k, v in SETTINGS[section].items() if k != name}}
    assert resume(written(config=older), settings=now).epoch == 3  # there was no such setting yet


@pytest.mark.parametrize(
    "into",
    [
        learner(nn.Conv3d(1, 3, 1)),
        learner(nn.Sequential(nn.Conv3d(1, 2, 1))),
        learner(optimizer=lambda two, lr: torch.optim.SGD([{"params": p} for p in two], lr)),
    ],
    ids=["shapes", "names", "optimiser"],
)
def test_another_network_or_optimiser_is_told(into):
    assert message(written(), into=into) == (
        "Cannot resume: last.pt was written with another network or optimiser. Start a new run or "
        "use --init-from."
    )


def test_best_pt_is_nothing_to_resume():
    assert message(written(resume=None)) == (
        "Cannot resume: last.pt holds no optimiser state. Use --init-from."
    )
