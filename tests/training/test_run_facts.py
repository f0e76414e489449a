from pathlib import Path
from types import SimpleNamespace

import pytest

from segfocal.config.schema import Config, LossConfig
from segfocal.data.split import Split
from segfocal.training.progress import Progress
from segfocal.training.run_facts import best_so_far, loss_words, tracked_run


def session(name, root):
    """As much of a run as its facts are made of."""
    dataset = SimpleNamespace(name=name, layout="list", scheme=SimpleNamespace(target_names=["wt"]))
    split = Split(("a", "b"), ("c",))
    return SimpleNamespace(
        config=Config.model_validate({"data": {"root": root}}),
        plan=SimpleNamespace(dataset=dataset, split=split, channels=["T1"], alpha=None),
        folder=SimpleNamespace(path=Path("runs/first")),
        device_name="cpu",
        amp_name="fp32",
        versions={"segfocal": "0.1.0"},
        progress=Progress(epoch=3),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("BraTS", "BraTS: 2 cases trained, 1 validated; wt"), ("mueller", "2 cases trained")],
)
def test_trackers_hear_the_name_of_a_data_set_but_not_that_of_its_folder(name, expected):
    run = tracked_run(session(name, "/data/mueller"), "")
    assert run.facts["data"].startswith(expected)
    assert "mueller" not in str(run)
    assert (run.name, run.epoch) == ("first", 3)


def test_best_is_told_as_far_as_there_is_one():
    assert best_so_far(Progress(epoch=2)) == {}
    assert best_so_far(Progress(epoch=2, best_epoch=1)) == {"best_epoch": 1}
    best = Progress(epoch=2, best_epoch=2, best_score=0.5)
    assert best_so_far(best) == {"best_epoch": 2, "best_mean_dice": 0.5}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DiceFocalLoss", "DiceFocalLoss gamma 3.0"),
        ("GeneralizedDiceFocalLoss", "GeneralizedDiceFocalLoss gamma 3.0"),
        ("TverskyFocalLoss", "TverskyFocalLoss gamma 3.0"),
        ("FocalLoss", "FocalLoss gamma 3.0"),
        ("UnifiedFocalLoss", "UnifiedFocalLoss gamma 0.25"),
        ("DiceLoss", "DiceLoss"),
        ("DiceCELoss", "DiceCELoss"),
        ("TverskyLoss", "TverskyLoss"),
        ("GeneralizedDiceLoss", "GeneralizedDiceLoss"),
    ],
)
def test_a_gamma_is_told_of_the_losses_that_have_one(name, words):
    assert loss_words(LossConfig(name=name, gamma=3.0, unified_gamma=0.25)) == words
    facts = session("BraTS", "/data")
    facts.config = Config.model_validate({"data": {"root": "r"}, "loss": {"name": "DiceCELoss"}})
    assert tracked_run(facts, "").facts["loss"] == "DiceCELoss"
