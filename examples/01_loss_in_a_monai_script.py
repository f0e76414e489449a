"""The losses in a plain MONAI script: ignore label, alpha from voxel counts, sliding window.

    python examples/01_loss_in_a_monai_script.py

Writes a few cases of the synthetic phantom to a temporary folder and trains for some steps. What
differs from a script with MONAI's own loss is marked `segfocal:`; the rest is MONAI and torch.
"""

import tempfile
from pathlib import Path

import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import SegResNet
from monai.transforms import RandFlipd
from torch.utils.data import DataLoader

from segfocal import DiceFocalLoss, LabelScheme
from segfocal.config.schema import DataConfig
from segfocal.data.layouts import read_dataset
from segfocal.data.phantom.dataset import write_phantom
from segfocal.statistics import VoxelCounts, region_alpha
from segfocal.transforms import preprocessing

STEPS, PATCH = 5, (32, 32, 16)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "phantom"
        # segfocal: cases to train on, labels checked (MONAI's LoadImaged would do as well)
        write_phantom(root, num_cases=4, num_test=0, shape=(32, 36, 28))
        dataset = read_dataset(root, labels="msd-task01", ignore_values=[255])
        scheme: LabelScheme = dataset.scheme
        prepare = preprocessing(
            DataConfig(root=root, normalize="zscore_nonzero"),
            scheme,
            dataset.channels,
            dataset.channels,
        )
        cases = [prepare(case) for case in dataset.cases]

    # segfocal: alpha from the voxels that somebody annotated
    counts = VoxelCounts(scheme)
    for case in cases:
        counts.add(case["reference"], case_id=case["case_id"])
    alpha = region_alpha(counts, "balanced", max_ratio=20)
    print(alpha.summary())

    # segfocal: regions and ignore label from integer labels
    loss_function = DiceFocalLoss(
        sigmoid=True,
        gamma=2.0,
        alpha=alpha.weights,
        regions=scheme.region_table,
        ignore_index=scheme.ignore_index,
    )
    network = SegResNet(init_filters=8, in_channels=4, out_channels=scheme.num_outputs)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    flip = RandFlipd(["image", "label"], prob=0.5, spatial_axis=0)

    def patch(case: dict) -> dict:
        corner = [
            torch.randint(0, n - p + 1, ())
            for n, p in zip(case["label"].shape[1:], PATCH, strict=True)
        ]
        window = (slice(None), *(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True)))
        return flip({key: case[key][window].as_tensor() for key in ("image", "label")})

    for step in range(STEPS):
        batch = next(iter(DataLoader([patch(case) for case in cases], batch_size=2, shuffle=True)))
        loss = loss_function(network(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.3f}")

    network.eval()
    with torch.no_grad():
        volume = cases[0]["image"].as_tensor()[None]
        logits = sliding_window_inference(volume, PATCH, 2, network)
    print("predicted voxels per region:", (logits.sigmoid() > 0.5).sum((0, 2, 3, 4)).tolist())


if __name__ == "__main__":
    main()
