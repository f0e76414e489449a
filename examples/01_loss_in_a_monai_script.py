"""The losses in a plain MONAI script: ignore label, alpha from voxel counts, sliding window.

    python examples/01_loss_in_a_monai_script.py

Writes a few cases of the synthetic phantom to a temporary folder, trains for some steps and writes
a label file. What differs from a script with MONAI's own loss is marked `segfocal:`; the rest is
MONAI and torch.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset, decollate_batch
from monai.networks.nets import SegResNet
from monai.transforms import (
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImage,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByLabelClassesd,
    RandFlipd,
    SaveImaged,
)

from segfocal import DiceFocalLoss, LabelScheme
from segfocal.data.phantom.dataset import write_phantom
from segfocal.inference import SlidingWindowLabelInferer
from segfocal.statistics import VoxelCounts, region_alpha
from segfocal.transforms import ClassCropIndicesd

EPOCHS, PATCH = 3, (32, 32, 16)
SCHEME = LabelScheme.preset("msd-task01", ignore_values=[255])
"""What the values mean: WT, TC and ET are regions of 1, 2 and 3, and 255 is not annotated."""


def steps_of(*keys):
    """What training and prediction share."""
    return [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder), num_cases=4, num_test=0, shape=(32, 36, 28))
        labels = sorted(map(str, Path(folder, "labelsTr").glob("*.nii.gz")))
        files = [{"image": path.replace("labelsTr", "imagesTr"), "label": path} for path in labels]
        run(files, Path(folder, "predicted"))


def run(files, out) -> None:
    keys = ("image", "label")
    transform = Compose(
        [
            *steps_of(*keys),
            # segfocal: losses take labels as integers, which LoadImaged and Spacingd make floats
            CastToTyped("label", np.uint8),
            # segfocal: no crop is centred on an ignored voxel
            ClassCropIndicesd("label", SCHEME.num_classes, ignore_index=255),
            RandCropByLabelClassesd(
                keys,
                label_key="label",
                spatial_size=PATCH,
                num_classes=SCHEME.num_classes,
                num_samples=2,
                indices_key="label_cls_indices",
                warn=False,
            ),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
        ]
    )
    transform.set_random_state(0)
    cases = CacheDataset(files, transform, progress=False)
    loader = DataLoader(cases, batch_size=2, shuffle=True)

    # segfocal: alpha from the voxels that somebody annotated
    counts = VoxelCounts(SCHEME)
    for file in files:
        label = LoadImage()(file["label"])
        counts.add(SCHEME.encode(label.numpy()), case_id=Path(file["label"]).name)
    alpha = region_alpha(counts, "balanced", max_ratio=20)
    print(alpha.summary())

    # segfocal: regions and ignore label from integer labels
    loss_function = DiceFocalLoss(
        sigmoid=True,
        gamma=2.0,
        alpha=alpha,
        regions=SCHEME.region_table,
        ignore_index=255,
    )
    network = SegResNet(init_filters=8, in_channels=4, out_channels=SCHEME.num_outputs)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    step = 0
    for _ in range(EPOCHS):
        for batch in loader:
            loss = loss_function(network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(f"step {step}: loss {loss.item():.3f}")

    # segfocal: labels instead of logits, which are never held for the whole volume
    inferer = SlidingWindowLabelInferer(PATCH, 2, 0.5, activation="sigmoid", scheme=SCHEME)
    prepare = Compose(steps_of("image"))
    finish = Compose(
        [
            Invertd("pred", prepare, orig_keys="image", nearest_interp=True),
            SaveImaged(
                "pred",
                output_dir=out,
                output_postfix="seg",
                output_dtype=np.uint8,
                separate_folder=False,
                print_log=False,
            ),
        ]
    )
    network.eval()
    scans = [{"image": file["image"]} for file in files[:1]]
    for batch in DataLoader(Dataset(scans, prepare)):
        batch["pred"] = inferer(batch["image"], network)
        for case in decollate_batch(batch):
            finish(case)
            classes, sizes = case["pred"].unique(return_counts=True)
            print("predicted voxels:", dict(zip(classes.tolist(), sizes.tolist(), strict=True)))
            print("file:", *(path.name for path in out.iterdir()))


if __name__ == "__main__":
    main()
