"""Where the references are: a folder of labels, a file, a list, or a data set in any layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocal.config.load import LoadedConfig
from segfocal.data.cases import Case
from segfocal.data.defects import Problem
from segfocal.data.layouts import Layout, detect_layout, read_dataset
from segfocal.data.layouts.case_list import LIST_ENDINGS, read_list
from segfocal.data.layouts.folder import volume_files
from segfocal.data.layouts.found import READABLE, Exclusion, FileRules, is_volume
from segfocal.data.nifti_header import case_stem
from segfocal.errors import UserError
from segfocal.evaluation.label_files import by_name, nearby_descriptor
from segfocal.labels import LabelScheme

_TELLING = ("msd", "nnunet", "brats")
"""Layouts that say themselves what label values mean."""

_ANY_LABELS = {"background": 0, "foreground": 1}
"""Stands in where neither config nor layout names classes; the values found say it later."""


@dataclass(frozen=True)
class References:
    """The cases to evaluate against.

    Attributes:
        cases: Each with its label; without one where the data set lacks it.
        problems: Files and rows that no case can be made of.
        scheme: What the label values mean, where data set or config say so.
        labels_from: Who says so.
        is_synthetic: Whether the data set says that it is a phantom.
        is_file: Whether this is one file, which is compared to one file of any name.
        others: Labels of the data set that its layout does not count among the cases (labelsTs).
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...] = ()
    scheme: LabelScheme | None = None
    labels_from: str = ""
    is_synthetic: bool = False
    is_file: bool = False
    others: Path | None = None


def find_references(path: Path, loaded: LoadedConfig, *, is_its_data: bool) -> References:
    """The references that a path means.

    Args:
        path: What `--ref` names.
        loaded: Layout and, where they fit, the other settings of `data`.
        is_its_data: Whether the config's patterns, list and exclusions are about this path.

    Raises:
        UserError: If nothing is there, or it is neither volumes, a list nor a data set.
    """
    if not path.exists():
        raise UserError(
            f"--ref {path} does not exist. Expected a folder of labels, a label file, a list "
            f"(CSV, TSV, JSON) or the folder of a data set."
        )
    if path.is_file():
        if is_volume(path.name):
            return References((Case(case_stem(path), (), path),), is_file=True)
        if path.suffix.lower() not in LIST_ENDINGS:
            raise UserError(f"--ref {path}: expected a volume ({', '.join(READABLE)}) or a list.")
        return _listed(path, loaded)
    applies = is_its_data or _is_set(loaded, "layout")
    layout = loaded.config.data.layout if applies else "auto"
    if layout == "auto" and volume_files(path):
        return _label_folder(path)
    return _of_dataset(path, layout, loaded, is_its_data=is_its_data)


def _label_folder(folder: Path) -> References:
    files, problems = by_name(volume_files(folder))
    descriptor = nearby_descriptor(folder)
    return References(
        tuple(Case(case_id, (), path) for case_id, path in files.items()),
        tuple(problems),
        is_synthetic=descriptor is not None and descriptor.synthetic,
    )


def _listed(path: Path, loaded: LoadedConfig) -> References:
    """The labels of a list; paths are taken from its folder, or from `--set data.root=...`."""
    root = loaded.config.data.root if _is_set(loaded, "root") else path.parent
    channels = loaded.config.data.channels if _is_set(loaded, "channels") else None
    found = read_list(root, FileRules(channels, case_list=path), Exclusion(), images=False)
    return References(found.cases, _problems(found.faults))


def _of_dataset(
    path: Path, layout: Layout, loaded: LoadedConfig, *, is_its_data: bool
) -> References:
    data = loaded.config.data
    rules = FileRules()
    if is_its_data:
        rules = FileRules(data.channels, data.case_list, data.image_pattern, data.label_pattern)
    if layout == "auto":
        layout = detect_layout(path, rules)  # type: ignore[assignment]
    if layout == "bids" and rules.channels is None:
        # Labels alone are read: which images make up a case does not matter.
        rules = FileRules((), label_pattern=rules.label_pattern)
    declared = data.labels is not None and data.labels != "auto"
    told = declared or layout in _TELLING
    ignore = ignore_values(loaded)
    dataset = read_dataset(
        path,
        layout,
        (data.labels if declared else None) if told else _ANY_LABELS,
        regions_class_order=data.regions_class_order,
        ignore_values=[] if not told else ignore,
        rules=rules,
        exclude=data.exclude if is_its_data else (),
        partial=data.partial if is_its_data else None,
        keep_incomplete=True,
    )
    return References(
        dataset.cases,
        _problems(dataset.faults),
        dataset.scheme if told else None,
        dataset.labels_from,
        dataset.synthetic,
        others=path / "labelsTs" if (path / "labelsTs").is_dir() else None,
    )


def _is_set(loaded: LoadedConfig, name: str) -> bool:
    """Whether `--set` gives a setting of `data`: then it is about the references."""
    return loaded.lines.get(f"data.{name}") == "--set"


def _problems(faults: Sequence[str]) -> tuple[Problem, ...]:
    return tuple(Problem("", "dataset", fault) for fault in faults)


def ignore_values(loaded: LoadedConfig) -> list[int]:
    """`loss.ignore_index` as a list."""
    ignore = loaded.config.loss.ignore_index
    return [ignore] if isinstance(ignore, int) else list(ignore or [])
