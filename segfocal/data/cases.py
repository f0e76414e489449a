"""What a case and a data set are: paths and meanings, nothing read from a volume yet."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segfocal.errors import UserError
from segfocal.labels import LabelScheme


@dataclass(frozen=True)
class MissingFile:
    """A file that a case lacks.

    Attributes:
        name: The channel, `image` for a file that holds all channels, or `label`.
        expected: Where its layout looks for it, in words or as a path below the root.
    """

    name: str
    expected: str


@dataclass(frozen=True)
class Case:
    """One examination.

    Attributes:
        case_id: Unique within the data set.
        images: One path per channel, or one path to a file that holds all channels.
        label: The label file; None where there is none (prediction).
        annotated: Names of the classes or regions that somebody looked for in it; None for all.
        source: The data set that it came from, where a list says so; "" elsewhere.
        missing: What it lacks. `images` and `label` then hold what is there. Only a survey meets
            such a case; training and prediction refuse it.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None
    annotated: tuple[str, ...] | None = None
    source: str = ""
    missing: tuple[MissingFile, ...] = ()

    def held(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Those of the data set's channels that its image files are for, in their order."""
        absent = {file.name for file in self.missing}
        return tuple(name for name in channels if name not in absent)


@dataclass(frozen=True)
class Dataset:
    """A folder of cases and what it declares about them.

    Attributes:
        name: From dataset.json, else the folder's.
        root: The folder.
        layout: Which reader read it: msd, nnunet, brats, bids, list or folder.
        channels: Name of each channel the image files hold, in file order.
        scheme: What the label values mean.
        cases: Those with a label, sorted by id.
        synthetic: A phantom: no picture or table made of it may pass for clinical evidence.
        labels_from: Who says what the label values mean, for a line on the terminal.
        faults: What is wrong with files or rows that are of no case, a line each. Only a survey
            meets them; training and prediction refuse the first.
    """

    name: str
    root: Path
    layout: str
    channels: tuple[str, ...]
    scheme: LabelScheme
    cases: tuple[Case, ...]
    synthetic: bool
    labels_from: str = "dataset.json"
    faults: tuple[str, ...] = ()

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The id of every case, sorted."""
        return tuple(case.case_id for case in self.cases)


def channel_indices(held: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Where each wanted channel stands among those that the files hold.

    Args:
        held: Channel names in file order (`Dataset.channels`).
        wanted: Names to use, in the network's order (the config's `data.channels`).

    Raises:
        UserError: If a wanted channel is not held, or is wanted twice.

    Example:
        >>> channel_indices(("FLAIR", "T1w", "T1gd", "T2w"), ("T1gd", "FLAIR"))
        (2, 0)
    """
    indices = []
    for position, name in enumerate(wanted):
        if name not in held:
            near = difflib.get_close_matches(name, held, n=1, cutoff=0.5)
            cure = f"Did you mean {near[0]}?" if near else "Take names from that list."
            raise UserError(
                f"data.channels: {name} is not a channel of the data; "
                f"it has {', '.join(held)}. {cure}"
            )
        if name in wanted[:position]:
            raise UserError(f"data.channels: {name} stands twice. Name each channel once.")
        indices.append(held.index(name))
    return tuple(indices)


@contextmanager
def naming(case_id: str) -> Iterator[None]:
    """Puts the case's id before the text of a `UserError` raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{case_id}: {error}") from error
