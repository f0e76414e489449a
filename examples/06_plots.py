"""Pictures of what the losses do to small lesions: landscapes, gradients, alpha over volume.

    python examples/06_plots.py [--out plots.png] [--share 0.001]

The landscapes stand for a volume in which lesions fill a share of the voxels: at each point all
lesion voxels have one log-odds and all others another, and the loss is computed of such a volume.
Lines run downhill. Training starts at the prior (the share everywhere) and should end at the lower
right. `python -m segfocal.reports.loss_curves` draws figure 1 of the focal loss paper.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from segfocal import DiceFocalLoss, DiceLoss, FocalLoss
from segfocal.reports.style import line_look, save
from segfocal.statistics import class_weights

VOXELS = 5000
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
LOSSES = {
    "cross-entropy": FocalLoss(gamma=0.0),
    "focal, gamma 2": FocalLoss(gamma=2.0),
    "Dice": DiceLoss(sigmoid=True),
    "Dice + focal, gamma 2": DiceFocalLoss(sigmoid=True, gamma=2.0),
}
SCHEMES = {
    "balanced": {"scheme": "balanced"},
    "inverse square root": {"scheme": "inverse", "beta": 0.5},
    "enet": {"scheme": "enet"},
    "effective number, beta 1 - 1/N": {"scheme": "effective_number"},
    "effective number, beta .9999": {"scheme": "effective_number", "beta": 0.9999},
}


def loss_of(loss, share, inside, outside):
    """The loss and its slope along the log-odds of all lesion voxels, and of all others."""
    num_lesion = max(1, round(share * VOXELS))
    target = torch.zeros(1, 1, VOXELS)
    target[..., :num_lesion] = 1
    log_odds = torch.tensor([inside, outside], requires_grad=True)
    value = loss(torch.where(target > 0, log_odds[0], log_odds[1]), target)
    (slope,) = torch.autograd.grad(value, log_odds)
    return [value.item(), *slope.tolist()]


def lesions_part(loss, share):
    """Of the pull on all log-odds at the prior, the part of the lesion voxels."""
    prior = float(np.log(share / (1 - share)))
    _, inside, outside = loss_of(loss, share, prior, prior)
    return abs(inside) / (abs(inside) + abs(outside))


def draw_landscapes(axes, share):
    axis = np.linspace(-9, 9, 25)
    prior = np.log(share / (1 - share))
    for plot, (name, loss) in zip(axes, LOSSES.items(), strict=True):
        grid = np.array([[loss_of(loss, share, x, y) for x in axis] for y in axis])
        value, inside, outside = np.moveaxis(grid, -1, 0)
        shown = plot.contourf(axis, axis, np.log10(value.clip(1e-5)), levels=20, cmap="cividis")
        plot.figure.colorbar(shown, ax=plot, label="log10 of the loss")
        # Plain descent, its steps scaled alike: directions, not speeds.
        plot.streamplot(axis, axis, -inside, -outside, color="white", linewidth=0.6, density=0.8)
        plot.plot(prior, prior, "o", color="#D55E00", markersize=9, label="prior")
        plot.plot(9, -9, "*", color="#56B4E9", markersize=16, clip_on=False, label="perfect")
        plot.set(title=name, xlim=(-9, 9), ylim=(-9, 9))
        plot.set(xlabel="log-odds of lesion voxels", ylabel="log-odds of all others")
    axes[0].legend(loc="upper right", fontsize=8)


def draw_plateau(plot, share):
    p = np.linspace(0.001, 0.999, 40)
    for index, outside in enumerate((1e-1, 1e-2, 1e-3, 1e-4)):
        away = float(np.log(outside / (1 - outside)))
        dice = [loss_of(LOSSES["Dice"], share, float(x), away)[0] for x in np.log(p / (1 - p))]
        plot.plot(p, dice, label=f"outside {outside:g}", **line_look(index))
    plot.set(title="Dice loss: what lies outside decides", xlabel="probability in lesions")
    plot.set(ylabel="loss", ylim=(0, 1.02))
    plot.legend(fontsize=8)


def draw_gradients(plot):
    p = np.linspace(0.002, 0.998, 499)
    for index, gamma in enumerate(GAMMAS):
        logits = torch.logit(torch.from_numpy(p)).view(1, 1, -1).requires_grad_()
        FocalLoss(gamma=gamma, reduction="sum")(logits, torch.ones_like(logits)).backward()
        plot.plot(p, logits.grad.abs().flatten(), label=f"gamma {gamma:g}", **line_look(index))
    plot.set(title="pull on a voxel", xlabel="probability of the true class", ylabel="|gradient|")
    plot.legend(fontsize=8)


def draw_pulls(plot, share):
    gammas = np.linspace(0, 5, 21)
    made = {
        "focal": lambda gamma: FocalLoss(gamma=gamma),
        "Dice + focal": lambda gamma: DiceFocalLoss(sigmoid=True, gamma=gamma),
    }
    for index, (name, make) in enumerate(made.items()):
        parts = [lesions_part(make(float(gamma)), share) for gamma in gammas]
        plot.plot(gammas, parts, label=name, **line_look(index))
    plot.set(title="lesions' part of the pull at the prior", xlabel="gamma", ylim=(0, 1.02))
    plot.legend(fontsize=8)


def draw_alpha(plot):
    shares = np.logspace(-5, np.log10(0.5), 60)
    num_voxels = 10_000_000
    for index, (name, options) in enumerate(SCHEMES.items()):
        ratio = []
        for share in shares:
            counts = [num_voxels * (1 - share), num_voxels * share]
            background, lesion = class_weights(np.round(counts), **options)
            ratio.append(lesion / background)
        plot.plot(shares, ratio, label=name, **line_look(index))
    plot.set(xscale="log", yscale="log", xlabel="share of the voxels that are lesion")
    plot.set(title="weight of lesion over background", ylim=(0.5, 2e5))
    plot.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("plots.png"))
    parser.add_argument("--share", type=float, default=0.001, help="of the voxels that are lesion")
    args = parser.parse_args()
    figure = Figure(figsize=(19, 9), layout="constrained")
    plots = figure.subplots(2, 4)
    figure.suptitle(f"Lesions in {args.share:.2%} of the voxels")
    draw_landscapes(plots[0], args.share)
    draw_gradients(plots[1][0])
    draw_pulls(plots[1][1], args.share)
    draw_alpha(plots[1][2])
    draw_plateau(plots[1][3], args.share)
    save(figure, args.out, synthetic=False)
    for name, loss in LOSSES.items():
        part = lesions_part(loss, args.share)
        print(f"{name}: {part:.1%} of the pull at the prior is the lesions'")
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
