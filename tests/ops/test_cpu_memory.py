"""Large gradients ask for huge pages, and for nothing else."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch

from segfocal.ops import class_sums, cpu_memory
from segfocal.ops.cpu_memory import MAPPED_BYTES, empty_gradient

HAS_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()

linux_alone = pytest.mark.skipif(
    sys.platform != "linux" or not HAS_HUGE_PAGES, reason="no huge pages in this kernel"
)


def flags_at(address):
    """What the kernel notes of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *_ = line.split(maxsplit=1)
        if "-" in first and not first.endswith(":"):
            start, end = (int(bound, 16) for bound in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("no such mapping")


@linux_alone
def test_a_large_gradient_is_in_huge_pages():
    logits = torch.zeros(MAPPED_BYTES // 4 + 12345)
    gradient = empty_gradient(logits)
    assert "hg" in flags_at(gradient.data_ptr() + mmap.PAGESIZE)
    assert "hg" not in flags_at(logits.data_ptr() + mmap.PAGESIZE)


@linux_alone
def test_a_small_gradient_s_memory_is_left_alone():
    logits = torch.zeros(MAPPED_BYTES // 4 - 1)
    gradient = empty_gradient(logits)
    assert "hg" not in flags_at(gradient.data_ptr() + mmap.PAGESIZE)


@linux_alone
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_a_step_s_gradient_is_such_memory(backend):
    if backend == "numba":
        pytest.importorskip("numba")
    logits = torch.zeros(1, 4, MAPPED_BYTES // 16 + 99).requires_grad_()
    labels = torch.zeros(1, logits.shape[-1], dtype=torch.uint8)
    sums = class_sums(logits, labels, backend=backend)
    (gradient,) = torch.autograd.grad(sums.p.sum() + sums.focal_pos.sum(), logits)
    assert "hg" in flags_at(gradient.data_ptr() + mmap.PAGESIZE)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_shape_strides_and_dtype_are_those_of_the_logits(layout):
    logits = torch.zeros(2, 3, 4, 5, 6, dtype=torch.bfloat16).to(memory_format=layout)
    gradient = empty_gradient(logits)
    assert gradient.dtype == logits.dtype
    assert gradient.shape == logits.shape
    assert gradient.stride() == logits.stride()
    assert not gradient.requires_grad


def test_without_madvise_memory_is_plain(monkeypatch):
    monkeypatch.setattr(cpu_memory, "madvise", lambda: None)
    logits = torch.zeros(MAPPED_BYTES // 4)
    assert empty_gradient(logits).shape == logits.shape


def test_a_platform_without_huge_pages_has_no_madvise(monkeypatch):
    cpu_memory.madvise.cache_clear()
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert cpu_memory.madvise() is None
    cpu_memory.madvise.cache_clear()
