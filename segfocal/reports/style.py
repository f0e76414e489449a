"""Colours, the phantom's stamp and the way figures are saved: one look for all of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from segfocal.data.phantom.stamp import STAMP
from segfocal.files import atomic_write

OVERLAY_COLOURS = ("#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
"""For masks over a grey image, by class; Okabe and Ito's palette, safe for colour-blind eyes."""

LINE_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
"""For lines on white, in the same palette without its yellow."""

LINE_STYLES = ("-", "--", ":", "-.")


def overlay_colour(class_index: int) -> str:
    """The colour of a class (1 for the first after background)."""
    return OVERLAY_COLOURS[(class_index - 1) % len(OVERLAY_COLOURS)]


def line_look(index: int) -> dict[str, Any]:
    """Colour and dash of the index-th line, different for the first 28."""
    looks = itertools.product(LINE_STYLES, LINE_COLOURS)
    dash, colour = next(itertools.islice(looks, index % 28, None))
    return {"color": colour, "linestyle": dash}


def save(figure: Figure, path: Path, *, synthetic: bool) -> None:
    """Write a PNG, complete or absent; stamp it where the data is synthetic."""
    if synthetic:
        figure.text(
            0.5,
            0.012,
            STAMP,
            ha="center",
            va="bottom",
            color="white",
            fontsize=9,
            fontweight="bold",
            bbox={"facecolor": "#A00000", "edgecolor": "none", "pad": 3},
        )
    description = STAMP if synthetic else "segfocal"
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110, metadata={"Description": description})
