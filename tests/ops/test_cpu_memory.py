"""Large gradients ask for huge pages, and for nothing else."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segfocal.ops import cpu_memory
from segfocal.ops.cpu_memory import FEWEST_BYTES, ask_for_huge_pages, empty_gradient

HAS_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()

linux_alone = pytest.mark.skipif(
    sys.platform != "linux" or not HAS_HUGE_PAGES, reason="no huge pages in this kernel"
)


def are_huge(address):
    """Whether the kernel notes that huge pages were asked for in the mapping that holds it."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *_ = line.split(maxsplit=1)
        if "-" in first and not first.endswith(":"):
            start, end = (int(bound, 16) for bound in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return "hg" in line.split()[1:]
    raise AssertionError("no such mapping")


@linux_alone
def test_untouched_memory_is_asked_to_be_huge_and_no_byte_beside_it():
    size = 64 * 2**20
    memory = mmap.mmap(-1, size)
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    page = mmap.PAGESIZE
    assert ask_for_huge_pages(address + page + 8, size - 3 * page)
    assert are_huge(address + size // 2)
    for beside in (address, address + page + 8, address + size - page):
        assert not are_huge(beside)


@linux_alone
def test_memory_in_use_is_left_alone():
    size = 64 * 2**20
    memory = mmap.mmap(-1, size)
    values = torch.frombuffer(memory, dtype=torch.uint8)
    values.zero_()
    assert not ask_for_huge_pages(values.data_ptr(), size)
    assert not are_huge(values.data_ptr() + size // 2)


STEP = """
import sys, torch
from segfocal.ops import class_sums
from segfocal.ops.cpu_memory import FEWEST_BYTES
from tests.ops.test_cpu_memory import are_huge
for num_bytes in (FEWEST_BYTES + 4096, FEWEST_BYTES // 2):
    logits = torch.zeros(1, 4, num_bytes // 16).requires_grad_()
    labels = torch.zeros(1, logits.shape[-1], dtype=torch.uint8)
    sums = class_sums(logits, labels, backend=sys.argv[1])
    (gradient,) = torch.autograd.grad(sums.p.sum() + sums.focal_pos.sum(), logits)
    print(are_huge(gradient.data_ptr() + gradient.nbytes // 2))
"""


@linux_alone
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_a_large_gradient_is_in_huge_pages_and_a_small_one_is_not(backend):
    """In a process of its own, whose allocator has no large piece of memory left over."""
    if backend == "numba":
        pytest.importorskip("numba")
    run = subprocess.run(
        [sys.executable, "-c", STEP, backend],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_shape_strides_and_dtype_are_those_of_the_logits(layout):
    logits = torch.zeros(2, 3, 4, 5, 6, dtype=torch.bfloat16).to(memory_format=layout)
    gradient = empty_gradient(logits)
    assert gradient.dtype == logits.dtype
    assert gradient.shape == logits.shape
    assert gradient.stride() == logits.stride()


def test_without_the_calls_memory_is_plain(monkeypatch):
    monkeypatch.setattr(cpu_memory, "c_library", lambda: None)
    logits = torch.zeros(FEWEST_BYTES // 4)
    assert empty_gradient(logits).shape == logits.shape


def test_a_platform_without_huge_pages_has_no_such_calls(monkeypatch):
    cpu_memory.c_library.cache_clear()
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert cpu_memory.c_library() is None
    cpu_memory.c_library.cache_clear()
