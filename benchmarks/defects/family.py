"""Rows about deep supervision and the unified focal loss."""

import monai.losses
import torch
from torch import Tensor, nn

from defects.row import (
    NOT_YET,
    Row,
    error_of,
    gradient,
    is_close,
    our_loss,
    percent,
    seeded,
    shortened,
)


class _Recorder(nn.Module):
    """A loss of 1 that keeps the targets it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor] = []

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        del logits, mask
        self.targets.append(target)
        return torch.tensor(1.0)


def _one_voxel_case():
    """Outputs of four levels, and labels `(1, 1, 16, 16, 16)` with a lesion of one voxel."""
    outputs = [torch.zeros(1, 2, size, size, size) for size in (16, 8, 4, 2)]
    labels = torch.zeros(1, 1, 16, 16, 16, dtype=torch.long)
    labels[0, 0, 4, 6, 10] = 1
    return outputs, labels


def level_weights() -> Row:
    trap, measured = (
        "Deep supervision: the weights don't sum to 1",
        "the loss over four levels, each of which has loss 1",
    )
    outputs, labels = _one_voxel_case()
    theirs = monai.losses.DeepSupervisionLoss(_Recorder())(outputs, labels.float()).item()
    if (loss := our_loss("DeepSupervisionLoss")) is None:
        return Row(trap, measured, f"{theirs:g}", NOT_YET, None)
    ours = loss(_Recorder(), exclusive=True)(outputs, labels).item()
    return Row(trap, measured, f"{theirs:g}", f"{ours:g}", is_close(ours, 1))


def level_labels() -> Row:
    trap, measured = (
        "Deep supervision: integer labels fail",
        "DiceFocal over four levels with int64 labels",
    )
    outputs, labels = _one_voxel_case()
    inner = monai.losses.DiceFocalLoss(softmax=True, to_onehot_y=True)
    failure = error_of(lambda: monai.losses.DeepSupervisionLoss(inner)(outputs, labels))
    theirs = shortened(failure or "works", 80)
    if (loss := our_loss("DeepSupervisionLoss")) is None:
        return Row(trap, measured, theirs, NOT_YET, None)
    own = our_loss("DiceFocalLoss")(softmax=True)
    our_failure = error_of(lambda: loss(own)(outputs, labels))
    return Row(trap, measured, theirs, shortened(our_failure or "works"), not our_failure)


def small_lesion() -> Row:
    trap, measured = (
        "Deep supervision: one-voxel lesions vanish at lower levels",
        "of four levels, 16^3 to 2^3, those whose target holds the lesion, over 64 places",
    )
    outputs, labels = _one_voxel_case()
    places = torch.randint(0, 16, (64, 3), generator=seeded()).tolist()

    def kept(loss, dtype) -> float:
        found = 0
        for x, y, z in places:
            target = torch.zeros_like(labels)
            target[0, 0, x, y, z] = 1
            recorder = _Recorder()
            loss(recorder)(outputs, target.to(dtype))
            found += sum(bool((level > 0).any()) for level in recorder.targets)
        return found / len(places)

    theirs = f"{kept(monai.losses.DeepSupervisionLoss, torch.float32):.3g} of 4"
    if (loss := our_loss("DeepSupervisionLoss")) is None:
        return Row(trap, measured, theirs, NOT_YET, None)
    ours = kept(lambda recorder: loss(recorder, exclusive=True), torch.long)
    return Row(trap, measured, theirs, f"{ours:.3g} of 4", ours == 4)


def unified_logits() -> Row:
    trap, measured = (
        "Unified focal loss takes logits for probabilities",
        "gradients that are 0 on logits of standard deviation 5",
    )
    logits = (5 * torch.randn(1, 2, 16, 16, 16, generator=seeded())).requires_grad_()
    labels = torch.randint(0, 2, (1, 1, 16, 16, 16), generator=seeded(1))
    theirs = monai.losses.AsymmetricUnifiedFocalLoss(to_onehot_y=True)(logits, labels)
    silent = percent(gradient(theirs, logits) == 0)
    if (loss := our_loss("AsymmetricUnifiedFocalLoss")) is None:
        return Row(trap, measured, silent, NOT_YET, None)
    zeros = gradient(loss()(logits, labels), logits) == 0
    return Row(trap, measured, silent, percent(zeros), bool(zeros.float().mean() < 0.01))


def unified_classes() -> Row:
    trap, measured = "Unified focal loss is binary only", "unified focal loss of four classes"
    logits = torch.randn(1, 4, 8, 8, 8, generator=seeded()).requires_grad_()
    labels = torch.randint(0, 4, (1, 1, 8, 8, 8), generator=seeded(1))
    theirs = shortened(
        error_of(lambda: monai.losses.AsymmetricUnifiedFocalLoss(to_onehot_y=True)(logits, labels))
        or "works",
        80,
    )
    if (loss := our_loss("AsymmetricUnifiedFocalLoss")) is None:
        return Row(trap, measured, theirs, NOT_YET, None)
    failure = error_of(lambda: loss()(logits, labels))
    is_right = not failure and bool(
        (gradient(loss()(logits, labels), logits) != 0).any((0, 2, 3, 4)).all()
    )
    return Row(
        trap,
        measured,
        theirs,
        shortened(failure) or "works, with a gradient in every channel",
        is_right,
    )


ROWS = (level_weights, level_labels, small_lesion, unified_logits, unified_classes)
