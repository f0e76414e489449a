"""The Triton kernels compiled ahead of time, for GPUs that are not here."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed here")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "triton_aot.py"


@pytest.fixture(scope="module")
def aot(tmp_path_factory):
    """The script that prints the whole table, with a cache of its own."""
    spec = importlib.util.spec_from_file_location("triton_aot", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton_cache"))
        yield module


def compiled(aot, arch, **settings):
    call = aot.Call(**settings)
    return [aot.compile_launch(launch, call, arch) for launch in aot.launches(call)]


REPRESENTATIVE = [
    {},
    {"num_channels": 105, "label_dtype": torch.int64, "gamma": "class"},
    {"num_channels": 300},
    {"num_channels": 32, "target": "shares", "mask": "channels", "overlap": "minimum"},
    {"activation": "sigmoid", "num_channels": 3, "target": "regions", "dtype": torch.bfloat16},
    {"activation": "sigmoid", "gamma": 0.5, "smoothing": 0.1, "mask": "voxels"},
]
"""One call for each kernel and each group of settings; the script compiles the others."""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "arch"), [*zip(REPRESENTATIVE, (80, 90) * 3, strict=True)])
def test_kernels_compile_without_spilling(aot, call, arch):
    for kernel in compiled(aot, arch, **call):
        assert (kernel.spill_stores, kernel.spill_loads) == (0, 0), kernel.name
        assert kernel.shared <= 16384, kernel.name
        assert kernel.resident_warps >= 8, kernel.name


def test_whole_voxel_rows_are_loaded_in_one_go(aot):
    """Four voxels a load, where strides and sizes are multiples of 16."""
    (forward, backward) = compiled(aot, 90)
    assert re.search(r"cp\.async\.\w+\.shared\.global .*, 0x10,", forward.ptx)
    assert "st.global.v4.b32" in backward.ptx
    (forward, backward) = compiled(aot, 90, dtype=torch.bfloat16)
    assert "ld.global.v2.b32" in forward.ptx
    assert "st.global.v2.b32" in backward.ptx


def test_the_gradient_is_rounded_to_the_nearest_bfloat16(aot):
    (_, backward) = compiled(aot, 90, dtype=torch.bfloat16)
    assert "cvt.rn.bf16" in backward.ptx


def test_no_kernel_adds_in_global_memory(aot):
    """Atomic sums come in any order, and so do their last bits. Counts have none to lose."""
    for num_channels in (4, 32):
        for kernel in compiled(aot, 90, num_channels=num_channels):
            atomics = re.findall(r"\b(?:atom|red)\.\S+", kernel.ptx)
            assert all(re.search(r"\.shared\..*\.[su]32$", one) for one in atomics), atomics
            assert len(atomics) <= 2


def test_one_kernel_serves_all_batch_sizes_gammas_and_volumes(aot):
    """Only what the code depends on is compiled in."""

    def source(**settings):
        return [kernel.ptx for kernel in compiled(aot, 90, **settings)]

    assert source(gamma=0.5) == source(gamma=0.7)
    assert source(num_channels=3) == source(num_channels=3, num_voxels=8192)
