"""From a folder to a data set, or to the cases to predict. One file a layout; this one chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segfocal.data.cases import Case, Dataset
from segfocal.data.layouts.descriptor import FILE_NAME, Descriptor, Labels
from segfocal.data.layouts.folder import list_file, list_folder
from segfocal.data.layouts.msd import list_tests, read_msd
from segfocal.data.layouts.nnunet import read_nnunet
from segfocal.errors import UserError

Layout = Literal["auto", "msd", "nnunet"]

_IMAGE_FOLDERS = ("imagesTs", "imagesTr")


def read_dataset(
    root: Path,
    layout: Layout = "auto",
    labels: Labels | None = None,
    regions_class_order: Sequence[int] | None = None,
    ignore_values: Sequence[int] = (),
) -> Dataset:
    """The labelled cases of a data set and what its dataset.json declares.

    Only names are read here; `data.verify` opens the volumes.

    Args:
        root: Folder with dataset.json.
        layout: `auto` takes a list `training` without `file_ending` for MSD, else nnU-Net.
        labels: None for what dataset.json declares; a preset of `LabelScheme`; names and values.
        regions_class_order: For regions, the value painted for each.
        ignore_values: Label values that nobody annotated, besides the one named `ignore`.

    Raises:
        UserError: One line that names the file and what to do.
    """
    descriptor = Descriptor.read(root)
    if layout == "auto":
        msd = "training" in descriptor.plain and "file_ending" not in descriptor.plain
        layout = "msd" if msd else "nnunet"
    if layout not in ("msd", "nnunet"):
        raise UserError(f"data.layout: expected auto, msd or nnunet, got {layout!r}.")
    read = read_msd if layout == "msd" else read_nnunet
    return read(descriptor, labels, regions_class_order, ignore_values)


def list_inputs(path: Path, channels: Sequence[str]) -> list[Case]:
    """The cases to predict, without labels, sorted by id.

    Args:
        path: An MSD folder (its `test` list), an nnU-Net folder, a folder of NIfTI files (one a
            case, or `CASE_0000.nii.gz` one a channel), or one file. Of a data set without a test
            list, imagesTs is taken, and imagesTr where there is none.
        channels: Name of every channel in a case's files, in file order.

    Raises:
        UserError: If there is nothing to predict, a file is missing, or a dataset.json beside the
            images names other channels.
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist. Expected a NIfTI file or a folder of them.")
    folder = path.parent if path.is_file() else path
    if folder.name in _IMAGE_FOLDERS and (folder.parent / FILE_NAME).is_file():
        _check_channels(Descriptor.read(folder.parent), channels)
    if path.is_file():
        return list_file(path, channels)
    if not (path / FILE_NAME).is_file():
        return list_folder(path, channels)
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


def _check_channels(descriptor: Descriptor, channels: Sequence[str]) -> None:
    declared = descriptor.channels()
    if [name.casefold() for name in declared] == [name.casefold() for name in channels]:
        return
    what = "Channel order" if sorted(declared) == sorted(channels) else "Channels"
    raise UserError(
        f"{what}: {descriptor.path} has {','.join(declared)}; the checkpoint expects "
        f"{','.join(channels)}. Set data.channels."
    )
