"""A picture of the focal loss over the probability of the true class, for several gamma.

python -m segfocal.reports.loss_curves --gamma 0 0.5 1 2 5 --out loss_curves.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from segfocal.numpy import focal_loss
from segfocal.reports.style import line_look, save

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Those of figure 1 in Lin et al., 2017."""


def loss_curves(
    path: Path, gammas: Sequence[float] = GAMMAS, *, alpha: float | None = None
) -> None:
    """Draw the loss of a positive, and its share of the cross-entropy, over p_t.

    Args:
        path: PNG to (over)write.
        gammas: A curve each, >= 0; 0 is the cross-entropy.
        alpha: Weight of positives, in [0, 1]; None for 1.

    Raises:
        ValueError: If a gamma is negative, there is none, or alpha is out of range.
    """
    if not gammas:
        raise ValueError("gammas must hold one number or more: got none.")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss, share = figure.subplots(1, 2)
    p = np.linspace(0.001, 0.999, 999)
    cross_entropy = -np.log(p)
    for index, gamma in enumerate(gammas):
        curve = focal_loss(p, np.ones_like(p), alpha=alpha, gamma=gamma, reduction="none")
        name = f"gamma {gamma:g}" + (" (cross-entropy)" if gamma == 0 else "")
        loss.plot(p, curve, label=name, **line_look(index))
        share.plot(p, curve / cross_entropy, label=name, **line_look(index))
    loss.set(xlabel="probability of the true class $p_t$", ylabel="loss", ylim=(0, 5))
    loss.set_title("Focal loss" if alpha is None else f"Focal loss, alpha {alpha:g}")
    share.set(xlabel="probability of the true class $p_t$", ylabel="share", yscale="log")
    share.set(ylim=(1e-4, 1.5))
    share.set_title("Share of the cross-entropy that is left")
    for axes in (loss, share):
        axes.set_xlim(0, 1)
        axes.grid(alpha=0.3)
    loss.legend()
    save(figure, path, synthetic=False)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gamma", type=float, nargs="+", default=list(GAMMAS), metavar="G")
    parser.add_argument("--alpha", type=float, default=None, help="weight of positives")
    parser.add_argument("--out", type=Path, default=Path("loss_curves.png"))
    args = parser.parse_args(argv)
    try:
        loss_curves(args.out, args.gamma, alpha=args.alpha)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
