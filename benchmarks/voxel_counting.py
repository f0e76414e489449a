"""Counting the voxels of label files, against numpy and nibabel, as ratios within one process.

    python benchmarks/voxel_counting.py [--files 6] [--repeats 5] [--workers 2]

The peer is `np.unique(nib.load(f).get_fdata(), return_counts=True)`, one file after the other. The
label files are made here: BraTS-like lesions in 240x240x155 voxels, stored as uint8, int16,
float32 and scaled int16. Counts are checked against the arrays the files were written from before
anything is timed. Runs are interleaved; the median counts. Memory is the peak that Python's and
numpy's allocators hand out for one file; what zlib and isal keep in C is some tens of kilobytes.
"""

import argparse
import gzip
import statistics
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.progress import track
from scipy import ndimage

from segfocal.data import gzip_stream, nifti_voxels
from segfocal.data.label_values import count_label_values
from segfocal.data.nifti import read_label

SHAPE = (240, 240, 155)
KINDS = ("uint8", "int16", "float32", "scaled int16")


def make_label(seed):
    """Nested lesions of values 1, 2 and 4 with smooth random outlines, some 1.5 % of the voxels."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=[side // 8 + 2 for side in SHAPE])
    field = ndimage.zoom(ndimage.gaussian_filter(coarse, 1.2), 8, order=1)
    field = field[tuple(slice(side) for side in SHAPE)]
    label = np.zeros(SHAPE, np.uint8)
    for value, share in ((2, 0.015), (1, 0.006), (4, 0.003)):
        label[field > np.quantile(field[::4, ::4, ::4], 1 - share)] = value
    return label


def write(path, label, kind):
    image = nib.Nifti1Image(label, np.eye(4))
    if kind == "scaled int16":
        image = nib.Nifti1Image(label.astype(np.float64), np.eye(4))
        image.header.set_data_dtype(np.int16)
    else:
        image.header.set_data_dtype(kind)
    raw = image.to_bytes()
    path.write_bytes(gzip.compress(raw, 6))


def numpy_count(path):
    return np.unique(nib.load(path).get_fdata(), return_counts=True)


def our_count(path):
    found = count_label_values(path)
    return found.values, found.voxels


def read_and_count(path):
    return np.unique(read_label(path).data, return_counts=True)


def check(paths, label_of, decompressors):
    """Stops the benchmark where a count is wrong."""
    for new_decompressor in decompressors.values():
        use(new_decompressor)
        for path in paths:
            expected = np.unique(label_of[path], return_counts=True)
            for found in (our_count(path), read_and_count(path)):
                np.testing.assert_array_equal(found[0], expected[0])
                np.testing.assert_array_equal(found[1], expected[1])


def use(new_decompressor):
    """Makes the reader inflate with this library."""
    nifti_voxels.inflate = lambda stream: gzip_stream.inflate(stream, new_decompressor)


def timed(count, paths, threads):
    began = time.perf_counter()
    if threads == 1:
        for path in paths:
            count(path)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(count, paths))
    return (time.perf_counter() - began) / len(paths)


def peak_mib(count, path):
    tracemalloc.start()
    count(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def report(kind, paths, repeats, workers, decompressors):
    runs = {"np.unique(get_fdata())": (numpy_count, gzip_stream.zlib_decompressor, 1)}
    for library, new_decompressor in decompressors.items():
        runs[f"count_label_values, {library}"] = (our_count, new_decompressor, 1)
        at_once = f"count_label_values, {library}, {workers} files at once"
        runs[at_once] = (our_count, new_decompressor, workers)
    times = {name: [] for name in runs}
    for _ in track(range(repeats), description=f"{kind:>12}"):
        for name, (count, new_decompressor, threads) in runs.items():
            use(new_decompressor)
            times[name].append(timed(count, paths, threads))
    peer = statistics.median(times["np.unique(get_fdata())"])
    peer_mib = peak_mib(numpy_count, paths[0])
    print(f"\n{kind}, {len(paths)} files\n")
    print("| how | ms a file | times faster | peak MiB | share of the peer's |")
    print("|---|---|---|---|---|")
    for name, (count, new_decompressor, _) in runs.items():
        use(new_decompressor)
        taken, mib = statistics.median(times[name]), peak_mib(count, paths[0])
        ratios = f"{peer / taken:.1f} | {mib:.1f} | {mib / peer_mib:.3f}"
        print(f"| {name} | {1e3 * taken:.1f} | {ratios} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=6, help="label files of each kind")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="files at once")
    args = parser.parse_args()
    decompressors = {"zlib": gzip_stream.zlib_decompressor}
    if gzip_stream.fastest_decompressor is not gzip_stream.zlib_decompressor:
        decompressors["isal"] = gzip_stream.isal_decompressor
    else:
        print("isal is not installed (pip install segfocal[fast-io]): zlib alone")
    with tempfile.TemporaryDirectory() as folder:
        label_of, by_kind = {}, {kind: [] for kind in KINDS}
        for seed in track(range(args.files), description="making files"):
            label = make_label(seed)
            for kind in KINDS:
                path = Path(folder) / f"{kind.replace(' ', '_')}_{seed}.nii.gz"
                write(path, label, kind)
                label_of[path] = label
                by_kind[kind].append(path)
        check(list(label_of), label_of, decompressors)
        print(f"numpy {np.__version__}, nibabel {nib.__version__}, counts checked")
        for kind, paths in by_kind.items():
            report(kind, paths, args.repeats, args.workers, decompressors)


if __name__ == "__main__":
    main()
