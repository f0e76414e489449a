"""A config to start from: what the numbers of a data set say about how to train on it.

The rules are nnU-Net's where it has one (Isensee et al., Nature Methods 2021), and stand with each
setting as its reason.
"""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segfocal._version import __version__
from segfocal.config.load import LoadedConfig
from segfocal.config.schema import setting_names
from segfocal.data.dataset_stats import ChannelStats, DatasetStats, in_ras
from segfocal.data.phantom.stamp import STAMP

_PATCH_VOXELS = 96**3
_HALVINGS = {"SegResNet": 3, "UNet": 3}
"""How often a network halves an axis, by its defaults; others are taken to do so four times."""

_SHORTEST = 16
"""Voxels of a patch along its shortest axis: halved three times, two are left."""

_SAME_SPACING = 1.1
_THICK_SLICES = 3.0
_MANY_ZEROS = 0.25
_AIR_HU = -900.0
_FAT_HU = -50.0
_ROUND_HU = 10
_MANY_LESIONS = 3
_FEW_CASES = 50
_FOLDS = 5
_WITHOUT_GPU = (
    "# Without a GPU, in minutes: --set train.patch_size=[48,48,32] "
    '"network.args={init_filters: 8}" train.max_minutes=10'
)


@dataclass(frozen=True)
class Suggestion:
    """One setting.

    Attributes:
        setting: Its dotted name.
        value: Its value.
        why: The reason.
    """

    setting: str
    value: Any
    why: str


def suggest(stats: DatasetStats, given: Mapping[str, Any]) -> list[Suggestion]:
    """The settings that should not be the default's for this data set.

    Args:
        stats: The data set in numbers.
        given: The settings that stand, by dotted name: others follow from them.
    """
    grids = [
        (in_ras(survey, survey.shape), in_ras(survey, survey.spacing_mm))
        for survey in stats.surveys
        if survey.usable and survey.label is not None
    ]
    suggestions = list(_normalization(stats.channels))
    spacing = target_spacing([spacing for _, spacing in grids], [shape for shape, _ in grids])
    if "data.spacing_mm" in given:
        spacing = given["data.spacing_mm"]
    elif spacing is not None:
        low, high = (_sizes(stats.spacing_mm[key]) for key in ("smallest", "largest"))
        why = f"voxels are of {low} to {high} mm"
        suggestions.append(Suggestion("data.spacing_mm", list(spacing), why))
    network = given.get("network.name", "SegResNet")
    suggestions.append(_patch(grids, spacing, 2 ** _HALVINGS.get(network, 4)))
    suggestions += _lesions(stats)
    suggestions += _mirroring(stats)
    return [one for one in suggestions if one.setting not in given]


def _normalization(channels: Sequence[ChannelStats]) -> Iterator[Suggestion]:
    by_channel: dict[str, str | list[int]] = {}
    told: dict[str, list[str]] = {}
    for channel in channels:
        by_channel[channel.name], reason = _rule(channel)
        if reason:
            told.setdefault(reason, []).append(channel.name)
    if told:
        rules = list(by_channel.values())
        alike = all(rule == rules[0] for rule in rules)
        why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in told.items())
        yield Suggestion("data.normalize", rules[0] if alike else by_channel, why)


def _rule(channel: ChannelStats) -> tuple[str | list[int], str]:
    """How a channel is normalised, and why it is not by the default, the z-score."""
    low, high = channel.annotated.get("0.5%"), channel.annotated.get("99.5%")
    if low is None or high is None:
        low, high = channel.percentiles["5%"], channel.percentiles["95%"]
    is_called_ct = re.search(r"(?i)(?<![a-z])(ct|cta|cect|ncct)(?![a-z])", channel.name) is not None
    is_ct = channel.minimum <= (_FAT_HU if is_called_ct else _AIR_HU) < channel.maximum
    if is_ct and low is not None and high is not None:
        # The classes' own range would leave everything around them at one of its ends.
        wide = max(high - low, _ROUND_HU)
        ends = max(low - wide, channel.minimum), min(high + wide, channel.maximum)
        window = [_ROUND_HU * round(end / _ROUND_HU) for end in ends]
        why = f"the classes' {low:.4g} to {high:.4g} and as much on either side"
        return window, f"from {channel.minimum:.4g}, taken for HU: {why}"
    if channel.zero_fraction >= _MANY_ZEROS:
        return "zscore_nonzero", f"0 in {channel.zero_fraction:.0%} of the voxels"
    return "zscore", ""


def target_spacing(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[float]]
) -> tuple[float, ...] | None:
    """The voxel size to resample to; None where the cases agree.

    It is the median. Where slices are thick, their tenth percentile: the median would throw away
    half of the slices of a case that has twice as many.

    Args:
        spacings: Voxel size of each case, in mm.
        shapes: Axis lengths of each case.

    Example:
        >>> target_spacing([(1.0, 1.0, 2.0), (1.0, 1.0, 2.1)], 2 * [(64, 64, 64)])
        >>> target_spacing([(1.0, 1.0, 2.0), (1.0, 1.2, 3.0)], 2 * [(64, 64, 64)])
        (1.0, 1.1, 2.5)
        >>> target_spacing([(1.0, 1.0, 4.0), (1.0, 1.0, 8.0)], 2 * [(256, 256, 32)])
        (1.0, 1.0, 4.0)
    """
    columns = list(zip(*spacings, strict=True))
    if all(max(column) <= _SAME_SPACING * min(column) for column in columns):
        return None
    target = [statistics.median(column) for column in columns]
    lengths = [statistics.median(column) for column in zip(*shapes, strict=True)]
    worst = max(range(3), key=lambda axis: target[axis])
    others = [axis for axis in range(3) if axis != worst]
    is_thick = target[worst] > _THICK_SLICES * max(target[axis] for axis in others)
    are_few = lengths[worst] * _THICK_SLICES < min(lengths[axis] for axis in others)
    if is_thick and are_few:
        tenth = sorted(columns[worst])[math.ceil(0.1 * len(spacings)) - 1]
        target[worst] = max(tenth, *(target[axis] for axis in others))
    return tuple(float(f"{size:.3g}") for size in target)


def _patch(
    grids: Sequence[tuple[Sequence[float], Sequence[float]]],
    target: Sequence[float] | None,
    multiple: int,
) -> Suggestion:
    """A cube in millimetres, as far as the middle case goes, of as many voxels as the default's."""
    sizes = [statistics.median(column) for column in zip(*(s for _, s in grids), strict=True)]
    shapes = [
        shape
        if target is None
        else [n * old / new for n, old, new in zip(shape, spacing, target, strict=True)]
        for shape, spacing in grids
    ]
    middle = [statistics.median(column) for column in zip(*shapes, strict=True)]
    patch = patch_size(middle, sizes if target is None else target, multiple)
    shape = "x".join(f"{length:.0f}" for length in middle)
    return Suggestion("train.patch_size", patch, f"the middle case is {shape}")


def patch_size(shape: Sequence[float], spacing_mm: Sequence[float], multiple: int = 8) -> list[int]:
    """A patch of 96^3 voxels at most, about as long along each axis in millimetres.

    Args:
        shape: Axis lengths of the middle case.
        spacing_mm: Its voxel size.
        multiple: Of which every length is one. None is below 16.

    Example:
        >>> patch_size((240, 240, 155), (1.0, 1.0, 1.0))
        [96, 96, 96]
        >>> patch_size((512, 512, 30), (0.45, 0.45, 5.0))  # thick slices
        [232, 232, 16]
        >>> patch_size((35, 50, 36), (1.0, 1.0, 1.0))  # smaller than the budget
        [40, 56, 40]
    """
    least = max(multiple, _SHORTEST)
    patch = [max(least, multiple * math.ceil(length / multiple)) for length in shape]
    while math.prod(patch) > _PATCH_VOXELS:
        longer = [axis for axis in range(3) if patch[axis] > least]
        patch[max(longer, key=lambda axis: patch[axis] * spacing_mm[axis])] -= multiple
    return patch


def _lesions(stats: DatasetStats) -> Iterator[Suggestion]:
    """Where a case has several lesions of most classes, each is drawn as often as the others.

    Of most: an organ that a label cut in pieces makes no lesions of forty organs.
    """
    usable = [survey.label for survey in stats.surveys if survey.usable and survey.label]
    middle: dict[str, float] = {}
    for name in stats.counts.scheme.names[1:]:
        held = [len(found) for label in usable if (found := label.lesions_mm3.get(name, ()))]
        if held:
            middle[name] = statistics.median(held)
    many = [name for name, number in middle.items() if number >= _MANY_LESIONS]
    if many and 2 * len(many) >= len(middle):
        why = f"{many[0]} has {middle[many[0]]:.0f} lesions in the middle case"
        yield Suggestion("loss.batch", True, f"{why}: a patch holds few of them, or none")
        yield Suggestion(
            "train.foreground_by", "lesion", "a small one is seen as often as a large one"
        )


def _mirroring(stats: DatasetStats) -> Iterator[Suggestion]:
    """Left and right are told apart by where they are: mirrored, one becomes the other."""
    names = stats.counts.scheme.names
    sided = [name for name in names if re.search(r"(?i)(?<![a-z])(left|right)(?![a-z])", name)]
    if sided:
        why = f"{sided[0]} is told by its side: mirrored along R-L it is another class"
        yield Suggestion("train.augment.flip_axes", [1, 2], why)


def config_text(stats: DatasetStats, loaded: LoadedConfig, *, path: Path) -> str:
    """YAML of a config: what was given already, then what is suggested, with the reasons.

    Args:
        stats: The data set in numbers.
        loaded: The settings that it was read with; what was given there stands.
        path: The file, for the command in it.
    """
    given = _given(loaded)
    suggested = {one.setting: one for one in suggest(stats, given)}
    num_cases = stats.counts.num_cases
    cases = f"{num_cases} case{'s' if num_cases > 1 else ''}"
    source = f"segfocal-stats {__version__} for {_one_line(stats.dataset.name)}, from {cases}"
    lines = [
        f"# Suggested by {source}. A start, not tried: change what you know better.",
        f"#   segfocal-train --config {_one_line(shlex.quote(str(path)))} --dry-run     checks it",
        _WITHOUT_GPU,
    ]
    if stats.dataset.synthetic:
        lines.insert(1, f"# {STAMP}")
    if stats.left_out:
        few = yaml.safe_dump(list(stats.left_out), default_flow_style=True, width=math.inf).strip()
        lines += [
            "# Cases with an error, which training refuses: mend them (segfocal-stats --check), or",
            f"# leave them out, under data: exclude: {few}",
        ]
    if _FOLDS <= num_cases < _FEW_CASES and not given.keys() & {"data.folds", "data.split"}:
        lines.append(
            f"# {cases}: validation on a fifth of them says little. Cross-validation: "
            f"--set data.folds={_FOLDS} data.fold=0, and so on to {_FOLDS - 1}"
        )
    values = {**given, **{setting: one.value for setting, one in suggested.items()}}
    section = ""
    for setting in sorted(values, key=setting_names().index):
        *sections, last = setting.split(".")
        if (where := ".".join(sections)) != section:
            lines += ["", *_headings(sections, section.split("."))]
            section = where
        why = f"   # {_one_line(suggested[setting].why)}" if setting in suggested else ""
        lines.append(f"{'  ' * len(sections)}{last}: {_yaml(values[setting])}{why}")
    return "\n".join(lines) + "\n"


def _given(loaded: LoadedConfig) -> dict[str, Any]:
    """What the user set, by dotted name."""
    given: dict[str, Any] = {}
    for setting in setting_names():
        if any(line == setting or line.startswith(f"{setting}.") for line in loaded.lines):
            value: Any = loaded.plain
            for part in setting.split("."):
                value = value[part]
            given[setting] = value
    return given


def _headings(sections: Sequence[str], before: Sequence[str]) -> list[str]:
    """The lines that open a section; of a section within one that is open, its own alone."""
    known = sections[: len(before)] == list(before) and before != [""]
    opened = len(before) if known else 0
    return [f"{'  ' * level}{sections[level]}:" for level in range(opened, len(sections))]


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").rstrip("\n")


def _one_line(text: str) -> str:
    """Names come from files: none of them ends a comment."""
    return " ".join(text.split())


def _sizes(spacing_mm: Sequence[float]) -> str:
    return "x".join(f"{size:.3g}" for size in spacing_mm)
