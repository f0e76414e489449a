import mmap
import pickle

import numpy as np
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


def test_the_arrays_of_a_case_lie_in_one_piece_of_memory_and_no_longer_on_the_heap():
    case = {"image": torch.ones(3, 5), "label": np.ones(7, np.uint8), "more": [torch.ones(9)]}
    kept = packed(case)
    image, label, more = kept["image"], torch.from_numpy(kept["label"]), kept["more"][0]
    first = image.data_ptr()
    assert first % mmap.PAGESIZE == 0
    assert [label.data_ptr() - first, more.data_ptr() - first] == [64, 128]
