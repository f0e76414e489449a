from pathlib import Path

import pytest
import torch

from segfocal.config.schema import LossConfig
from segfocal.errors import UserError
from segfocal.inference.device import resolve_amp, resolve_device
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.training.build import loss_terms, make_loss
from segfocal.training.case_store import CaseStore

SOFTMAX = LabelScheme(("background", "a"), (0, 1))
REGIONS = LabelScheme.preset("msd-task01")


@pytest.mark.parametrize("scheme", [SOFTMAX, REGIONS], ids=["softmax", "regions"])
@pytest.mark.parametrize("name", ["DiceFocalLoss", "DiceLoss", "FocalLoss"])
def test_every_loss_is_finite_and_blind_to_ignored_voxels(scheme, name):
    terms = loss_terms(make_loss(LossConfig(name=name), scheme, None))
    torch.manual_seed(0)
    logits = torch.randn(2, scheme.num_outputs, 4, 4, 4)
    label = torch.randint(0, scheme.num_classes, (2, 1, 4, 4, 4), dtype=torch.uint8)
    label[:, :, :2] = IGNORE_CLASS
    changed = logits.clone()
    changed[:, :, :2] = float("nan")
    value = terms(logits, label)["loss"]
    assert torch.isfinite(value)
    assert torch.equal(value, terms(changed, label)["loss"])


def test_background_counts_in_the_focal_term_and_not_in_dice():
    terms = loss_terms(make_loss(LossConfig(gamma=0.0), SOFTMAX, None))
    logits = torch.randn(1, 2, 4, 4, 4)
    label = torch.randint(0, 2, (1, 1, 4, 4, 4), dtype=torch.uint8)
    found = terms(logits, label)
    expected = torch.nn.functional.cross_entropy(logits, label[:, 0].long())
    assert torch.allclose(found["focal"], expected)
    p, t = logits.softmax(1)[:, 1], (label[:, 0] == 1).float()
    dice = 1 - (2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5)
    assert torch.allclose(found["dice"], dice)
    assert torch.allclose(found["loss"], expected + dice)


def test_lambdas_weigh_the_terms():
    config = LossConfig(lambda_dice=0.5, lambda_focal=3.0)
    found = loss_terms(make_loss(config, SOFTMAX, None))(
        torch.randn(1, 2, 3, 3, 3), torch.ones(1, 1, 3, 3, 3, dtype=torch.uint8)
    )
    assert torch.allclose(found["loss"], 0.5 * found["dice"] + 3 * found["focal"])


def test_a_cpu_is_never_given_bfloat16_unasked():
    cpu = torch.device("cpu")
    assert resolve_amp("auto", cpu) is None
    assert resolve_amp("bf16", cpu) is torch.bfloat16
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N, got gpu"):
        resolve_device("gpu")


def test_cases_beyond_the_memory_budget_are_read_at_each_access():
    reads = []

    def prepare(case):
        reads.append(case)
        return {"image": torch.zeros(25)}

    store = CaseStore([Path("a"), Path("b"), Path("c")], prepare, budget_bytes=150, num_threads=1)
    assert sorted(store.cached) == [0]
    before = len(reads)
    for number in range(3):
        store[number]
    assert len(reads) == before + 2
