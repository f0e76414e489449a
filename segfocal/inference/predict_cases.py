"""A checkpoint and a folder of images to label files: what segfocal-predict runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segfocal.config.load import infer_of
from segfocal.config.schema import check_device
from segfocal.data.cases import Case
from segfocal.data.defects import DefectError, Problem
from segfocal.data.header_defects import CaseGrid
from segfocal.data.layouts import list_inputs
from segfocal.data.nifti import write_array, write_label
from segfocal.data.nifti_header import MAX_VOXELS, SUFFIXES, case_stem
from segfocal.data.phantom.stamp import STAMP
from segfocal.data.spacing import is_outside, range_text, spacing_range
from segfocal.data.verify import blank_channels, verify_headers
from segfocal.errors import RunFailedError, UserError
from segfocal.files import check_checkpoint_path, make_writable
from segfocal.imports import without_collections
from segfocal.inference.held_out import held_out_groups
from segfocal.inference.probability_files import PROBABILITIES, probability_stem
from segfocal.labels import ClassMap, LabelScheme

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    from segfocal.checkpoint import Checkpoint
    from segfocal.inference.predictor import Predictor

_SHOWN = 10
"""Cases that a warning names."""

_AXES = ("first", "second", "third", "fourth")

Say = Callable[[str], None]
"""Takes one line."""


@dataclass(frozen=True)
class PredictRequest:
    """The arguments of segfocal-predict.

    Attributes:
        checkpoints: `best.pt` or `last.pt` of a run; several are an ensemble.
        source: Data set, folder or file with the images.
        output: Folder for the labels.
        tta: `none` or `flips`; None is what the run declares.
        device: auto, cpu, cuda or cuda:N.
        go_on: Leave what `output` already holds; else that is the user's mistake.
        probabilities: Write the probability of each output too, which takes the memory for all of
            them.
        held_out: Predict each case by the checkpoints whose runs validated on it, and leave out
            the others.
        overrides: `infer.setting=value` strings over the settings of the runs.
    """

    checkpoints: Sequence[Path]
    source: Path
    output: Path
    tta: str | None = None
    device: str = "auto"
    go_on: bool = False
    probabilities: bool = False
    held_out: bool = False
    overrides: Sequence[str] = ()


def _say_nothing(_line: str) -> None:
    pass


def _warn(line: str) -> None:
    sys.stderr.write(f"warning: {line}\n")


def predict_cases(
    request: PredictRequest, say: Say = _say_nothing, warn: Say = _warn
) -> list[Path]:
    """Segments every case of `source`; one label file each, on the source's own grid.

    Probabilities go to the folder `probabilities` beside the labels, one float32 file for each
    output of the network: `CASE_OUTPUT.nii.gz`.

    Args:
        request: What to do.
        say: Gets a line a case, and one at the end.
        warn: Gets what a user should know: why a case was passed over, voxels of an unknown size,
            blank channels.

    Returns:
        The files, written now or found with `go_on`.

    Raises:
        UserError: For a missing or damaged checkpoint or image, channels that do not fit, an
            output that would be overwritten or cannot be written. All headers are checked before
            the first case.
        RunFailedError: At the end, if cases with damaged voxels were passed over, with their
            names; at once, if a label could not be written.
    """
    _check_request(request)
    with without_collections():
        from segfocal.checkpoint import load_checkpoint
        from segfocal.inference.ensemble import check_alike
    loaded = {path: load_checkpoint(path) for path in request.checkpoints}
    check_alike(loaded)
    checkpoint = loaded[request.checkpoints[0]]
    _tell_overrides(request.overrides, checkpoint, say, warn)
    cases = list_inputs(
        request.source,
        checkpoint.file_channels,
        image_pattern=checkpoint.config["data"].get("image_pattern"),
        label_pattern=checkpoint.config["data"].get("label_pattern"),
    )
    groups = _groups(request, cases, say)
    cases = [case for group in groups.values() for case in group]
    targets = {case.case_id: request.output / f"{case.case_id}.nii.gz" for case in cases}
    _refuse_overwriting(cases, list(targets.values()), request)
    doubts: list[Problem] = []
    grids = _check_headers(cases, checkpoint, doubts)
    _tell_doubts(doubts, warn)
    _doubt_spacing(grids, checkpoint, warn)
    if request.probabilities:
        _refuse_shared_maps(targets, checkpoint.scheme)
        _doubt_probabilities(targets, checkpoint.scheme, warn)
    with without_collections():
        from segfocal.inference.predictor import Predictor
    synthetic = any(member.synthetic for member in loaded.values())
    failed = []
    number = 0
    for members, group in groups.items():
        predictor = Predictor.from_checkpoint(
            *(loaded[path] for path in members),
            device=request.device,
            tta=request.tta,
            overrides=request.overrides,
        )
        make_writable(request.output)
        if request.probabilities:
            make_writable(request.output / PROBABILITIES)
        for case in group:
            number += 1
            target = targets[case.case_id]
            if target.exists():
                continue
            try:
                told = _predict(
                    case,
                    target,
                    predictor,
                    with_probabilities=request.probabilities,
                    synthetic=synthetic,
                    doubt=_doubt_blank(case.case_id, checkpoint.channels, warn),
                )
            except UserError as error:
                warn(str(error))
                failed.append(case.case_id)
            else:
                say(f"{number}/{len(cases)} {case.case_id} {told}")
    if failed:
        raise RunFailedError(
            f"{len(failed)} of {_some(len(cases), 'case')} could not be predicted: "
            f"{', '.join(failed)}. Mend that, then pass --continue."
        )
    say(f"{_some(len(cases), 'label file')} in {request.output}")
    if synthetic:
        say(f"Trained on a {STAMP}")
    return list(targets.values())


def _groups(
    request: PredictRequest, cases: Sequence[Case], say: Say
) -> dict[tuple[Path, ...], list[Case]]:
    """The cases by the checkpoints that predict them: all of them, unless cases were held out."""
    if not request.held_out:
        return {tuple(request.checkpoints): list(cases)}
    by_id = {case.case_id: case for case in cases}
    groups = held_out_groups(request.checkpoints, list(by_id))
    for members, ids in groups.items():
        say(f"held out by {', '.join(map(str, members))}: {_some(len(ids), 'case')}")
    left_out = len(by_id) - sum(map(len, groups.values()))
    if left_out:
        say(f"left out: {_some(left_out, 'case')} that no run validated on")
    return {members: [by_id[case_id] for case_id in ids] for members, ids in groups.items()}


def _check_request(request: PredictRequest) -> None:
    try:
        check_device(request.device)
    except ValueError as error:
        raise UserError(f"--device: {error}, got {request.device}.") from None
    for path in request.checkpoints:
        check_checkpoint_path("--ckpt", path)
    if len({path.resolve() for path in request.checkpoints}) < len(request.checkpoints):
        raise UserError("--ckpt: the same checkpoint twice. Give each member of an ensemble once.")
    if not request.source.exists():
        raise UserError(f"-i {request.source} does not exist.")
    is_file = request.output.exists() and not request.output.is_dir()
    if is_file or request.output.name.endswith(SUFFIXES):
        raise UserError(f"-o {request.output} is a file; it must be a folder.")


def _tell_overrides(overrides: Sequence[str], checkpoint: Checkpoint, say: Say, warn: Say) -> None:
    """What is said anew, beside what the run of the first checkpoint has.

    Raises:
        UserError: For a mistake in it.
    """
    own = infer_of(checkpoint.config).model_dump()
    changed = {
        name: value
        for name, value in infer_of(checkpoint.config, overrides).model_dump().items()
        if value != own[name]
    }
    for name, value in changed.items():
        say(f"infer.{name} {value} in place of {own[name]}")
    if "threshold" in changed and not checkpoint.scheme.regions:
        warn(
            "infer.threshold is of regions; this network has classes, of which the most probable "
            "is taken: it changes nothing."
        )


def _check_headers(
    cases: Sequence[Case], checkpoint: Checkpoint, doubts: list[Problem]
) -> list[CaseGrid]:
    """The grid of every case, once its header is one that the checkpoint's network can take."""
    data = checkpoint.config["data"]
    grids = []
    for case in cases:
        try:
            grid = verify_headers(
                case,
                checkpoint.file_channels,
                channel_dim=data["channel_dim"],
                affine_tolerance_mm=data["affine_tolerance_mm"],
                resample_channels=data.get("resample_channels", False),
                max_voxels=data.get("max_voxels", MAX_VOXELS),
                doubts=doubts,
            )
        except UserError as error:
            raise _without_settings(error, case.case_id, checkpoint) from None
        grids.append(grid)
    return grids


def _without_settings(error: UserError, case_id: str, checkpoint: Checkpoint) -> UserError:
    """The error of a header, without the cures by settings: those are the run's."""
    defect = error.__cause__
    if not isinstance(defect, DefectError) or not defect.fact:
        return error
    if defect.kind == "too-large":
        most = checkpoint.config["data"].get("max_voxels", MAX_VOXELS)
        return UserError(
            f"{case_id}: {defect.fact}, more than the {most} that the run of the checkpoint takes. "
            f"Mend the header, or crop the image if it is that large."
        )
    if defect.kind not in ("channels", "channel-axis"):
        return UserError(f"{case_id}: {defect.fact}")
    channels, channel_dim = checkpoint.file_channels, checkpoint.config["data"]["channel_dim"]
    axis = _AXES[3 if channel_dim is None else channel_dim]
    return UserError(
        f"{case_id}: {defect.fact}. The checkpoint reads {_some(len(channels), 'channel')} "
        f"({', '.join(channels)}) along the {axis} axis, as the files were that it was trained "
        f"on. Write the image so."
    )


def _tell_doubts(doubts: Sequence[Problem], warn: Say) -> None:
    """A line for each kind: the first case in full, the others by name."""
    for kind in dict.fromkeys(doubt.kind for doubt in doubts):
        alike = [doubt for doubt in doubts if doubt.kind == kind]
        others = [
            case for case in dict.fromkeys(d.case_id for d in alike) if case != alike[0].case_id
        ]
        warn(f"{alike[0]}" + (f" The same in {_listed(others)}." if others else ""))


def _refuse_shared_maps(targets: Mapping[str, Path], scheme: LabelScheme) -> None:
    """Refuses cases of which two would write their probabilities to one file."""
    whose: dict[Path, tuple[str, str]] = {}
    for case_id, target in targets.items():
        for path, output in zip(_maps(target, scheme), scheme.output_names, strict=True):
            other, its_output = whose.setdefault(path, (case_id, output))
            if other != case_id:
                raise UserError(
                    f"{path.name} would hold the probabilities of {its_output} of {other} and of "
                    f"{output} of {case_id}. Predict one of the two into another -o."
                )


def _doubt_probabilities(targets: Mapping[str, Path], scheme: LabelScheme, warn: Say) -> None:
    """Says which labels that stay (`--continue`) have no probabilities beside them."""
    without = [
        case_id
        for case_id, target in targets.items()
        if target.exists() and not all(path.is_file() for path in _maps(target, scheme))
    ]
    if without:
        warn(
            f"{_listed(without)}: predicted before, without probabilities; what is there stays as "
            f"it is. Remove the label to have both written, or take another -o."
        )


def _doubt_spacing(grids: Sequence[CaseGrid], checkpoint: Checkpoint, warn: Say) -> None:
    """Says where nothing is resampled and voxels are not of the size that was trained on."""
    trained = checkpoint.spacing_mm
    if trained is None or checkpoint.config["data"]["spacing_mm"] is not None:
        return
    odd = [grid for grid in grids if is_outside(grid.spacing_ras_mm, trained)]
    if not odd:
        return
    own = spacing_range([grid.spacing_ras_mm for grid in odd])
    warn(
        f"{_listed([grid.case_id for grid in odd])}: voxels of "
        f"{range_text(own)}; the network was trained on {range_text(trained)}, and nothing is "
        f"resampled (data.spacing_mm: null). Do not trust these labels unseen."
    )


def _doubt_blank(case_id: str, channels: Sequence[str], warn: Say) -> Callable[[MetaTensor], None]:
    """Takes a prepared image `(C, *S)` and says which channels have nothing in them to go by."""

    def doubt(image: MetaTensor) -> None:
        blank = blank_channels(image.numpy(), channels)
        if blank:
            warn(
                f"{case_id}: {', '.join(blank)} holds one value in every voxel. Was it converted "
                f"wrongly? Do not trust this label unseen."
            )

    return doubt


def _predict(
    case: Case,
    target: Path,
    predictor: Predictor,
    *,
    with_probabilities: bool,
    synthetic: bool,
    doubt: Callable[[MetaTensor], None],
) -> str:
    """Writes one label, after its probabilities; its time and volumes, for the eye.

    Raises:
        UserError: If the case's files are damaged, or it is too large for the memory here.
        RunFailedError: If the label cannot be written.
    """
    from segfocal.inference.device import is_out_of_memory

    began = time.monotonic()
    try:
        prepared = predictor.preprocessing(case)
        doubt(prepared["image"])
        if with_probabilities:
            classes, probabilities = predictor.predict_with_probabilities(prepared["image"])
        else:
            classes, probabilities = predictor.predict(prepared["image"]), None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error.__cause__ or error):  # MONAI's transforms wrap what fails
            raise
        raise UserError(
            f"{case.case_id}: out of memory on {predictor.device}. Try it on a machine with more"
            f"{'' if predictor.device.type == 'cpu' else ', or with --device cpu'}."
        ) from error
    scheme, channel_dim = predictor.scheme, predictor.preprocessing.load.channel_dim
    like = case.images[0]
    try:
        if probabilities is not None:
            for path, values in zip(_maps(target, scheme), probabilities, strict=True):
                write_array(
                    path, values.numpy(), like=like, channel_dim=channel_dim, synthetic=synthetic
                )
        write_label(
            target, scheme.decode(classes), like=like, channel_dim=channel_dim, synthetic=synthetic
        )
    except OSError as error:
        raise RunFailedError(
            f"{target} could not be written: {error.strerror}. Labels before it are complete; "
            f"pass --continue once there is room."
        ) from None
    volumes = _volumes(classes, prepared["voxel_mm3"], scheme)
    return f"{time.monotonic() - began:.1f} s · {volumes}"


def _maps(target: Path, scheme: LabelScheme) -> list[Path]:
    """The files for the probabilities of each output, beside the label's."""
    case_id, names = case_stem(target), scheme.output_names
    stems = [probability_stem(case_id, name, names) for name in names]
    return [target.parent / PROBABILITIES / f"{stem}.nii.gz" for stem in stems]


def _listed(case_ids: Sequence[str]) -> str:
    shown, more = case_ids[:_SHOWN], len(case_ids) - _SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _refuse_overwriting(
    cases: Sequence[Case], targets: Sequence[Path], request: PredictRequest
) -> None:
    for case, target in zip(cases, targets, strict=True):
        if any(target.exists() and target.samefile(image) for image in case.images):
            raise UserError(f"-o would overwrite the image {case.images[0]}. Use another folder.")
    output = request.output
    holders = {request.source, *(image.parent for case in cases for image in case.images)}
    if output.is_dir() and any(output.samefile(holder) for holder in holders):
        raise UserError(f"-o {output} is the folder of the images. Use another folder.")
    there = [target for target in targets if target.exists()]
    if there and not request.go_on:
        raise UserError(
            f"{there[0]} exists already ({len(there)} of {len(targets)} do). Pass --continue to "
            f"predict only what is missing, or -o for another folder."
        )


def _volumes(classes: ClassMap, voxel_mm3: float, scheme: LabelScheme) -> str:
    """Predicted millilitres of each target, for the eye."""
    voxel_ml = voxel_mm3 / 1000
    return " ".join(
        f"{name} {np.isin(classes, members).sum() * voxel_ml:.1f} ml"
        for name, members in zip(scheme.target_names, scheme.target_classes, strict=True)
    )
