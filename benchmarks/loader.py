"""Patches per second and memory against MONAI's CacheDataset recipe: same cases, crops, changes.

    python benchmarks/loader.py [--root DATASET] [--patch 48 48 32] [--batch 2] [--repeats 5]

The peer is `CacheDataset` + `RandCropByPosNegLabeld` + MONAI's random transforms + `DataLoader`,
as its tutorials have it (four patches of a volume at a time), and as it is fastest (without the
copy of the volume, which `copy_cache=False` leaves out at the user's risk). Both sides hold the
same preprocessed volumes, so that only cutting, changing and collating differ. The crops'
distribution is compared before anything is timed. Runs are interleaved in one process; the median
counts. Memory is the peak of a process of its own, over what it took when everything was imported.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceLoss
from monai.networks.nets import SegResNet
from monai.transforms import (
    Compose,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)
from monai.utils import set_determinism
from torch.utils.data import DataLoader as TorchDataLoader

from segfocal.config.schema import AugmentConfig, DataConfig
from segfocal.data.layouts import read_dataset
from segfocal.data.phantom.dataset import write_phantom
from segfocal.training.case_cache import CaseCache
from segfocal.training.case_store import CaseStore
from segfocal.training.patches import EpochSampler, PatchDataset
from segfocal.transforms.foreground_crop_indices import ForegroundCropIndicesd
from segfocal.transforms.pipelines import crop_preparation, preprocessing
from segfocal.transforms.rand_patch import UNCHANGED, RandPatchd

KEYS = ("image", "label")
OURS = ("segfocal, in memory", "segfocal, mapped from disk")
THEIRS = {
    "MONAI, 1 patch a volume": (1, True),
    "MONAI, 4 patches a volume": (4, True),
    "MONAI, 4 patches, copy_cache=False": (4, False),
}
AUGMENT = AugmentConfig(affine_prob=0.2)


class Preparing:
    """Case to preprocessed, padded volumes with crop centres for both sides."""

    def __init__(self, root, patch, *, shared=True):
        self.dataset = read_dataset(root)
        channels = self.dataset.channels
        data = DataConfig(root=root, normalize="zscore")
        self.read = preprocessing(data, self.dataset.scheme, channels, channels)
        self.pad = crop_preparation(self.dataset.scheme, patch)
        self.centres = ForegroundCropIndicesd("label")
        self.made = {} if shared else None

    def __call__(self, case):
        """In one process every side gets the same tensors."""
        if self.made is None:
            return self.prepared(case)
        if case.case_id not in self.made:
            self.made[case.case_id] = self.prepared(case)
        return dict(self.made[case.case_id])

    def prepared(self, case):
        ready = self.centres(self.pad(self.read(case)))
        ready["centres"] = [ready["label_bg_indices"], ready["label_fg_indices"]]
        kept = ("case_id", "image", "label", "centres", "label_fg_indices", "label_bg_indices")
        return {key: ready[key] for key in kept}


def ours(name, prepare, args, changed):
    """An endless stream of batches by the tool's own store, sampler and dataset."""
    cases = prepare.dataset.cases
    cache = CaseCache(args.cache, {"benchmark": str(args.patch)})
    mode = "disk" if "disk" in name else "ram"
    kept = Kept(prepare, ("case_id", "image", "label", "centres"))
    store = CaseStore(cases, kept, mode=mode, cache=cache, num_threads=1)  # as CacheDataset does
    cut = RandPatchd(
        KEYS,
        args.patch,
        indices_key="centres",
        ratios=[1, 1],
        augment=AUGMENT if changed else UNCHANGED,
        mode=("bilinear", "nearest"),
    )
    sampler = EpochSampler(len(cases), 1000, seed=0)
    loader = TorchDataLoader(PatchDataset(store, cut, seed=0), args.batch, sampler=sampler)
    while True:
        yield from loader
        sampler.epoch += 1


def theirs(name, prepare, args, changed):
    """The same by MONAI."""
    num_samples, copied = THEIRS[name]
    steps = [
        RandCropByPosNegLabeld(
            KEYS,
            "label",
            args.patch,
            pos=1,
            neg=1,
            num_samples=num_samples,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        )
    ]
    if changed:
        steps += [
            RandAffined(
                KEYS,
                prob=AUGMENT.affine_prob,
                rotate_range=(0.0, 0.0, math.radians(AUGMENT.rotate_degrees)),
                # Each axis by a factor of its own: MONAI has no zoom by one factor for two.
                scale_range=(AUGMENT.scale, AUGMENT.scale, 0.0),
                mode=("bilinear", "nearest"),
                padding_mode="reflection",
            ),
            *[RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in AUGMENT.flip_axes],
            RandScaleIntensityd("image", factors=AUGMENT.intensity_scale, prob=0.8),
            RandShiftIntensityd("image", offsets=AUGMENT.intensity_shift, prob=0.8),
            RandGaussianNoised("image", prob=0.2, std=AUGMENT.noise_std),
        ]
    # Without what RandCropByPosNegLabeld would copy along for nothing.
    kept = Kept(prepare, ("image", "label", "label_fg_indices", "label_bg_indices"))
    chain = Compose([kept, *steps])
    dataset = CacheDataset(prepare.dataset.cases, chain, progress=False, copy_cache=copied)
    # Made once: MONAI's DataLoader seeds every transform anew, and alike, when it is made.
    loader = DataLoader(dataset, batch_size=max(args.batch // num_samples, 1), shuffle=True)
    while True:
        yield from loader


class Kept(Transform):
    """The preprocessing as a transform whose result is kept, cut down to what one side needs."""

    def __init__(self, prepare, keys):
        self.prepare = prepare
        self.keys = keys

    def __call__(self, case):
        ready = self.prepare(case)
        return {key: ready[key] for key in self.keys}


def stream(name, prepare, args, changed):
    return (ours if name in OURS else theirs)(name, prepare, args, changed)


def describe(batches, count):
    """A row of numbers for each of `count` patches: what a crop is known by."""
    rows = []
    while len(rows) < count:
        batch = next(batches)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            known = torch.as_tensor(label) != 255
            inside = torch.as_tensor(label)[known] > 0
            rows.append(
                [
                    float(inside.any()),
                    float(inside.float().mean()) if inside.numel() else 0.0,
                    float(image.mean()),
                    float(image.std()),
                ]
            )
    return np.array(rows[:count])


def check(sides, args):
    """Stops the benchmark where the crops of the two sides differ by more than chance."""
    names = ("share of patches with foreground", "foreground share", "mean", "deviation")
    print(f"\n{args.check} patches of each side, mean (standard error)\n")
    print(f"| changes | side | {' | '.join(names)} |\n|---|---|---|---|---|---|")
    for changed in (False, True):
        found = {}
        for name in (OURS[0], OURS[1], "MONAI, 1 patch a volume"):
            rows = describe(sides[name, changed], args.check)
            mean, error = rows.mean(0), rows.std(0) / math.sqrt(len(rows))
            found[name] = (mean, error)
            cells = [f"{m:.4f} ({e:.4f})" for m, e in zip(mean, error, strict=True)]
            print(f"| {'yes' if changed else 'no'} | {name} | {' | '.join(cells)} |")
        peer, peer_error = found["MONAI, 1 patch a volume"]
        for name in OURS:
            mean, error = found[name]
            apart = np.abs(mean - peer) / np.maximum(np.hypot(error, peer_error), 1e-12)
            assert (apart < 4.5).all(), f"{name}: {dict(zip(names, apart, strict=True))}"


def timed(batches, num_patches, clock):
    began, count = clock(), 0
    while count < num_patches:
        count += len(next(batches)["image"])
    return (clock() - began) / count


def step_time(args, num_channels, num_outputs):
    """Seconds of a training step of the small network of the shipped configs, on one batch."""
    network = SegResNet(init_filters=8, in_channels=num_channels, out_channels=num_outputs)
    optimizer = torch.optim.AdamW(network.parameters())
    loss = DiceLoss(sigmoid=True)
    image = torch.randn(args.batch, num_channels, *args.patch)
    times = []
    for _ in range(4):
        began = args.clock()
        optimizer.zero_grad()
        logits = network(image)
        loss(logits, torch.zeros_like(logits)).backward()
        optimizer.step()
        times.append(args.clock() - began)
    return statistics.median(times[1:])


def memory_mib(name, args):
    """Peak of a process that only makes patches of this kind, above its imports."""
    command = [sys.executable, __file__, "--memory", name, "--root", str(args.root)]
    command += ["--cache", str(args.cache), "--batch", str(args.batch)]
    command += ["--patch", *map(str, args.patch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure_memory(name, args):
    before = peak_mib()
    prepare = Preparing(args.root, args.patch, shared=False)
    for _ in islice(stream(name, prepare, args, True), 100):
        pass
    print(peak_mib() - before)


def peak_mib():
    """Largest resident memory so far, mapped files included; ru_maxrss has the parent's in it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def measure(sides, prepare, args):
    names = [*OURS, *THEIRS]
    times = {side: [] for side in sides}
    for repeat in range(args.repeats + 1):
        for side, batches in sides.items():
            found = timed(batches, args.patches, args.clock)
            if repeat:
                times[side].append(found)
    channels, outputs = len(prepare.dataset.channels), prepare.dataset.scheme.num_outputs
    step = step_time(args, channels, outputs)
    shape = f"{channels} x {'x'.join(map(str, args.patch))}"
    print(
        f"\npatches {shape}, {len(prepare.dataset.cases)} cases, batch {args.batch}, no workers, "
        f"{torch.get_num_threads()} threads, {'processor' if args.cpu_time else 'wall-clock'} "
        f"time; a training step of SegResNet(8) takes "
        f"{1000 * step:.0f} ms\n"
    )
    print(
        "| loader | patches/s, crop alone | with changes | ms a patch | share of a step |", end=""
    )
    print(" peak MiB |\n|---|---|---|---|---|---|")
    median = {side: statistics.median(values) for side, values in times.items()}
    for name in names:
        alone, changed = median[name, False], median[name, True]
        share = args.batch * changed / (args.batch * changed + step)
        memory = math.nan if args.no_memory else memory_mib(name, args)
        print(
            f"| {name} | {1 / alone:.0f} | {1 / changed:.0f} | {1000 * changed:.2f} | "
            f"{100 * share:.1f} % | {memory:.0f} |"
        )
    for name in OURS:
        for peer in THEIRS:
            ratios = [median[peer, c] / median[name, c] for c in (False, True)]
            print(f"{name} / {peer}: {ratios[0]:.1f} x crop alone, {ratios[1]:.1f} x with changes")
    ours_alone, ours_changed = (median[OURS[0], c] for c in (False, True))
    print(f"changes take {100 * (1 - ours_alone / ours_changed):.0f} % of segfocal's patch time")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="a data set; default: a phantom is written")
    parser.add_argument("--cache", type=Path, help="folder of the mapped cases; default: temporary")
    parser.add_argument("--patch", type=int, nargs=3, default=(48, 48, 32))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patches", type=int, default=40, help="patches a timing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", type=int, default=400, help="patches compared beforehand")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time, where other programs are at work"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory column")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    set_determinism(0)
    torch.use_deterministic_algorithms(False)
    if args.memory:
        measure_memory(args.memory, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.cache = args.cache or Path(folder) / "cache"
        if args.root is None:
            args.root = Path(folder) / "phantom"
            write_phantom(args.root, num_cases=6, shape=(96, 96, 64))
        prepare = Preparing(args.root, args.patch)
        print(f"torch {torch.__version__}, one process, interleaved, median of {args.repeats}")
        names = [*OURS, *THEIRS]
        sides = {(n, c): stream(n, prepare, args, c) for n in names for c in (False, True)}
        check(sides, args)
        measure(sides, prepare, args)


if __name__ == "__main__":
    main()
