"""Prediction in a script: sliding window, flips, an ensemble, probabilities, NIfTI files.

    python examples/05_inference.py [BEST.PT ...] [--images DIR]

Without arguments it first trains two tiny networks on the synthetic phantom, a few seconds each.
`Predictor` reads what a checkpoint says of itself (channels, intensities, window, labels), goes
over a volume window by window, and answers on the grid of the file, whatever its orientation and
spacing. `segfocal-predict` does all this by itself; a script is for what comes after.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from segfocal.checkpoint import load_checkpoint
from segfocal.data.layouts import list_inputs
from segfocal.data.nifti import write_array, write_label
from segfocal.inference.ensemble import check_alike
from segfocal.inference.predictor import Predictor

SETTINGS = (
    "network.args={init_filters: 8, blocks_down: [1, 1], blocks_up: [1]}",
    "train.patch_size=[24, 24, 16]",
    *("train.epochs=1", "train.steps_per_epoch=20", "data.val_fraction=0.25"),
)


def train_two(folder: Path) -> list[Path]:
    """Checkpoints of two runs on a phantom, which differ in their seed."""
    from segfocal.data.phantom.dataset import write_phantom
    from segfocal.training.run import TrainRequest, train

    write_phantom(folder / "phantom", num_cases=4, num_test=2, shape=(32, 36, 28))
    for seed in (0, 1):
        overrides = (f"data.root={folder / 'phantom'}", f"train.seed={seed}", *SETTINGS)
        out = folder / f"seed{seed}"
        train(TrainRequest(Path("phantom.yaml"), time.monotonic(), overrides, out, quiet=True))
    return [folder / f"seed{seed}" / "best.pt" for seed in (0, 1)]


def predict(paths: list[Path], images: Path, out: Path) -> None:
    """Labels and one probability map a case, and where the members of the ensemble disagree."""
    members = {path: load_checkpoint(path) for path in paths}
    check_alike(members)  # refuses runs that were shown other channels, spacings or labels
    first, *others = members.values()
    predictor = Predictor.from_checkpoint(first, *others, tta="flips")
    alone = [Predictor.from_checkpoint(member) for member in members.values()]
    scheme = predictor.scheme
    print(f"{len(members)} networks, window {predictor.patch_size}, {len(predictor.flips)} flips")
    for case in list_inputs(images, first.file_channels):
        image = predictor.preprocessing(case)["image"]
        classes, probabilities = predictor.predict_with_probabilities(image)
        like = case.images[0]
        label = out / f"{case.case_id}.nii.gz"
        write_label(label, scheme.decode(classes), like=like)
        name = scheme.target_names[0]
        index = scheme.output_names.index(name)
        write_array(out / f"{case.case_id}_{name}.nii.gz", probabilities[index].numpy(), like=like)

        source, written = nib.load(like), nib.load(label)
        same_grid = np.allclose(source.affine, written.affine)
        axes = "".join(nib.aff2axcodes(written.affine))
        found = int((probabilities[index] > 0.5).sum())
        assert written.shape == source.shape[:3]
        # Each on an image of its own preprocessing, which knows the way back to the file.
        votes = np.stack([one.predict(one.preprocessing(case)["image"]) for one in alone])
        print(
            f"{case.case_id}: {written.shape} {axes}, affine of the source: {same_grid}, "
            f"{name} in {found} voxels, networks differ in {(votes != votes[0]).any(0).mean():.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ckpt", nargs="*", type=Path)
    parser.add_argument("--images", type=Path, help="folder of NIfTI files, in the runs' channels")
    parser.add_argument("--out", type=Path, help="folder for the labels; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoints, images = args.ckpt, args.images
        if not checkpoints:
            checkpoints, images = train_two(folder), folder / "phantom" / "imagesTs"
        elif images is None:
            parser.error("--images is missing: the folder to predict")
        out = args.out or folder / "predictions"
        out.mkdir(parents=True, exist_ok=True)
        predict(checkpoints, images, out)
        print("files:", ", ".join(sorted(path.name for path in out.iterdir())))


if __name__ == "__main__":
    main()
