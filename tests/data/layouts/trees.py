"""Tiny trees of every layout that carries no dataset.json."""

import csv

from tests.data.nifti_files import image_of, label_of, save, write_json

SHAPE = (6, 5, 4)
OLD, NEW = ("flair", "t1", "t1ce", "t2"), ("t2f", "t1n", "t1c", "t2w")


def brats(root, cases, *, values=(0, 1, 2, 3), labelled=True, ending=".nii.gz"):
    """Cases by their paths below the root; the names of the files follow from the cases'."""
    for seed, case in enumerate(cases):
        name = case.rsplit("/", 1)[-1]
        old = not name.startswith("BraTS-")
        mark = "_" if old else "-"
        for channel, kind in enumerate(OLD if old else NEW):
            path = root / case / f"{name}{mark}{kind}{ending}"
            save(path, image_of(SHAPE, 10 * seed + channel))
        if labelled:
            save(root / case / f"{name}{mark}seg{ending}", label_of(SHAPE, values, seed))
    return root


def bids(root, cases, *, channels=("dwi", "adc"), label="msk", raw="", derived="derivatives"):
    """Cases as (subject, session); session "" for none."""
    for seed, (subject, session) in enumerate(cases):
        folder, stem = f"sub-{subject}", f"sub-{subject}"
        if session:
            folder, stem = f"{folder}/ses-{session}", f"{stem}_ses-{session}"
        for number, channel in enumerate(channels):
            save(
                root / raw / folder / "anat" / f"{stem}_{channel}.nii.gz",
                image_of(SHAPE, 10 * seed + number),
            )
        if label:
            save(root / derived / folder / f"{stem}_{label}.nii.gz", label_of(SHAPE, seed=seed))
    return root


def plain(root, image_paths, label_paths=()):
    for seed, path in enumerate(image_paths):
        save(root / path, image_of(SHAPE, seed))
    for seed, path in enumerate(label_paths):
        save(root / path, label_of(SHAPE, seed=seed))
    return root


def write_rows(path, rows, delimiter=","):
    """Rows as dictionaries, in a CSV file, or in a JSON file by its ending."""
    if path.suffix == ".json":
        return write_json(path, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
