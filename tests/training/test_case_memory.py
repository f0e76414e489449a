import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from segfocal.training.case_memory import packed

CASE = {
    "case_id": "oedème 7",
    "image": torch.arange(2 * 5 * 6 * 7, dtype=torch.float32).reshape(2, 5, 6, 7),
    "label": torch.tensor([[[[0, 255, 3]]]], dtype=torch.uint8),
    "indices": [np.array([3, 9], dtype=np.int32), np.empty(0, dtype=np.int64)],
    "zooms_mm": (0.5, 1.0, 3.27),
    "nothing": None,
}


def test_a_packed_case_has_the_same_values_and_types():
    kept = packed(CASE)
    assert list(kept) == list(CASE)
    for key in ("image", "label"):
        assert torch.equal(kept[key], CASE[key])
        assert kept[key].dtype == CASE[key].dtype
    for found, given in zip(kept["indices"], CASE["indices"], strict=True):
        assert found.dtype == given.dtype
        assert found.tolist() == given.tolist()
    for key in ("case_id", "zooms_mm", "nothing"):
        assert kept[key] == CASE[key]


def test_a_metatensor_keeps_its_affine():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    kept = packed({"image": MetaTensor(torch.rand(1, 3, 3, 3), affine=affine)})["image"]
    assert torch.equal(kept.affine, affine)


def test_a_packed_case_is_a_copy_that_can_be_written_to():
    before = CASE["image"].clone()
    kept = packed(CASE)
    kept["image"].zero_()
    assert torch.equal(CASE["image"], before)
    assert torch.equal(packed(CASE)["image"], before)
    assert kept["label"].flatten().tolist() == [0, 255, 3]


def test_a_strided_tensor_is_packed_in_its_own_order():
    image = torch.arange(24.0).reshape(1, 2, 3, 4).permute(0, 3, 1, 2)
    assert torch.equal(packed({"image": image})["image"], image)


def test_a_case_without_arrays_is_packed_too():
    assert packed({"case_id": "a"}) == {"case_id": "a"}


def test_a_packed_case_can_be_sent_to_a_loader_process():
    sent = pickle.loads(pickle.dumps(packed(CASE)))
    assert torch.equal(sent["image"], CASE["image"])
    assert sent["indices"][0].tolist() == [3, 9]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc is Linux's")
def test_what_the_preparation_took_is_used_again_for_the_next_case():
    # In a process of its own, as the heap of this one has room left by other tests. Each case of
    # 4 MiB is made between temporary arrays, as a preparation does.
    code = """
import sys, torch
from pathlib import Path
from segfocal.training.case_memory import packed

def resident():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024

def prepare():
    before = [torch.ones(1 << 20) for _ in range(3)]
    image = before[0] + before[1]
    return {"image": image, "rest": [torch.ones(1000) for _ in range(20)]}

first = packed(prepare())
began = resident()
held = [packed(prepare()) for _ in range(16)]
print((resident() - began) / 16)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(4.1, abs=0.5)
