"""From a folder to a data set, or to the cases to predict. One file a layout; this one chooses."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from segfocal.data.cases import Case, Dataset
from segfocal.data.layouts.bids import is_bids, read_bids
from segfocal.data.layouts.brats import is_brats, read_brats
from segfocal.data.layouts.case_list import LIST_ENDINGS, LIST_NAMES, find_list, read_list
from segfocal.data.layouts.contradiction import contradiction
from segfocal.data.layouts.descriptor import FILE_NAME, Descriptor, Labels, told_scheme
from segfocal.data.layouts.folder import list_file, list_folder, volume_files
from segfocal.data.layouts.found import Exclusion, FileRules, Found
from segfocal.data.layouts.label_values import scheme_of_values
from segfocal.data.layouts.msd import list_tests, read_msd
from segfocal.data.layouts.nnunet import read_nnunet
from segfocal.data.layouts.pattern import fits_images, is_folder, read_folder
from segfocal.data.nifti_header import MAX_VOXELS
from segfocal.data.partial import declare_partial
from segfocal.errors import SegfocalWarning, UserError
from segfocal.labels import LabelScheme

Layout = Literal["auto", "msd", "nnunet", "brats", "bids", "list", "csv", "folder"]

LAYOUTS = ("msd", "nnunet", "brats", "bids", "list", "folder")
"""Every layout that can be named; `csv` is another name for `list`."""

_RULES = {
    "case_list": ("list",),
    "image_pattern": ("folder",),
    "label_pattern": ("folder", "bids"),
}
"""The layouts in which each rule means something."""

_IMAGE_FOLDERS = ("imagesTs", "imagesTr")
_LOOKED_FOR = (
    f"{FILE_NAME} (MSD, nnU-Net), {' or '.join(LIST_NAMES)} (list), BraTS*/BraTS*_flair files "
    f"(BraTS), sub-* folders (BIDS), folders images and labels (folder)"
)


def read_dataset(
    root: Path,
    layout: Layout = "auto",
    labels: Labels | None = None,
    regions_class_order: Sequence[int] | None = None,
    ignore_values: Sequence[int] = (),
    *,
    rules: FileRules | None = None,
    exclude: Sequence[str] = (),
    partial: Mapping[str, Sequence[str]] | None = None,
    keep_incomplete: bool = False,
    max_voxels: int = MAX_VOXELS,
) -> Dataset:
    """The labelled cases of a data set and what their values mean.

    Only names are read here; `data.verify` opens the volumes. With labels `auto` every label is
    read once.

    Args:
        root: Folder of the data set.
        layout: How the files lie in it; `auto` finds out.
        labels: None for what dataset.json or the layout declares; a preset of `LabelScheme`;
            `auto` for the values that the labels hold; names and values.
        regions_class_order: For regions, the value painted for each.
        ignore_values: Label values that nobody annotated, besides the one named `ignore`.
        rules: Channels, list and patterns, where names alone do not tell.
        exclude: Ids of cases to leave out, or patterns of them.
        partial: For cases annotated in part, what they were annotated for
            (`partial.declare_partial`).
        keep_incomplete: Keep cases that lack files, with what they have and lack, pass over files
            and rows that no case can be made of (`Dataset.faults`), and let `auto` pass over labels
            that cannot be read: for a survey, which tells of each. Otherwise the first such thing
            is an error.
        max_voxels: For `auto`: voxels of a label above which its header is not believed.

    Raises:
        UserError: One line that names the file and what to do.
    """
    rules = rules or FileRules()
    skip = Exclusion(exclude)
    if layout == "csv":
        layout = "list"
    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"data.layout: expected auto, {', '.join(LAYOUTS)}, got {layout!r}.")
    chosen = detect_layout(root, rules) if layout == "auto" else layout
    _check_rules(chosen, rules)
    descriptor = Descriptor.read(root) if chosen in ("msd", "nnunet") else None
    if descriptor is None and not root.is_dir():
        raise UserError(f"{root}: does not exist. Expected the folder of a data set.")
    try:
        found = _read(chosen, root, descriptor, rules, skip)
    except UserError:
        skip.check_leaves_some()
        raise
    skip.check_met()
    if not keep_incomplete:
        found.complete()
    if labels == "auto":
        ignored = (*ignore_values, *(() if descriptor is None else descriptor.ignored))
        scheme = scheme_of_values(
            found.cases, ignored, max_voxels=max_voxels, skip_unreadable=keep_incomplete
        )
        labels_from = "data.labels: auto, the values found"
    else:
        scheme, labels_from = _scheme(
            found, descriptor, labels, regions_class_order, ignore_values, root
        )
    name = root.resolve().name if descriptor is None else descriptor.name
    return Dataset(
        name,
        root,
        chosen,
        found.channels,
        scheme,
        declare_partial(found.cases, partial or {}, scheme),
        "PHANTOM" in name.upper() if descriptor is None else descriptor.synthetic,
        labels_from,
        found.faults,
    )


def detect_layout(root: Path, rules: FileRules | None = None) -> str:
    """The one layout that a folder, or what the config says of its files, shows.

    Raises:
        UserError: If there is none, or more than one; the line tells what was looked for.
    """
    rules = rules or FileRules()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"{root}: {what}. Expected the folder of a data set.")
    if rules.case_list is not None:
        return "list"
    if rules.image_pattern is not None:
        return "folder"
    shown = {}
    if (root / FILE_NAME).is_file():
        plain = Descriptor.read(root).plain
        is_msd = "training" in plain and "file_ending" not in plain
        shown["msd" if is_msd else "nnunet"] = FILE_NAME
    listed = find_list(root)
    if listed is not None:
        shown["list"] = listed.name
    if is_brats(root):
        shown["brats"] = "files named as BraTS names them"
    if is_bids(root):
        shown["bids"] = "sub-* folders"
    if is_folder(root):
        shown["folder"] = "folders images and labels"
    if len(shown) == 1:
        return next(iter(shown))
    if shown:
        told = ", ".join(f"{what} ({name})" for name, what in shown.items())
        raise UserError(
            f"{root}: shows more than one layout: {told}. Set data.layout to the one to read."
        )
    held = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    holds = ", ".join(held[:4]) + (f" and {len(held) - 4} more" if len(held) > 4 else "")
    raise UserError(
        f"{root}: no layout was recognised. Looked for {_LOOKED_FOR}; it holds "
        f"{holds or 'nothing'}. Is it one folder further down? Else write a list (data.case_list) "
        f"or patterns (data.image_pattern)."
    )


def list_inputs(
    path: Path,
    channels: Sequence[str],
    *,
    image_pattern: str | Mapping[str, str] | None = None,
    label_pattern: str | None = None,
) -> list[Case]:
    """The cases to predict, without labels, sorted by id.

    Args:
        path: An MSD folder (its `test` list), an nnU-Net, BraTS or BIDS folder, a list of cases or
            the folder of one that is called as usual, a folder of volumes (one a case, or
            `CASE_0000.nii.gz` one a channel), or one file. Of a data set without a test list,
            imagesTs is taken, and imagesTr where there is none.
        channels: Name of every channel in a case's files, in file order.
        image_pattern: How the training's images were found; taken where it fits files here too, or
            where their names do, in whatever folders, if a name tells both case and channel.
        label_pattern: How its labels were found: what fits it beside such images is none of them.

    Raises:
        UserError: If there is nothing to predict, a file is missing, or a dataset.json beside the
            images names other channels.
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist. Expected a volume or a folder of them.")
    folder = path.parent if path.is_file() else path
    if folder.name in _IMAGE_FOLDERS and (folder.parent / FILE_NAME).is_file():
        _check_channels(Descriptor.read(folder.parent), channels)
    if path.is_file():
        if path.suffix.lower() in LIST_ENDINGS:
            rules = FileRules(channels, case_list=path)
            return list(read_list(folder, rules, Exclusion(), labelled=False).complete().cases)
        return list_file(path, channels)
    if not (path / FILE_NAME).is_file():
        return _list_elsewhere(path, channels, image_pattern, label_pattern)
    descriptor = Descriptor.read(path)
    _check_channels(descriptor, channels)
    listed = list_tests(descriptor)
    if listed:
        return listed
    for name in _IMAGE_FOLDERS:
        if (path / name).is_dir():
            return list_folder(path / name, channels)
    raise descriptor.error(
        "has no test list, and there is neither imagesTs nor imagesTr beside it. Pass the folder "
        "that holds the images."
    )


def _list_elsewhere(
    path: Path,
    channels: Sequence[str],
    image_pattern: str | Mapping[str, str] | None,
    label_pattern: str | None,
) -> list[Case]:
    """The cases of a folder without dataset.json."""
    rules = FileRules(channels, image_pattern=image_pattern)
    if is_brats(path):
        return _brats_inputs(path, channels)
    if is_bids(path):
        return list(read_bids(path, rules, Exclusion(), labelled=False).complete().cases)
    names = None
    if isinstance(image_pattern, str):
        name = image_pattern.rpartition("/")[2]
        names = f"**/{name}" if "{case}" in name and "{channel}" in name else None
    for pattern, of_labels in ((image_pattern, label_pattern), (names, None)):
        rules = FileRules(channels, image_pattern=pattern, label_pattern=of_labels)
        if pattern is not None and fits_images(path, rules):
            return list(read_folder(path, rules, Exclusion(), labelled=False).complete().cases)
    listed = find_list(path)
    if listed is not None and not volume_files(path):
        rules = FileRules(channels, case_list=listed)
        return list(read_list(path, rules, Exclusion(), labelled=False).complete().cases)
    return list_folder(path, channels)


def _brats_inputs(path: Path, channels: Sequence[str]) -> list[Case]:
    """BraTS folders, their files in the order of the checkpoint's channels."""
    found = read_brats(path, Exclusion(), labelled=False).complete()
    held = [name.casefold() for name in found.channels]
    if not {name.casefold() for name in channels} <= set(held):
        raise UserError(
            f"Channels: {path} has {','.join(found.channels)}; the checkpoint expects "
            f"{','.join(channels)}. Add the files that are missing."
        )
    order = [held.index(name.casefold()) for name in channels]
    return [Case(c.case_id, tuple(c.images[i] for i in order), None) for c in found.cases]


def _check_rules(layout: str, rules: FileRules) -> None:
    """Refuses a rule that the layout would pass over in silence."""
    for name, layouts in _RULES.items():
        if getattr(rules, name) is not None and layout not in layouts:
            raise UserError(
                f"data.{name}: means nothing in layout {layout}. Take it out, or set data.layout: "
                f"{' or '.join(layouts)}."
            )


def _read(
    layout: str, root: Path, descriptor: Descriptor | None, rules: FileRules, skip: Exclusion
) -> Found:
    if descriptor is not None:
        return (read_msd if layout == "msd" else read_nnunet)(descriptor, skip)
    if layout == "brats":
        return read_brats(root, skip)
    if layout == "bids":
        return read_bids(root, rules, skip)
    if layout == "list":
        return read_list(root, rules, skip)
    return read_folder(root, rules, skip)


def _scheme(
    found: Found,
    descriptor: Descriptor | None,
    labels: Labels | None,
    regions_class_order: Sequence[int] | None,
    ignore_values: Sequence[int],
    root: Path,
) -> tuple[LabelScheme, str]:
    """What the values mean, and who says so."""
    if descriptor is not None:
        scheme = descriptor.scheme(labels, regions_class_order, ignore_values)
        if labels is None:
            return scheme, FILE_NAME
        _doubt_labels(scheme, _told(labels), descriptor)
        return scheme, _told(labels)
    if labels is None:
        if found.preset is None:
            raise UserError(
                f"{root}: data.labels is not set, and these files do not tell what their values "
                f"mean. Write data.labels: {{background: 0, lesion: 1}}, a preset, or auto for the "
                f"values found."
            )
        return LabelScheme.preset(found.preset, ignore_values), (
            f"{found.preset}, {found.preset_reason}"
        )
    return told_scheme(labels, regions_class_order, ignore_values), _told(labels)


def _doubt_labels(said: LabelScheme, who: str, descriptor: Descriptor) -> None:
    """Warns where data.labels and dataset.json cannot both be right."""
    try:
        declared = descriptor.scheme(None, None, ())
    except UserError:
        return  # what it says of labels cannot be read, and need not be
    line = contradiction(said, who, declared)
    if line:
        warnings.warn(f"{descriptor.path}: {line}", SegfocalWarning, stacklevel=4)


def _told(labels: Labels) -> str:
    return f"data.labels: {labels}" if isinstance(labels, str) else "data.labels"


def _check_channels(descriptor: Descriptor, channels: Sequence[str]) -> None:
    declared = descriptor.channels()
    theirs, ours = ([name.casefold() for name in names] for names in (declared, channels))
    if theirs == ours:
        return
    same = sorted(theirs) == sorted(ours)
    by_name = (
        f"Name each channel's file in a list beside dataset.json (a .csv with the columns "
        f"id,{','.join(channels)}) and pass that as -i; files that hold all channels have to be "
        f"written anew, in that order."
    )
    what, cure = (
        ("Channel order", by_name)
        if same
        else ("Channels", "Only images with these channels can be segmented by it.")
    )
    raise UserError(
        f"{what}: {descriptor.path} has {','.join(declared)}; the checkpoint expects "
        f"{','.join(channels)}. {cure}"
    )
