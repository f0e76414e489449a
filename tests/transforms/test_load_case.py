import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset, Dataset, PersistentDataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.io.dictionary import SaveImaged

from segfocal.config.schema import DataConfig
from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.transforms.load_case import LoadCased
from segfocal.transforms.pipelines import preprocessing

SCHEME = LabelScheme(("background", "lesion"), (0, 5), ignore_values=(9,))
AFFINE = np.diag([-1.0, -2.0, 3.0, 1.0])


@pytest.fixture
def cases(tmp_path):
    found = []
    for name in ("a", "b"):
        random = np.random.default_rng(len(found))
        paths = [tmp_path / f"{name}_{part}.nii.gz" for part in ("t1", "t2", "seg")]
        for path in paths[:2]:
            values = random.random((4, 5, 6), dtype=np.float32)
            nib.save(nib.Nifti1Image(values, AFFINE), path)
        label = random.choice(np.array([0, 5, 9], np.int16), (4, 5, 6))
        nib.save(nib.Nifti1Image(label, AFFINE), paths[2])
        found.append(Case(name, tuple(paths[:2]), paths[2]))
    return found


def load(case):
    return LoadCased(SCHEME, ("t1", "t2"))({"case": case, "site": "x"})


def prepare():
    return preprocessing(DataConfig(root="x"), SCHEME, ("t1", "t2"), ("t1", "t2"))


def test_what_is_written_and_where_it_came_from(cases):
    out = load(cases[0])
    values = {"case_id", "zooms_mm", "voxel_mm3", "site"}
    assert set(out) == values | {"image", "label", "reference"}
    assert out["image"].shape == (2, 4, 5, 6)
    assert out["zooms_mm"] == (1.0, 2.0, 3.0)
    assert out["voxel_mm3"] == 6.0
    stored = nib.load(cases[0].label).get_fdata()
    assert np.array_equal(out["reference"], SCHEME.encode(stored))
    assert torch.equal(out["label"][0].as_tensor(), torch.from_numpy(out["reference"]))
    for key, path in (("image", cases[0].images[0]), ("label", cases[0].label)):
        assert isinstance(out[key], MetaTensor)
        assert np.array_equal(out[key].affine, AFFINE)
        assert out[key].meta["filename_or_obj"] == str(path)


def test_what_is_given_is_not_changed(cases):
    data = {"case": cases[0]}
    LoadCased(SCHEME, ("t1", "t2"))(data)
    assert data == {"case": cases[0]}


def counting(monkeypatch):
    read, call = [], LoadCased.__call__
    monkeypatch.setattr(
        LoadCased, "__call__", lambda self, data: [read.append(data["case"]), call(self, data)][1]
    )
    return read


def test_monais_cache_reads_every_case_once(cases, monkeypatch):
    read = counting(monkeypatch)
    dataset = CacheDataset(cases, prepare(), progress=False)
    for _ in range(3):
        assert [item["case_id"] for item in dataset] == ["a", "b"]
    assert len(read) == 2


@pytest.mark.parametrize("track_meta", [False, True])
def test_monais_disk_cache_finds_again_what_it_wrote(cases, monkeypatch, tmp_path, track_meta):
    # The history of MONAI's own Orientationd holds an enum, which weights_only=True does not load.
    settings = {"track_meta": track_meta, "weights_only": not track_meta}
    read = counting(monkeypatch)
    for _ in range(2):
        dataset = PersistentDataset(cases, prepare(), tmp_path / "cache", **settings)
        items = list(dataset)
        assert len(read) == 2
    again = prepare()
    expected = again(cases[1])
    assert items[1]["case_id"] == "b"
    assert items[1]["zooms_mm"] == expected["zooms_mm"]
    for key in ("image", "label", "reference"):
        assert np.array_equal(items[1][key], expected[key])
    if track_meta:
        assert torch.equal(items[1]["image"].affine, expected["image"].affine)
        assert np.array_equal(
            again.to_source(items[1]["image"]), again.to_source(expected["image"])
        )


def test_monais_loader_batches_cases(cases):
    batch = next(iter(DataLoader(Dataset(cases, prepare()), batch_size=2)))
    assert batch["image"].shape == (2, 2, 4, 5, 6)
    assert batch["case_id"] == ["a", "b"]
    names = batch["label"].meta["filename_or_obj"]
    assert names == [str(case.label) for case in cases]


def test_a_saved_volume_bears_the_name_and_grid_of_its_source(cases, tmp_path):
    ready = prepare()
    out = ready(cases[1])
    out["label"] = ready.to_source(out["image"])[:1]
    SaveImaged(
        "label",
        output_dir=tmp_path / "out",
        output_postfix="",
        separate_folder=False,
        print_log=False,
    )(out)
    saved = nib.load(tmp_path / "out" / "b_t1.nii.gz")
    assert saved.shape == (4, 5, 6)
    assert np.array_equal(saved.affine, AFFINE)


def test_paths_are_read_as_a_case_is(cases):
    case = cases[0]
    expected = load(case)
    data = {"image": [str(path) for path in case.images], "label": str(case.label), "site": "x"}
    got = LoadCased(SCHEME, ("t1", "t2"))(data)
    assert got.keys() == expected.keys()
    for key in ("image", "label"):
        assert torch.equal(got[key].as_tensor(), expected[key].as_tensor())
    assert got["case_id"] == "a_t1"
    assert prepare()({**data, "case_id": "z"})["case_id"] == "z"


def test_one_path_is_an_image_without_a_label(cases):
    got = LoadCased(SCHEME, ("t1",))({"image": cases[0].images[0]})
    assert got["image"].shape == (1, 4, 5, 6)
    assert "label" not in got


def test_a_channels_number_is_no_part_of_a_cases_name(cases):
    images = [path.rename(path.with_name(f"p_{channel:04d}.nii.gz"))
              for channel, path in enumerate(cases[0].images)]  # fmt: skip
    assert LoadCased(SCHEME, ("t1", "t2"))({"image": images})["case_id"] == "p"


@pytest.mark.parametrize("image", [None, [], 3, {"a": 1}])
def test_what_is_neither_a_case_nor_a_path_is_refused(image):
    with pytest.raises(UserError, match=r'expected a "case", or an "image" that is a path or a li'):
        LoadCased(SCHEME, ("t1",))({"image": image})
