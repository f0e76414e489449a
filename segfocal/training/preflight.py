"""Everything about config and data that can be wrong, checked before torch loads or a file is made.

Reads every header and every label, so that a run that starts does not stop at case 312.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segfocal.config.load import LoadedConfig
from segfocal.config.schema import AlphaScheme, Config
from segfocal.data.cases import Case, Dataset, channel_indices
from segfocal.data.defects import Problem
from segfocal.data.header_defects import CaseGrid
from segfocal.data.layouts import read_dataset
from segfocal.data.layouts.found import FileRules
from segfocal.data.partial import annotated_outputs, annotated_targets
from segfocal.data.spacing import SpacingRange, spacing_range
from segfocal.data.split import Split
from segfocal.data.verify import blank_channels, load_case, verify_headers
from segfocal.errors import UserError
from segfocal.statistics.class_alpha import ClassAlpha
from segfocal.statistics.partial_labels import partial_class_alpha, partial_region_alpha
from segfocal.statistics.voxel_counts import VoxelCounts
from segfocal.training.label_counts import OnCase, add_lesions, count_labels
from segfocal.training.run_split import split_of_run

_FEWEST_VOXELS = 4
"""Along an axis after resampling: less is a spacing in the wrong unit or order."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, verified.

    Attributes:
        dataset: The cases and what they mean.
        channels: Channels the network sees, in its order.
        split: Which cases train and which validate.
        counts: Voxels of the training split; its lesions where `loss.alpha` is derived from them.
        alpha: Weights derived from them; None where the config gives its own or none.
        doubts: What headers and labels have against cases, and may be as it should be.
        spacing_mm: Smallest and largest voxel size of the training files along R, A, S.
        absent: Outputs of the network that have no voxel in the training split.
    """

    dataset: Dataset
    channels: tuple[str, ...]
    split: Split
    counts: VoxelCounts
    alpha: ClassAlpha | None
    doubts: tuple[Problem, ...] = ()
    spacing_mm: SpacingRange | None = None
    absent: tuple[str, ...] = ()

    @property
    def annotated(self) -> dict[str, tuple[bool, ...]]:
        """For each case, whether it says anything of each network output."""
        return annotated(self.dataset)

    @property
    def annotated_targets(self) -> dict[str, tuple[bool, ...]]:
        """For each case, whether it was annotated for each target that is scored."""
        scheme = self.dataset.scheme
        return {c.case_id: annotated_targets(scheme, c.annotated) for c in self.dataset.cases}

    def cases(self, ids: Sequence[str]) -> list[Case]:
        """The cases of these ids, in their order."""
        by_id = {case.case_id: case for case in self.dataset.cases}
        return [by_id[case_id] for case_id in ids]


def annotated(dataset: Dataset) -> dict[str, tuple[bool, ...]]:
    """For each case of a data set, whether it says anything of each network output."""
    return {
        case.case_id: annotated_outputs(dataset.scheme, case.annotated) for case in dataset.cases
    }


def open_dataset(
    loaded: LoadedConfig, *, keep_incomplete: bool = False
) -> tuple[Dataset, tuple[str, ...]]:
    """The data set a config names, and the channels the network will see.

    Args:
        loaded: The config.
        keep_incomplete: As in `read_dataset`: for a survey.

    Raises:
        UserError: If the folder does not exist, or dataset.json and config do not agree.
    """
    data = loaded.config.data
    if not data.root.is_dir():
        what = "is a file; expected a folder" if data.root.exists() else "does not exist"
        where = "" if data.root.is_absolute() else " Relative paths count from the current folder."
        raise loaded.error(
            "data.root", f"{data.root} {what}. Pass --set data.root=... or try --demo.{where}"
        )
    ignore = loaded.config.loss.ignore_index
    ignore_values = [ignore] if isinstance(ignore, int) else list(ignore or [])
    with loaded.placing():
        dataset = read_dataset(
            data.root,
            data.layout,
            data.labels,
            regions_class_order=data.regions_class_order,
            ignore_values=ignore_values,
            rules=FileRules(data.channels, data.case_list, data.image_pattern, data.label_pattern),
            exclude=data.exclude,
            partial=data.partial,
            keep_incomplete=keep_incomplete,
            max_voxels=data.max_voxels,
        )
        wanted = tuple(data.channels) if data.channels is not None else dataset.channels
        channel_indices(dataset.channels, wanted)
        _check_per_output(loaded, dataset)
        _check_foreground_weights(loaded, dataset)
    return dataset, wanted


def preflight(
    loaded: LoadedConfig, split_path: Path | None = None, on_case: OnCase = lambda _d, _n: None
) -> Plan:
    """Checks data against config, case by case.

    Args:
        loaded: The config.
        split_path: A split.json to reuse (a resumed run's), before `data.split`.
        on_case: Called with (cases done, cases) as labels are read.

    Raises:
        UserError: For the first mistake, in one line.
    """
    config = loaded.config
    dataset, channels = open_dataset(loaded)
    split = split_of_run(loaded, dataset, split_path)
    _check_known_outputs(dataset, split)
    cases = {case.case_id: case for case in dataset.cases}
    doubts: list[Problem] = []
    grids = [
        verify_headers(
            cases[case_id],
            dataset.channels,
            channel_dim=config.data.channel_dim,
            affine_tolerance_mm=config.data.affine_tolerance_mm,
            resample_channels=config.data.resample_channels,
            max_voxels=config.data.max_voxels,
            doubts=doubts,
        )
        for case_id in (*split.train, *split.val)
    ]
    training_grids = grids[: len(split.train)]
    _check_resampled(loaded, grids)
    if not config.data.pad:
        _check_patch(loaded, training_grids)
    counts = _count(config, dataset, split, on_case, doubts)
    alpha = _alpha(loaded, dataset, counts)
    return Plan(
        dataset,
        channels,
        split,
        counts,
        alpha,
        tuple(doubts),
        spacing_range([grid.spacing_ras_mm for grid in training_grids]),
        absent_outputs(counts),
    )


def check_images(loaded: LoadedConfig, plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """Reads every image that the run would read, for a dry run: a run does so as it loads them.

    Returns:
        The cases with channels that hold one value in every voxel, and which these are.

    Raises:
        UserError: For the first one that is damaged or holds what is no number, in one line.
    """
    data = loaded.config.data
    select = channel_indices(plan.dataset.channels, plan.channels)

    def read(case: Case) -> tuple[str, tuple[str, ...]]:
        image = load_case(
            dataclasses.replace(case, label=None),
            plan.dataset.scheme,
            plan.dataset.channels,
            select=select,
            channel_dim=data.channel_dim,
            affine_tolerance_mm=data.affine_tolerance_mm,
            resample_channels=data.resample_channels,
            max_voxels=data.max_voxels,
        ).image
        return case.case_id, blank_channels(image, plan.channels)

    cases = plan.cases((*plan.split.train, *plan.split.val))
    with ThreadPoolExecutor(2) as pool:
        return [(case_id, blank) for case_id, blank in pool.map(read, cases) if blank]


def _count(
    config: Config, dataset: Dataset, split: Split, on_case: OnCase, doubts: list[Problem]
) -> VoxelCounts:
    """Voxels, and lesions where alpha is derived from them: then training labels are read twice."""
    by_lesions = isinstance(config.loss.alpha, str) and config.loss.alpha_unit == "lesions"
    labels = len(split.train) + len(split.val)
    total, most = labels + by_lesions * len(split.train), config.data.max_voxels
    counts = count_labels(dataset, split, most, lambda done, _: on_case(done, total), doubts)
    if by_lesions:
        add_lesions(dataset, counts, most, lambda done, _: on_case(labels + done, total))
    return counts


def _alpha(loaded: LoadedConfig, dataset: Dataset, counts: VoxelCounts) -> ClassAlpha | None:
    """Weights by the scheme the config names."""
    loss = loaded.config.loss
    if not isinstance(loss.alpha, str):
        return None
    derive = partial_region_alpha if dataset.scheme.regions else partial_class_alpha
    scheme: AlphaScheme = loss.alpha
    try:
        return derive(
            counts,
            annotated(dataset),
            scheme,
            beta=loss.alpha_beta,
            unit=loss.alpha_unit,
            max_ratio=loss.alpha_max_ratio,
        )
    except UserError as error:
        said, is_alphas, what = str(error).partition("alpha: ")
        if said or not is_alphas:
            raise
        setting = "loss.alpha" if loss.alpha_beta is None else "loss.alpha_beta"
        raise loaded.error(setting, what) from None


def absent_outputs(counts: VoxelCounts) -> tuple[str, ...]:
    """Names of the outputs that no counted voxel belongs to."""
    scheme = counts.scheme
    members = scheme.region_table or tuple((index,) for index in range(scheme.num_classes))
    return tuple(
        name
        for name, classes in zip(scheme.output_names, members, strict=True)
        if not sum(int(counts.voxels[index]) for index in classes)
    )


def _check_known_outputs(dataset: Dataset, split: Split) -> None:
    """Every output has a training case that says something of it."""
    known = annotated(dataset)
    for channel, name in enumerate(dataset.scheme.output_names):
        if not any(known[case_id][channel] for case_id in split.train):
            raise UserError(
                f"No training case is annotated for {name}: nothing to learn it from. Change the "
                f"split, drop {name} from data.labels, or mend data.partial."
            )


def _check_per_output(loaded: LoadedConfig, dataset: Dataset) -> None:
    """Lists in the loss have one entry per network channel."""
    scheme, loss = dataset.scheme, loaded.config.loss
    for name, given in (("alpha", loss.alpha), ("gamma", loss.gamma)):
        if isinstance(given, list) and len(given) != scheme.num_outputs:
            raise loaded.error(
                f"loss.{name}",
                f"expected {scheme.num_outputs} numbers, one for each of "
                f"{', '.join(scheme.output_names)}, got {len(given)}.",
            )


def _check_foreground_weights(loaded: LoadedConfig, dataset: Dataset) -> None:
    """Weights name classes, and leave one to draw."""
    weights, names = loaded.config.train.foreground_weights, dataset.scheme.names[1:]
    if weights is None:
        return
    for name in weights:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise loaded.error(
                "train.foreground_weights",
                f"{name} is not a foreground class; there are {', '.join(names)}."
                + (f" Did you mean {near[0]}?" if near else ""),
            )
    if not any(weights.get(name, 1.0) for name in names):
        raise loaded.error(
            "train.foreground_weights",
            "every class has weight 0. Give one more, or set train.foreground_fraction: 0.",
        )


def _check_resampled(loaded: LoadedConfig, grids: Sequence[CaseGrid]) -> None:
    """No case becomes larger than memory or loses its shape at `data.spacing_mm`."""
    data = loaded.config.data
    if data.spacing_mm is None:
        return
    for grid in grids:
        shape = _ras_shape(grid, data.spacing_mm)
        lost = any(
            few < _FEWEST_VOXELS and 2 * few < had
            for few, had in zip(shape, grid.shape_ras, strict=True)
        )
        if not lost and math.prod(shape) <= data.max_voxels:
            continue
        raise loaded.error(
            "data.spacing_mm",
            f"makes {_times(shape)} voxels of {grid.case_id} ({_times(grid.shape_ras)} of "
            f"{'x'.join(f'{size:.3g}' for size in grid.spacing_ras_mm)} mm); expected at least "
            f"{_FEWEST_VOXELS} along each axis and at most data.max_voxels ({data.max_voxels}). "
            f"Set it in mm along R, A, S.",
        )


def _check_patch(loaded: LoadedConfig, grids: Sequence[CaseGrid]) -> None:
    """Without padding, every training volume must hold a patch."""
    config = loaded.config
    patch = config.train.patch_size
    shapes = [_ras_shape(grid, config.data.spacing_mm) for grid in grids]
    smallest = [min(shape[axis] for shape in shapes) for axis in range(3)]
    for grid, shape in zip(grids, shapes, strict=True):
        if any(p > s for p, s in zip(patch, shape, strict=True)):
            raise loaded.error(
                "train.patch_size",
                f"Patch {_times(patch)} is larger than {grid.case_id} ({_times(shape)}). "
                f"Use data.pad: true or a patch <= {smallest}.",
            )


def _ras_shape(grid: CaseGrid, spacing_mm: Sequence[float] | None) -> tuple[int, ...]:
    """Axis lengths along R, A, S, after resampling to `spacing_mm`.

    As MONAI's Spacing counts them: from the centre of the first voxel to that of the last, and
    along axes that a sheared grid's are made perpendicular to.
    """
    if spacing_mm is None:
        return grid.shape_ras
    axes = grid.affine[:3, grid.axes_ras]
    steps = np.abs(np.linalg.cholesky(axes.T @ axes).T)
    lengths = steps @ (np.array(grid.shape_ras) - 1)
    return tuple(round(float(length)) for length in lengths / spacing_mm + 1)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
