from pathlib import Path

import pytest
import torch

from segfocal.errors import UserError
from segfocal.inference.device import resolve_amp, resolve_device
from segfocal.training.case_store import CaseStore


def test_a_cpu_is_never_given_bfloat16_unasked():
    cpu = torch.device("cpu")
    assert resolve_amp("auto", cpu) is None
    assert resolve_amp("bf16", cpu) is torch.bfloat16
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N, got gpu"):
        resolve_device("gpu")


def test_cases_beyond_the_memory_budget_are_read_at_each_access():
    reads = []

    def prepare(case):
        reads.append(case)
        return {"image": torch.zeros(25)}

    store = CaseStore([Path("a"), Path("b"), Path("c")], prepare, budget_bytes=150, num_threads=1)
    assert sorted(store.cached) == [0]
    before = len(reads)
    for number in range(3):
        store[number]
    assert len(reads) == before + 2
