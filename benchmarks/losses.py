"""Time and peak memory of DiceFocalLoss against peers, side by side in one run.

    python benchmarks/losses.py [--plot FILE] [--nnunet-python PYTHON]

Values and gradients are checked against float64 before anything is timed. Runs are interleaved;
the median counts. Memory is what torch's allocator hands out between the start of forward and the
end of backward, the gradient of the logits left out, in sizes of the logits. The floor is what has
to be moved whatever is computed: the logits read twice and the gradient written, one and a half
times a copy that is measured between the others.

Where CUDA is there, its shapes are measured instead of the CPU's, and time is the device's: it is
kept busy until a whole step is queued, and events are read around the step, as in a training whose
host is ahead. What a step takes where the host waits for it stands beside it. nnU-Net's loss runs
in the same process there, if nnunetv2 can be imported. What torch.compile makes comes last, in
tables of its own and for float32 alone: compiling can take longer than all the rest.
"""

import argparse
import statistics
import time
from datetime import date
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from loss_peers import (
    COMPILED,
    COMPILED_MONAI,
    NNUNET,
    OURS,
    NnunetProcess,
    check,
    check_nnunet,
    nnunet_peer,
    region_peers,
    softmax_peers,
)
from torch.profiler import ProfilerActivity, profile

import segfocal

COPY = "copy of the logits, x 1.5"

HEAD_START = 20_000_000
"""Clock cycles that a GPU sleeps while the host queues a step: about 10 ms."""


class Workload(NamedTuple):
    kind: str
    shape: tuple
    dtype: torch.dtype = torch.float32

    def __str__(self):
        return f"{self.kind} {'x'.join(map(str, self.shape))} {str(self.dtype)[6:]}"


CPU = (
    Workload("softmax", (2, 4, 96, 96, 96)),
    Workload("sigmoid regions", (2, 3, 96, 96, 96)),
    Workload("softmax", (1, 32, 64, 64, 64)),
    Workload("softmax", (1, 105, 64, 64, 64)),
)
GPU = tuple(
    Workload(kind, shape, dtype)
    for dtype in (torch.float32, torch.bfloat16)
    for kind, shape in (
        ("softmax", (2, 4, 128, 128, 128)),
        ("sigmoid regions", (2, 3, 128, 128, 128)),
        ("softmax", (1, 32, 64, 64, 64)),
        ("softmax", (2, 105, 128, 128, 128)),
    )
)


class Row(NamedTuple):
    """Times in milliseconds; `waited` is that of a step whose end the host waits for."""

    name: str
    forward: float | None
    both: float
    waited: float | None
    peak: float | None


def step(loss, logits, target, *, backward):
    """One forward pass, with or without what follows it."""
    with torch.set_grad_enabled(backward):
        value = loss(logits, target)
    if backward:
        value.backward()


def timed(loss, logits, target, *, backward):
    """Seconds of one step, as the host sees it."""
    logits.grad = None
    wait = torch.cuda.synchronize if logits.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    step(loss, logits, target, backward=backward)
    wait()
    return time.perf_counter() - began


def timed_on_gpu(loss, logits, target, *, backward):
    """Seconds that the device is busy with one step."""
    logits.grad = None
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(HEAD_START)
    began.record()
    step(loss, logits, target, backward=backward)
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000


def peak_bytes(action, *, on_gpu):
    """Largest sum of live allocations while something runs, over those before it."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def peak_extra(loss, logits, target):
    """Largest sum of live allocations over the gradient, in sizes of the logits."""
    logits.grad = None
    peak = peak_bytes(lambda: step(loss, logits, target, backward=True), on_gpu=logits.is_cuda)
    return peak / (logits.numel() * logits.element_size()) - 1


def measure(workload, device, repeats, nnunet, which, *, forward_too=True):
    """The rows of a workload, for the peers whose names `which` lets through."""
    generator = torch.Generator().manual_seed(0)
    shape = workload.shape
    logits = torch.randn(shape, generator=generator).to(device, workload.dtype)
    num_labels = 4 if workload.kind == "sigmoid regions" else shape[1]
    labels = torch.randint(0, num_labels, (shape[0], 1, *shape[2:]), generator=generator)
    labels = labels.to(device)
    peers = region_peers(labels) if num_labels != shape[1] else softmax_peers(shape[1], labels)
    if device == "cuda" and workload.kind == "softmax" and (peer := nnunet_peer(labels)):
        peers[NNUNET] = peer
    peers = {name: peer for name, peer in peers.items() if which(name)}
    check(peers, logits)
    if NNUNET in peers and workload.dtype == torch.float32:
        check_nnunet(peers[NNUNET].loss(logits, labels).item(), logits, labels)
    if workload.kind != "softmax":
        nnunet = None
    if nnunet is not None:
        nnunet.load(logits, labels)
    logits.requires_grad_()
    names = [*peers, *([NNUNET] if nnunet else []), COPY]
    times = {
        (name, backward): []
        for name in names
        for backward in ((False, True) if forward_too else (True,))
    }
    held = torch.empty_like(logits, requires_grad=False)
    clock = timed_on_gpu if device == "cuda" else timed
    for _ in range(repeats):
        for name, backward in times:
            if name == COPY:
                seconds = 1.5 * clock(held_copy(held), logits, None, backward=False)
            elif name not in peers:
                seconds = nnunet.step(backward=backward)["seconds"]
            else:
                peer = peers[name]
                seconds = clock(peer.loss, logits, peer.target, backward=backward)
            times[name, backward].append(seconds)
    rows = []
    for name in names:
        forward = times.get((name, False))
        forward = None if forward is None else 1000 * statistics.median(forward)
        both = 1000 * statistics.median(times[name, True])
        peer, waited, peak = peers.get(name), None, None
        if peer is not None:
            peak = peak_extra(peer.loss, logits, peer.target)
        if peer is not None and device == "cuda":
            again = [timed(peer.loss, logits, peer.target, backward=True) for _ in range(repeats)]
            waited = 1000 * statistics.median(again)
        rows.append(Row(name, forward, both, waited, peak))
    return rows


def everything(_name):
    return True


def not_compiled(name):
    return name not in (COMPILED, COMPILED_MONAI)


def beside_compiled(name):
    return name in (OURS, COMPILED, COMPILED_MONAI)


def held_copy(held):
    return lambda logits, _target: held.copy_(logits)


def table(rows):
    ours = next(row for row in rows if row.name == OURS)
    names = ["loss", "forward, ms", "forward + backward, ms", "segfocal = 1", "peak extra memory"]
    if ours.waited is not None:
        names.append("waited for, ms")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        cells = [
            row.name,
            "" if row.name == COPY or row.forward is None else short(row.forward),
            short(row.both),
            f"{row.both / ours.both:.2f}",
            "" if row.peak is None else f"{row.peak:.2f}",
        ]
        if ours.waited is not None:
            cells.append("" if row.waited is None else short(row.waited))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short(milliseconds):
    """Three digits where a time is short, tenths of a millisecond where it is long."""
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.3g}"


def plot(results, path):
    """Forward and backward of every peer, as multiples of segfocal's, a panel for each workload."""
    figure, axes = plt.subplots(
        len(results), 1, figsize=(8, 2.6 * len(results)), layout="constrained", squeeze=False
    )
    for axis, (workload, rows) in zip(axes[:, 0], results.items(), strict=True):
        ours = next(row.both for row in rows if row.name == OURS)
        ratios = [row.both / ours for row in rows]
        colors = ["tab:blue" if row.name.startswith("segfocal") else "tab:gray" for row in rows]
        bars = axis.barh([row.name for row in rows], ratios, color=colors)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(str(workload), fontsize=10)
    axes[-1, 0].set_xlabel("time of forward + backward, segfocal = 1")
    figure.savefig(path, dpi=120)


def heading(repeats):
    """Versions, machine and date of a run."""
    on_gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    return (
        f"segfocal {segfocal.__version__}, torch {torch.__version__}, {where}, "
        f"median of {repeats}, interleaved, {date.today()}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", metavar="FILE", help="save a bar chart")
    parser.add_argument(
        "--nnunet-python", metavar="PYTHON", help="Python of an environment with nnunetv2"
    )
    parser.add_argument("--size", type=int, help="edge of every volume, for a quick trial")
    compiling = parser.add_mutually_exclusive_group()
    compiling.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    compiling.add_argument(
        "--only-compiled", action="store_true", help="on a GPU: the tables of torch.compile alone"
    )
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(heading(args.repeats))
    nnunet = None  # another process on the CPU; a peer like the others on a GPU
    if args.nnunet_python and device == "cpu":
        nnunet = NnunetProcess(args.nnunet_python, torch.get_num_threads())
    workloads = list(GPU if device == "cuda" else CPU)
    if args.size is not None:
        workloads = [w._replace(shape=(*w.shape[:2], *3 * (args.size,))) for w in workloads]
    which = everything if device == "cpu" and not args.no_compile else not_compiled
    results = {}
    if args.only_compiled and device == "cpu":
        parser.error("--only-compiled is for a GPU: on the CPU there is one table for all.")
    for workload in () if args.only_compiled else workloads:
        results[workload] = measure(workload, device, args.repeats, nnunet, which)
        print(f"\n{workload}\n\n{table(results[workload])}", flush=True)
    if device == "cuda" and not args.no_compile:
        for workload in (w for w in workloads if w.dtype == torch.float32):
            # without gradient everything would be compiled once more
            rows = measure(workload, device, args.repeats, None, beside_compiled, forward_too=False)
            print(f"\n{workload}, beside torch.compile\n\n{table(rows)}", flush=True)
    if nnunet is not None:
        nnunet.close()
    if args.plot and results:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
