"""The loss of examples/03_nnunet_trainer.py, on a stand-in of nnU-Net's trainer.

nnunetv2 pulls a torch of its own and is not installed for the tests. The stand-in has what
`_build_loss` asks of the trainer (names as in nnunetv2 2.8.1) and nothing else. Where nnunetv2 is
installed, tests/test_examples.py runs the example itself.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

EXAMPLE = Path(__file__).parents[1] / "examples" / "03_nnunet_trainer.py"


@pytest.fixture
def trainer_of(monkeypatch):
    """Builds the example's trainer around labels and levels."""
    name = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))

    class StandIn:
        is_ddp = False

        def _get_deep_supervision_scales(self):
            return [[1.0] * 3, [0.5] * 3, [0.25] * 3]

    sys.modules[name].nnUNetTrainer = StandIn
    spec = importlib.util.spec_from_file_location("nnunet_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def build(*, regions=False, ignore_label=None, levels=True, batch_dice=True, gamma=0.0):
        class Trainer(example.nnUNetTrainerSegfocal):
            label_manager = SimpleNamespace(
                has_regions=regions,
                has_ignore_label=ignore_label is not None,
                ignore_label=ignore_label,
            )
            configuration_manager = SimpleNamespace(batch_dice=batch_dice, patch_size=[8, 8, 8])
            enable_deep_supervision = levels

        Trainer.gamma = gamma
        return Trainer()._build_loss()

    return build


def dice_over_batch(probs, truth, valid):
    """1 - mean Dice of the channels, over the voxels that count."""
    both = (probs * truth * valid).sum((0, 2, 3, 4))
    sums = ((probs + truth) * valid).sum((0, 2, 3, 4))
    return 1 - ((2 * both + 1e-5) / (sums + 1e-5)).mean()


def dice_and_cross_entropy(logits, label, ignore_label=-1):
    """nnU-Net's default: Dice of the foreground, cross-entropy of everything."""
    valid = label != ignore_label
    truth = F.one_hot(torch.where(valid, label, 0).long(), logits.shape[1]).movedim(-1, 1)
    probs = logits.softmax(1)
    dice = dice_over_batch(probs[:, 1:], truth[:, 1:], valid[:, None])
    return dice + F.cross_entropy(logits, label.long(), ignore_index=ignore_label)


def test_labels_with_an_ignore_label_are_dice_and_cross_entropy_at_gamma_0(trainer_of):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, 8, generator=generator)
    label = torch.randint(0, 4, (2, 1, 8, 8, 8), generator=generator).to(torch.int16)
    loss = trainer_of(ignore_label=3, levels=False)
    expected = dice_and_cross_entropy(logits, label[:, 0], 3)
    torch.testing.assert_close(loss(logits, label), expected)
    torch.testing.assert_close(loss(logits, label.float()), expected)
    other = torch.where((label == 3).expand_as(logits), torch.nan, logits)
    torch.testing.assert_close(loss(other, label), expected)
    assert trainer_of(ignore_label=3, levels=False, gamma=2.0)(logits, label) < expected


def test_levels_weigh_as_nnunets_and_keep_a_lesion_of_one_voxel(trainer_of):
    generator = torch.Generator().manual_seed(1)
    levels = [
        torch.randn(2, 2, size, size, size, generator=generator).requires_grad_()
        for size in (8, 4, 2)
    ]
    label = torch.zeros(2, 1, 8, 8, 8, dtype=torch.int16)
    label[0, 0, 3, 5, 5] = 1
    coarse = torch.zeros(2, 4, 4, 4, dtype=torch.int16)
    coarse[0, 1, 2, 2] = 1  # which every second voxel of the label would miss
    smaller = [label[:, :, ::2, ::2, ::2], label[:, :, ::4, ::4, ::4]]
    value = trainer_of()(levels, [label, *smaller])
    full = dice_and_cross_entropy(levels[0], label[:, 0])
    half = dice_and_cross_entropy(levels[1], coarse)
    torch.testing.assert_close(value, (2 * full + half) / 3)
    value.backward()
    assert levels[1].grad.abs().sum() > 0
    assert levels[2].grad is None


@pytest.mark.parametrize("with_ignore", [False, True])
def test_regions_are_dice_and_binary_cross_entropy_of_each(trainer_of, with_ignore):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 2, 8, 8, 8, generator=generator)
    target = torch.rand(2, 2, 8, 8, 8, generator=generator) < 0.3
    ignored = torch.rand(2, 1, 8, 8, 8, generator=generator) < 0.2
    valid = ~ignored if with_ignore else torch.ones_like(ignored)
    loss = trainer_of(regions=True, ignore_label=3 if with_ignore else None, levels=False)
    given = torch.cat([target, ignored], 1) if with_ignore else target
    bce = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    expected = (bce * valid).sum() / (2 * valid.sum())
    expected = expected + dice_over_batch(logits.sigmoid(), target.float(), valid)
    torch.testing.assert_close(loss(logits, given), expected)


def test_dice_is_of_each_sample_where_nnunet_plans_so(trainer_of):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 2, 8, 8, 8, generator=generator)
    label = (torch.rand(2, 1, 8, 8, 8, generator=generator) < 0.2).to(torch.int16)
    each = [dice_and_cross_entropy(logits[i : i + 1], label[i : i + 1, 0]) for i in range(2)]
    loss = trainer_of(batch_dice=False, levels=False)
    torch.testing.assert_close(loss(logits, label), torch.stack(each).mean())
