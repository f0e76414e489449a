"""MONAI 1.6.1's losses under their own names and with their own numbers.

For who must reproduce a published run, or continue one: an existing script changes its import and
nothing else.

    from monai.losses import DiceFocalLoss                  # before
    from segfocal.compat.monai import DiceFocalLoss         # after

Constructors, positional order included, `forward`, values, gradients, shapes, dtypes, warnings,
error types and `state_dict` keys are MONAI's. So are the traps that `segfocal.losses`, the other
door, is there to avoid; `docs/losses.md` measures them. MONAI itself is not imported.

What is won is time and memory. Where MONAI's number is algebra on the sums of
`segfocal.ops.class_sums`, it is computed from them, and nothing of the logits' size is kept but
their gradient: labels with `to_onehot_y`, or targets of 0 and 1, under `sigmoid` or `softmax`, of
float32 or float64 logits, or of any under CUDA autocast. In all other cases (`other_act`,
probabilities as input, soft targets, `reduction="none"`, logits in half precision ...) MONAI's
formula is spelled out in plain torch. A target with a channel per class is read once to see whether
it is all 0 and 1, which waits for a GPU; labels don't.

Known differences, each of them tested:

- A gradient or a loss that is NaN in MONAI can be finite here: gamma < 1 at a confident voxel, a
  logit of -inf at a wrong class, a NaN under an ignored label, `smooth_dr=0` where all is ignored.
- With `squared_pred` the size of a class is whole in float64; MONAI squares a root of float32.
- The focal loss of float64 logits is computed in float64, and then rounded to float32 as MONAI's.
- A scalar `weight` stays scalar: MONAI's forward replaces the buffer by one per class.
- A `MetaTensor` gives a plain tensor.
- From the sums there is no second derivative: asking for it raises a RuntimeError.
- `GeneralizedDiceLoss` gives a target that asks for it its gradient, where MONAI fails.
- On a GPU a label out of range is not looked for, where MONAI ends the process by a device assert.
- The text of an error may differ; its type does not.

Example:
    >>> import torch
    >>> logits = torch.tensor([[[2.0, -1.0, 0.5], [0.0, 1.0, 0.5]]], requires_grad=True)
    >>> labels = torch.tensor([[[0, 1, 1]]])
    >>> loss = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.0)
    >>> value = loss(logits, labels)
    >>> value.backward()
    >>> round(value.item(), 4), logits.grad.shape
    (0.1578, torch.Size([1, 2, 3]))

    The other door divides by the voxels, not by voxels and classes, as `F.cross_entropy` does:

    >>> from segfocal import losses
    >>> right = losses.FocalLoss(use_softmax=True, gamma=0.0)(logits, labels)
    >>> round(right.item(), 4), round((right / value).item(), 4)
    (0.3157, 2.0)
"""

from segfocal.compat.monai.compound import DiceCELoss, DiceFocalLoss
from segfocal.compat.monai.deep_supervision import DeepSupervisionLoss
from segfocal.compat.monai.dice import DiceLoss, MaskedDiceLoss
from segfocal.compat.monai.focal import FocalLoss
from segfocal.compat.monai.generalized_dice import GeneralizedDiceFocalLoss, GeneralizedDiceLoss
from segfocal.compat.monai.tversky import TverskyLoss
from segfocal.compat.monai.unified_focal import AsymmetricUnifiedFocalLoss
from segfocal.compat.monai.wasserstein import GeneralizedWassersteinDiceLoss

Dice = DiceLoss
dice_ce = DiceCELoss
dice_focal = DiceFocalLoss
generalized_dice = GeneralizedDiceLoss
generalized_dice_focal = GeneralizedDiceFocalLoss
generalized_wasserstein_dice = GeneralizedWassersteinDiceLoss

__all__ = [
    "AsymmetricUnifiedFocalLoss",
    "DeepSupervisionLoss",
    "Dice",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "GeneralizedWassersteinDiceLoss",
    "MaskedDiceLoss",
    "TverskyLoss",
    "dice_ce",
    "dice_focal",
    "generalized_dice",
    "generalized_dice_focal",
    "generalized_wasserstein_dice",
]
