"""Several checkpoints as one: what may be joined, and what comes out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from segfocal.checkpoint import Checkpoint
from segfocal.errors import UserError
from segfocal.inference.ensemble import Ensemble, check_alike
from segfocal.labels import LabelScheme, Region

SCHEME = LabelScheme(("background", "a"), (0, 1))


def member(**changes):
    config = {
        "data": {"spacing_mm": None, "normalize": "zscore", "channel_dim": "auto"},
        "train": {"patch_size": [16, 16, 16]},
    }
    checkpoint = Checkpoint({}, config, SCHEME, ("c",), ("c", "d"), None, {}, {}, synthetic=False)
    return replace(checkpoint, **changes)


def test_the_logits_are_averaged():
    torch.manual_seed(0)
    networks = [nn.Conv3d(1, 3, 1) for _ in range(3)]
    windows = torch.randn(2, 1, 4, 4, 4)
    with torch.no_grad():
        expected = sum(network(windows) for network in networks) / 3
        torch.testing.assert_close(Ensemble(networks)(windows), expected)


def test_a_member_in_half_precision_is_added_up_in_single():
    networks = [nn.Conv3d(1, 3, 1).to(torch.bfloat16) for _ in range(2)]
    windows = torch.randn(1, 1, 2, 2, 2, dtype=torch.bfloat16)
    assert Ensemble(networks)(windows).dtype == torch.float32


def test_runs_that_prepare_cases_alike_may_be_joined():
    check_alike({Path("a/best.pt"): member(), Path("b/best.pt"): member()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channel_dim", 3),
        ("resample_channels", True),
        ("spacing_mm", [1, 1, 1]),
        ("normalize", "none"),
    ],
)
def test_runs_that_prepare_cases_otherwise_are_not_joined(name, value):
    config = member().config
    other = member(config={**config, "data": {**config["data"], name: value}})
    with pytest.raises(UserError, match=rf"in data\.{name}: {re.escape(str(value))}, not "):
        check_alike({Path("a/best.pt"): member(), Path("b/best.pt"): other})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            member(scheme=LabelScheme(("background", "b"), (0, 1))),
            "the classes: ('background', 'b'), not ('background', 'a')",
        ),
        (member(scheme=LabelScheme(("background", "a"), (0, 2))), "the label values"),
        (
            member(scheme=LabelScheme(("background", "a"), (0, 1), (Region("w", (1,), 1),))),
            "the regions",
        ),
        (member(channels=("d",)), "the channels: ('d',), not ('c',)"),
        (member(file_channels=("c",)), "the files' channels"),
        (
            member(config={**member().config, "train": {"patch_size": [16, 16, 32]}}),
            "train.patch_size: (16, 16, 32), not (16, 16, 16)",
        ),
    ],
)
def test_what_differs_is_named_with_both_files(other, told):
    with pytest.raises(UserError) as error:
        check_alike({Path("a/best.pt"): member(), Path("b/best.pt"): other})
    assert f"--ckpt b/best.pt differs from a/best.pt in {told}" in str(error.value)
    assert "predict with each alone" in str(error.value)
