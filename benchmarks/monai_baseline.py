"""The plain MONAI script that segfocal-train is measured against: the tutorial recipe, on the same
cases, network, patch and wall-clock. Prints Dice, lesion F1 and false islands on held-out cases.

    python benchmarks/monai_baseline.py --root DATASET --test id1,id2 --minutes 10
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceFocalLoss
from monai.networks.nets import SegResNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)
from monai.utils import set_determinism
from scipy import ndimage

PATCH = (48, 48, 32)


def cases_of(root: Path) -> tuple[list[dict], int, int]:
    declared = json.loads((root / "dataset.json").read_text())
    num_classes = len(declared["labels"])
    channels = declared.get("channel_names") or declared["modality"]
    cases = []
    for label in sorted((root / "labelsTr").glob("[!.]*.nii.gz")):
        case_id = label.name.removesuffix(".nii.gz")
        images = sorted((root / "imagesTr").glob(f"{case_id}_000?.nii.gz"))
        images = images or [root / "imagesTr" / label.name]
        cases.append({"id": case_id, "image": [str(p) for p in images], "label": str(label)})
    return cases, len(channels), num_classes


def lesion_scores(pred: np.ndarray, ref: np.ndarray) -> tuple[int, int, int]:
    structure = np.ones((3, 3, 3))
    ref_parts, lesions = ndimage.label(ref, structure)
    pred_parts, islands = ndimage.label(pred, structure)
    found = len(set(np.unique(ref_parts[pred])) - {0})
    hits = len(set(np.unique(pred_parts[ref])) - {0})
    return lesions, found, islands - hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--test", default="", help="ids held out, separated by commas")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=None, help="so many steps, whatever the time")
    parser.add_argument("--expected-steps", type=int, default=1200, help="end of the cosine")
    args = parser.parse_args()
    started = time.monotonic()
    set_determinism(0)
    cases, channels, num_classes = cases_of(args.root)
    test_ids = set(args.test.split(","))
    keys = ["image", "label"]
    load = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        NormalizeIntensityd("image", channel_wise=True),
    ]
    train = Compose(
        [
            *load,
            SpatialPadd(keys, PATCH),
            RandCropByPosNegLabeld(keys, "label", PATCH, pos=1, neg=1, num_samples=2),
            *[RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)],
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )
    train_cases = [case for case in cases if case["id"] not in test_ids]
    loader = DataLoader(
        CacheDataset(train_cases, train, progress=False), batch_size=1, shuffle=True
    )
    network = SegResNet(init_filters=8, in_channels=channels, out_channels=num_classes)
    loss_function = DiceFocalLoss(sigmoid=True, to_onehot_y=True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    end_step = args.steps or args.expected_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, end_step)
    step = 0
    while True:
        for batch in loader:
            loss = loss_function(network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step <= end_step:
                schedule.step()
            out_of_time = args.steps is None and time.monotonic() - started > 60 * args.minutes
            if out_of_time or step == args.steps:
                break
        else:
            continue
        break
    test = CacheDataset([c for c in cases if c["id"] in test_ids], Compose(load), progress=False)
    network.eval()
    dice, lesions = [], np.zeros(3)
    for batch in DataLoader(test, batch_size=1):
        with torch.no_grad():
            logits = sliding_window_inference(batch["image"], PATCH, 4, network, overlap=0.5)
        pred = logits.argmax(1)[0].numpy()
        case = decollate_batch(batch)[0]
        ref = case["label"][0].numpy()
        scores = [
            2 * ((pred == c) & (ref == c)).sum() / ((pred == c).sum() + (ref == c).sum())
            for c in range(1, num_classes)
        ]
        dice.append(scores)
        lesions += lesion_scores(pred > 0, ref > 0)
        print(Path(case["image"].meta["filename_or_obj"]).name, np.round(scores, 3), flush=True)
    total, found, false = lesions
    print(
        json.dumps(
            {
                "steps": step,
                "minutes": round((time.monotonic() - started) / 60, 1),
                "dice": np.mean(dice, 0).round(3).tolist(),
                "lesion_f1": round(2 * found / (total + found + false), 3),
                "false_islands_per_case": round(false / len(dice), 2),
                "cases": len(dice),
            }
        )
    )


if __name__ == "__main__":
    main()
