"""What helps small lesions: blob loss, deep supervision that keeps them, a gamma that falls.

    python examples/02_small_lesions.py

Writes a few cases of the synthetic phantom to a temporary folder and trains MONAI's DynUNet for
some steps. The maps of the lesions are made once a case, by a transform, and cropped with the
label. A loss whose gamma falls grows by itself: compare its values within a step, not over steps.
"""

import tempfile
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader
from monai.networks.nets import DynUNet
from monai.transforms import Compose, RandCropByLabelClassesd, RandFlipd

from segfocal.config.schema import DataConfig
from segfocal.data.layouts import read_dataset
from segfocal.data.phantom.dataset import write_phantom
from segfocal.losses import BlobLoss, DeepSupervisionLoss, DiceFocalLoss, LossSchedule, Ramp
from segfocal.transforms import ClassCropIndicesd, LesionMapsd, preprocessing

STEPS, PATCH = 5, (32, 32, 16)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "phantom"
        write_phantom(root, num_cases=4, num_test=0, shape=(32, 36, 28))
        dataset = read_dataset(root, labels="msd-task01", ignore_values=[255])
        scheme = dataset.scheme
        prepare = preprocessing(
            DataConfig(root=root, normalize="zscore_nonzero"),
            scheme,
            dataset.channels,
            dataset.channels,
        )
        cases = [prepare(case) for case in dataset.cases]
    cases = [{"image": case["image"], "label": case["label"]} for case in cases]

    keys = ("image", "label", "label_components")
    transform = Compose(
        [
            # One map of components for each region: WT, TC and ET have lesions of their own.
            LesionMapsd(
                "label",
                regions=scheme.region_table,
                ignore_index=scheme.ignore_index,
                voronoi=False,
            ),
            ClassCropIndicesd("label", scheme.num_classes),
            RandCropByLabelClassesd(
                keys,
                label_key="label",
                spatial_size=PATCH,
                num_classes=scheme.num_classes,
                indices_key="label_cls_indices",
                warn=False,
            ),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
        ]
    )
    transform.set_random_state(0)
    loader = DataLoader(CacheDataset(cases, transform, progress=False), batch_size=2, shuffle=True)

    network = DynUNet(
        spatial_dims=3,
        in_channels=len(dataset.channels),
        out_channels=scheme.num_outputs,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3,
        filters=[8, 16, 16, 16],
        deep_supervision=True,
        deep_supr_num=2,
    )
    voxels = DiceFocalLoss(
        sigmoid=True, regions=scheme.region_table, ignore_index=scheme.ignore_index
    )
    every_level = DeepSupervisionLoss(voxels)
    each_lesion = BlobLoss(voxels, lambda_global=0)  # the global term is every_level's
    schedule = LossSchedule(voxels, {"gamma": Ramp(3.0, 1.0)}, total_steps=STEPS)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    for step in range(STEPS):
        batch = next(iter(loader))
        levels = network(batch["image"])  # (B, levels, C, *S) in training
        of_levels = every_level(levels, batch["label"])
        of_lesions = each_lesion(levels[:, 0], batch["label"], batch["label_components"])
        loss = 2 * of_levels + of_lesions
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        print(f"step {step + 1}: loss {loss.item():.3f}, of lesions {of_lesions.item():.3f}")


if __name__ == "__main__":
    main()
