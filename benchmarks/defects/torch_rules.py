"""Rows about good manners in torch: vmap, compile, module state, syncs, tensor subclasses."""

import monai.losses
import torch
from monai.data import MetaTensor

from defects.row import Row, error_of, make_case, shortened
from segfocal.losses import DiceFocalLoss, DiceLoss


def vmap() -> Row:
    logits, labels = make_case(size=4)
    logits, labels = logits.detach()[:, None], labels[:, None]
    theirs = monai.losses.DiceLoss(softmax=True, to_onehot_y=True)
    ours = DiceLoss(softmax=True, to_onehot_y=True)
    failure = error_of(lambda: torch.vmap(theirs)(logits, labels))
    our_failure = error_of(lambda: torch.vmap(ours)(logits, labels))
    is_right = not our_failure and torch.allclose(
        torch.vmap(ours)(logits, labels),
        torch.stack([ours(z, t) for z, t in zip(logits, labels, strict=True)]),
    )
    return Row(
        "vmap fails with `to_onehot_y`",
        "`torch.vmap` of the Dice loss over two cases",
        shortened(failure or "works", 70),
        our_failure or ("works, equal to a loop" if is_right else "differs from a loop"),
        is_right,
    )


def module_state() -> Row:
    logits, labels = make_case(size=4)
    theirs = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, weight=2.0)
    ours = DiceLoss(softmax=True, to_onehot_y=True, weight=2.0)
    shapes = []
    for loss in (theirs, ours):
        before = {name: tuple(value.shape) for name, value in loss.state_dict().items()}
        loss(logits, labels)
        after = {name: tuple(value.shape) for name, value in loss.state_dict().items()}
        shapes.append((before, after))
    texts = [
        ", ".join(f"{name} {before[name]} to {after[name]}" for name in before)
        for before, after in shapes
    ]
    return Row(
        "forward changes a registered buffer's shape",
        "the weight in the state_dict before and after a call, `weight=2.0`",
        *texts,
        shapes[1][0] == shapes[1][1],
    )


def syncs() -> Row:
    logits, labels = make_case(size=4)
    logits, labels = logits.detach().to("meta"), labels.to("meta")
    theirs = monai.losses.DiceFocalLoss(
        softmax=True, to_onehot_y=True, alpha=0.25, weight=[1.0, 2.0, 2.0, 2.0]
    ).to("meta")
    ours = DiceFocalLoss(softmax=True, alpha=0.25, weight=[1.0, 2.0, 2.0, 2.0]).to("meta")
    failure = error_of(lambda: theirs(logits, labels))
    our_failure = error_of(lambda: ours(logits, labels))
    return Row(
        "Reading a tensor's value in forward waits for the GPU",
        "forward on the meta device, where no value can be read: scalar alpha, class weights",
        shortened(failure or "reads none", 90),
        shortened(our_failure) if our_failure else "reads none",
        not our_failure,
    )


def graph_breaks() -> Row:
    logits, labels = make_case(size=4)
    options = {"softmax": True, "to_onehot_y": True, "alpha": 0.25}
    breaks = []
    for loss in (monai.losses.DiceFocalLoss(**options), DiceFocalLoss(**options)):
        torch.compiler.reset()
        breaks.append(torch._dynamo.explain(loss)(logits.detach(), labels).graph_break_count)
    torch.compiler.reset()
    return Row(
        "Graph breaks under `torch.compile`",
        "breaks in the graph of `DiceFocalLoss(softmax=True, to_onehot_y=True, alpha=.25)`",
        str(breaks[0]),
        str(breaks[1]),
        breaks[1] == 0,
    )


def meta_tensor() -> Row:
    logits, labels = make_case(size=4)
    target = MetaTensor(labels, meta={"filename_or_obj": "patient.nii.gz"})
    theirs = monai.losses.DiceLoss(softmax=True, to_onehot_y=True)(logits, target)
    ours = DiceLoss(softmax=True, to_onehot_y=True)(logits, target)
    name = getattr(theirs, "meta", {}).get("filename_or_obj")
    return Row(
        "A MetaTensor target makes the loss a MetaTensor that carries the file name",
        "type of the Dice loss",
        f"{type(theirs).__name__} of {name}" if name else type(theirs).__name__,
        type(ours).__name__,
        type(ours) is torch.Tensor,
    )


ROWS = (vmap, module_state, syncs, graph_breaks, meta_tensor)
