import json

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.dictionary import Orientationd, Spacingd

from segfocal.training.case_file import (
    CaseFile,
    DamagedCaseFileError,
    open_case_file,
    write_case_file,
)

CASE = {
    "case_id": "oedème 7",
    "image": torch.arange(2 * 5 * 6 * 7, dtype=torch.float32).reshape(2, 5, 6, 7),
    "label": torch.tensor([[[[0, 255, 3]]]], dtype=torch.uint8),
    "indices": [np.array([3, 9]), np.empty(0, dtype=np.int64), np.array([2**40])],
    "zooms_mm": (0.5, 1.0, 3.27),
    "nothing": None,
    "scalar": np.float64(1.5),
    "bools": np.array([[True, False]]),
}


@pytest.fixture
def path(tmp_path):
    write_case_file(tmp_path / "a.case", {"made": "of this"}, CASE)
    return tmp_path / "a.case"


def test_a_case_comes_back_value_for_value_and_type_for_type(path):
    file = open_case_file(path)
    assert file.identity == {"made": "of this"}
    assert file.num_bytes == path.stat().st_size
    case = file.load(verify=True)
    assert list(case) == list(CASE)
    for name in ("image", "label"):
        assert torch.equal(case[name], CASE[name])
        assert case[name].dtype == CASE[name].dtype
    for found, written in zip(case["indices"], CASE["indices"], strict=True):
        assert found.dtype == np.int64
        assert np.array_equal(found, written)
    assert case["zooms_mm"] == CASE["zooms_mm"]
    assert case["case_id"] == "oedème 7"
    assert case["nothing"] is None
    assert float(case["scalar"]) == 1.5
    assert case["bools"].dtype == bool


def test_a_preprocessed_volume_can_still_be_taken_back_to_its_grid(tmp_path):
    affine = torch.diag(torch.tensor([-1.0, -1.5, 3.0, 1.0], dtype=torch.float64))
    volume = MetaTensor(torch.rand(1, 8, 7, 6), affine=affine)

    def transforms():
        orient = Orientationd("image", axcodes="RAS", labels=None)
        return orient, Spacingd("image", pixdim=(1.0, 1.0, 2.0))

    orient, space = transforms()
    prepared = space(orient({"image": volume}))
    write_case_file(tmp_path / "a", None, prepared)
    loaded = open_case_file(tmp_path / "a").load(verify=True)
    assert torch.equal(loaded["image"].affine, prepared["image"].affine)
    expected = orient.inverse(space.inverse(prepared))["image"]
    orient, space = transforms()  # another process has other objects
    found = orient.inverse(space.inverse(loaded))["image"]
    assert found.shape == volume.shape
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)


def test_every_single_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a"
    write_case_file(path, {"n": 1}, {"image": torch.arange(40.0), "id": "x"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        with pytest.raises(DamagedCaseFileError):
            open_case_file(path).load(verify=True)


@pytest.mark.parametrize("keep", [0, 1, 20, 100, -1, -70])
def test_a_torn_file_is_noticed_before_it_is_mapped(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(DamagedCaseFileError):
        open_case_file(path)


def test_a_longer_file_is_noticed_too(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedCaseFileError, match="bytes instead of"):
        open_case_file(path)


def test_changing_a_loaded_tensor_changes_neither_the_file_nor_another_map(path):
    before = path.read_bytes()
    first, second = (open_case_file(path).load(verify=False) for _ in range(2))
    first["image"].zero_()
    assert torch.equal(second["image"], CASE["image"])
    assert path.read_bytes() == before


def test_a_map_survives_the_replacement_of_its_file(path):
    old = open_case_file(path).load(verify=False)
    write_case_file(path, None, {"image": torch.zeros(3)})
    assert torch.equal(old["image"], CASE["image"])
    assert open_case_file(path).load(verify=True)["image"].shape == (3,)


def test_a_file_that_is_replaced_between_opening_and_mapping_is_noticed(path):
    file = open_case_file(path)
    write_case_file(path, {"made": "of that"}, {**CASE, "case_id": "other  8"})
    with pytest.raises(DamagedCaseFileError, match="it was replaced meanwhile"):
        file.load(verify=False)


def test_arrays_lie_aligned_in_the_file(path):
    case = open_case_file(path).load(verify=False)
    assert case["image"].data_ptr() % 64 == 0
    assert case["label"].data_ptr() % 64 == 0


@pytest.mark.parametrize("value", [object(), {1: "number as key"}, {"x": {2, 3}}])
def test_what_cannot_be_kept_is_refused_and_leaves_no_file(tmp_path, value):
    with pytest.raises(TypeError, match="a case file holds"):
        write_case_file(tmp_path / "a", None, {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_no_file_handle_stays_open(tmp_path):
    # A thousand cases with a handle each would pass the usual limit of 1024.
    from pathlib import Path

    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("/proc is Linux's")
    write_case_file(tmp_path / "a", None, {"image": torch.zeros(5000)})
    before = len(list(handles.iterdir()))
    held = [open_case_file(tmp_path / "a").load(verify=True) for _ in range(20)]
    assert len(list(handles.iterdir())) == before
    assert len(held) == 20


def test_only_the_pages_of_a_crop_are_read(tmp_path):
    from pathlib import Path

    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("/proc is Linux's")
    path = tmp_path / "large"
    write_case_file(path, None, {"image": torch.ones(1, 256, 256, 64)})
    image = open_case_file(path).load(verify=False)["image"]
    assert float(image[0, 100:110, 100:110].sum()) == 100 * 64
    entry = smaps.read_text().split(str(path), 1)[1]
    resident_kib = int(entry.split("Rss:", 1)[1].split()[0])
    # The kernel maps some pages round each one that is touched; the volume has 16384 KiB.
    assert resident_kib < 8192


def test_the_header_is_json_that_a_person_can_read(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[16:24], "little")
    assert json.loads(raw[24 : 24 + length])["identity"] == {"made": "of this"}
    assert isinstance(open_case_file(path), CaseFile)
