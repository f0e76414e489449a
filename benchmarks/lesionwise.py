"""Time of the lesion-wise losses for few and many lesions, as ratios within one process.

    python benchmarks/lesionwise.py [--size 64] [--lesions 1 20 200] [--repeats 5]

Values and gradients are checked against a loop over the lesions before anything is timed. Runs are
interleaved; the median counts. The loop is timed for at most 20 lesions a case.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from scipy import ndimage

from segfocal import BlobLoss, ConnectedComponentLoss, DiceFocalLoss
from segfocal.transforms.component_maps import LesionMapsd

LONGEST_LOOP = 20


def make_case(num_lesions, size, num_classes=3, batch=2):
    """Cubes of eight voxels that do not touch, on a grid of six voxels, at random places of it."""
    places = np.argwhere(np.ones((size // 6,) * 3)) * 6 + 2
    if num_lesions > len(places):
        raise SystemExit(f"--size {size} has room for {len(places)} lesions, not {num_lesions}.")
    generator = np.random.default_rng(0)
    maps = []
    for _ in range(batch):
        label = np.zeros((1, size, size, size), np.uint8)
        for place in generator.permutation(places)[:num_lesions]:
            cube = tuple(slice(corner, corner + 2) for corner in place)
            label[(0, *cube)] = generator.integers(1, num_classes)
        assert ndimage.label(label[0])[1] == num_lesions
        maps.append(LesionMapsd("label", spacing_mm=(1, 1, 1))({"label": torch.from_numpy(label)}))
    stacked = {key: torch.stack([sample[key] for sample in maps]) for key in maps[0]}
    torch.manual_seed(0)
    return torch.randn(batch, num_classes, size, size, size), stacked


def loop(inner, logits, labels, components, num_lesions):
    """Blob loss with a mask a lesion, 2 : 1 as the paper's."""
    total = 0
    for sample in range(len(labels)):
        one = slice(sample, sample + 1)
        for number in range(1, num_lesions + 1):
            mask = (components[one] == 0) | (components[one] == number)
            total = total + inner(logits[one], labels[one], mask)
    return 2 * inner(logits, labels) + total / (len(labels) * num_lesions)


def measure(activation, num_lesions, size, repeats):
    logits, maps = make_case(num_lesions, size)
    labels, components = maps["label"], maps["label_components"]
    inner = DiceFocalLoss(**{activation: True})
    blob, region = BlobLoss(inner), ConnectedComponentLoss(inner)
    found = {
        "DiceFocalLoss": lambda leaf: inner(leaf, labels),
        "BlobLoss": lambda leaf: blob(leaf, labels, components),
        "ConnectedComponentLoss": lambda leaf: region(leaf, labels, maps["label_voronoi"]),
    }
    if num_lesions <= LONGEST_LOOP:
        found["blob loss, a loop"] = lambda leaf: loop(inner, leaf, labels, components, num_lesions)
        leaf = logits.clone().requires_grad_()
        values = [found[name](leaf) for name in ("BlobLoss", "blob loss, a loop")]
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)
        grads = [torch.autograd.grad(value, leaf)[0] for value in values]
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-7)
    times = {name: [] for name in found}
    for repeat in range(repeats + 1):
        for name, loss in found.items():
            leaf = logits.clone().requires_grad_()
            began = time.perf_counter()
            loss(leaf).backward()
            if repeat:
                times[name].append(time.perf_counter() - began)
    plain = statistics.median(times["DiceFocalLoss"])
    for name, seconds in times.items():
        ratio = statistics.median(seconds) / plain
        print(f"| {activation} | {num_lesions} | {name} | {ratio:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="edge of the volume")
    parser.add_argument("--lesions", type=int, nargs="+", default=[1, 20, 200], help="per case")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.size} cubed, ")
    print("forward and backward, two cases of three channels, one process, interleaved\n")
    print("| activation | lesions a case | loss | time, DiceFocalLoss = 1 |")
    print("|---|---|---|---|")
    for activation in ("softmax", "sigmoid"):
        for num_lesions in args.lesions:
            measure(activation, num_lesions, args.size, args.repeats)


if __name__ == "__main__":
    main()
