import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from segfocal._version import __version__
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.statistics.class_histogram import class_histogram
from segfocal.statistics.voxel_counts import VoxelCounts

SCHEME = LabelScheme(("background", "oedema", "core"), (0, 2, 7), ignore_values=(9,))
BRATS = LabelScheme.preset("brats23")


def label_map(seed, shape=(9, 8, 7), classes=(0, 1, 2, 255)):
    return np.random.default_rng(seed).choice(classes, shape).astype(np.uint8)


def counted(maps, scheme=SCHEME):
    counts = VoxelCounts(scheme)
    for case_id, classes in maps.items():
        counts.add(classes, case_id=case_id)
    return counts


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=7)))
def test_the_histogram_equals_numpys_unique(classes):
    values, occurrences = np.unique(classes, return_counts=True)
    expected = np.zeros(256, np.int64)
    expected[values] = occurrences
    np.testing.assert_array_equal(class_histogram(classes), expected)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_001])
def test_the_histogram_is_whole_at_chunk_edges(size):
    classes = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    np.testing.assert_array_equal(class_histogram(classes), np.bincount(classes, minlength=256))


def test_the_histogram_does_not_depend_on_memory_order():
    classes = label_map(0, (30, 20, 10))
    for view in (np.asfortranarray(classes), classes[::-1, ::2], classes.transpose(2, 0, 1)):
        np.testing.assert_array_equal(
            class_histogram(view), np.bincount(view.ravel(), minlength=256)
        )


def test_only_class_maps_are_counted():
    with pytest.raises(ValueError, match="classes must be uint8 class indices, got int64"):
        class_histogram(np.zeros(3, np.int64))


def test_voxels_and_ignored_voxels_equal_a_count_by_hand():
    maps = {"a": label_map(1), "b": label_map(2, (4, 4, 4)), "c": label_map(3, classes=(0, 255))}
    counts = counted(maps)
    everything = np.concatenate([m.ravel() for m in maps.values()])
    assert counts.voxels.tolist() == [int((everything == c).sum()) for c in range(3)]
    assert counts.ignored == int((everything == 255).sum())
    assert counts.ignored_fraction == pytest.approx((everything == 255).mean())
    assert counts.num_cases == 3
    assert counts.table.tolist() == [
        [int((maps[name] == c).sum()) for c in range(3)] for name in "abc"
    ]


def test_a_label_counted_by_value_or_by_class_counts_the_same():
    values = np.random.default_rng(0).choice([0, 2, 7, 9], (6, 5, 4)).astype(np.uint8)
    counts = counted({"a": SCHEME.encode(values)})
    by_value = VoxelCounts(SCHEME)
    by_value.add_values(*np.unique(values, return_counts=True), case_id="a")
    by_class = VoxelCounts(SCHEME)
    by_class.add_counts(
        [int((values == v).sum()) for v in (0, 2, 7)], int((values == 9).sum()), case_id="a"
    )
    assert counts.to_dict() == by_value.to_dict() == by_class.to_dict()
    assert counts.annotated("a") == int((values != 9).sum())
    with pytest.raises(ValueError, match="case a was counted already"):
        by_value.add_values([0], [1], case_id="a")
    with pytest.raises(ValueError, match="case b: expected 3 counts, got 2"):
        by_class.add_counts([1, 2], 0, case_id="b")
    with pytest.raises(UserError, match="label holds"):
        by_value.add_values([0, 5], [1, 1], case_id="b")


def test_region_voxels_equal_the_union_of_their_classes():
    maps = {"a": label_map(1, classes=(0, 1, 2, 3)), "b": label_map(2, classes=(0, 2))}
    expected = [
        [int(np.isin(maps[name], classes).sum()) for classes in ((1, 2, 3), (1, 3), (3,))]
        for name in "ab"
    ]
    assert counted(maps, BRATS).region_table.tolist() == expected
    plain = counted({"a": label_map(1), "b": label_map(2)})
    assert plain.region_table.tolist() == [
        [(label_map(seed) == c).sum() for c in range(3)] for seed in (1, 2)
    ]


def test_merging_equals_counting_at_once_in_any_order():
    maps = {f"c{i}": label_map(i) for i in range(6)}
    at_once = counted(maps).to_dict()
    first = counted({k: maps[k] for k in ("c4", "c1")})
    second = counted({k: maps[k] for k in ("c0", "c5", "c3", "c2")})
    assert first.merge(second).to_dict() == at_once
    assert second.merge(first).to_dict() == at_once
    assert first.num_cases == 2


def test_a_case_is_never_counted_twice():
    counts = counted({"a": label_map(1)})
    with pytest.raises(ValueError, match="case a was counted already"):
        counts.add(label_map(1), case_id="a")
    with pytest.raises(ValueError, match="case a was counted in both"):
        counts.merge(counted({"a": label_map(2)}))


def test_counts_of_different_labels_are_not_merged():
    with pytest.raises(ValueError, match="different label schemes"):
        VoxelCounts(SCHEME).merge(VoxelCounts(BRATS))


def test_a_class_index_outside_the_scheme_is_refused_and_leaves_no_trace():
    counts = VoxelCounts(SCHEME)
    with pytest.raises(ValueError, match="case a holds class index 3, expected 0 to 2 or 255"):
        counts.add(np.array([0, 3, 255], np.uint8), case_id="a")
    assert counts.num_cases == 0
    counts.add(np.array([0, 2, 255], np.uint8), case_id="a")


def test_the_counts_of_a_split_are_those_of_its_cases():
    maps = {f"c{i}": label_map(i) for i in range(5)}
    chosen = counted(maps).subset(["c3", "c0"])
    assert chosen.to_dict() == counted({k: maps[k] for k in ("c0", "c3")}).to_dict()
    with pytest.raises(ValueError, match="case x was not counted"):
        counted(maps).subset(["x"])


def test_nothing_counted_is_zero():
    counts = VoxelCounts(SCHEME)
    assert counts.voxels.tolist() == [0, 0, 0]
    assert counts.ignored_fraction == 0
    assert counts.table.shape == (0, 3)


def test_the_file_comes_back_and_tells_where_it_comes_from(tmp_path):
    counts = counted({"b": label_map(1), "a": label_map(2)})
    counts.write(tmp_path / "stats.json")
    assert VoxelCounts.read(tmp_path / "stats.json").to_dict() == counts.to_dict()
    provenance = json.loads((tmp_path / "stats.json").read_text())["provenance"]
    assert provenance["num_cases"] == 2
    assert provenance["cases_sha256"] == hashlib.sha256(b"a\nb").hexdigest()
    assert provenance["labels"] == {"background": 0, "oedema": 2, "core": 7}
    assert provenance["voxels"]["core"] == counts.voxels[2]
    assert provenance["ignore_values"] == [9]
    assert provenance["ignored_voxels"] == counts.ignored
    assert provenance["segfocal"] == __version__


def test_counts_beyond_32_bits_stay_whole():
    counts = VoxelCounts.from_dict(
        {"scheme": SCHEME.to_dict(), "cases": {"a": [2**40, 1, 1, 0], "b": [2**40, 0, 0, 0]}}
    )
    assert counts.voxels.tolist() == [2**41, 1, 1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cases": {"a": [1, 2, 3]}}, "case a: expected 4 counts >= 0"),
        ({"cases": {"a": [1, 2, 3, -4]}}, "case a: expected 4 counts >= 0"),
        ({"cases": {"a": [1, 2, 3, 0.5]}}, "case a: expected 4 counts >= 0"),
        ({"cases": {"a": "x"}}, "case a: expected 4 counts >= 0"),
        ({"cases": [1]}, "holds no voxel counts"),
        ({"lesions": {"a": [1]}}, "case a: expected 2 numbers of lesions"),
        ({"lesions": {"b": [1, 1]}}, "case b was not counted"),
        ({"lesions": [1]}, "holds no voxel counts"),
        ({"scheme": None}, "holds no voxel counts"),
    ],
)
def test_a_file_that_holds_no_counts_is_refused_by_name(tmp_path, change, text):
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(counted({"a": label_map(1)}).to_dict() | change))
    with pytest.raises(UserError, match=text) as caught:
        VoxelCounts.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "is missing" not in str(caught.value)


def test_a_file_without_a_key_is_refused_by_name(tmp_path):
    (tmp_path / "stats.json").write_text("{}")
    with pytest.raises(UserError, match="key 'scheme' is missing"):
        VoxelCounts.read(tmp_path / "stats.json")


def blobs(seed, shape=(24, 20, 16), kinds=3):
    """Classes in smooth patches that touch and enclose each other, and some ignored voxels."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    inner = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    classes = np.where(field > 0.12, 1 + np.digitize(inner, np.linspace(-0.1, 0.1, kinds - 1)), 0)
    classes[rng.random(shape) < 0.03] = 255
    return classes.astype(np.uint8)


def scipys_lesions(classes, groups):
    """Components of the whole volume by `scipy.ndimage.label`, corners included."""
    touching = ndimage.generate_binary_structure(3, 3)
    return [ndimage.label(np.isin(classes, group), touching)[1] for group in groups]


@pytest.mark.parametrize(
    ("scheme", "kinds", "groups"),
    [
        (SCHEME, 2, [(1,), (2,)]),
        (BRATS, 3, [(1,), (2,), (3,), (1, 2, 3), (1, 3), (3,)]),
    ],
)
def test_lesions_equal_scipys_on_whole_volumes_classes_first_then_regions(scheme, kinds, groups):
    maps = {name: blobs(seed, kinds=kinds) for seed, name in enumerate("abc")}
    counts = VoxelCounts(scheme)
    for case_id, classes in maps.items():
        counts.add(classes, case_id=case_id, lesions=True)
    expected = [scipys_lesions(classes, groups) for classes in maps.values()]
    assert counts.lesion_table.tolist() == expected
    assert min(map(min, expected)) > 3  # the maps hold something to count
    names = [*scheme.names[1:], *(region.name for region in scheme.regions)]
    totals = np.sum(expected, axis=0).tolist()
    assert counts.provenance()["lesions"] == dict(zip(names, totals, strict=True))
    assert counts.provenance()["lesion_neighbours"] == "26 in 3-d, 8 in 2-d"
    only_faces = ndimage.label(np.isin(maps["a"], groups[-1]))[1]
    assert only_faces != expected[0][-1]  # nor could the connectivity be another


def test_lesions_are_those_of_one_case_behind_axes_of_length_one():
    counts = VoxelCounts(SCHEME)
    classes = blobs(3, kinds=2)
    counts.add(torch.from_numpy(classes)[None, None], case_id="a", lesions=True)
    assert counts.lesion_table.tolist() == [scipys_lesions(classes, [(1,), (2,)])]
    for wrong in (np.stack([classes, classes]), classes.ravel()):
        with pytest.raises(ValueError, match="Pass one volume at a time, not a batch and not a"):
            counts.add(wrong, case_id="b", lesions=True)
    with pytest.raises(ValueError, match="classes must be uint8 class indices, got int64"):
        counts.add(classes.astype(np.int64), case_id="b", lesions=True)
    assert counts.num_cases == 1


def test_lesions_are_merged_cut_down_and_written_with_their_cases(tmp_path):
    maps = {f"c{i}": blobs(i, kinds=2) for i in range(4)}

    def lesions_of(*names):
        counts = VoxelCounts(SCHEME)
        for name in names:
            counts.add(maps[name], case_id=name, lesions=True)
        return counts

    at_once = lesions_of(*maps)
    merged = lesions_of("c2", "c0").merge(lesions_of("c3", "c1"))
    assert merged.to_dict() == at_once.to_dict()
    assert at_once.subset(["c3", "c1"]).to_dict() == lesions_of("c1", "c3").to_dict()
    at_once.write(tmp_path / "stats.json")
    read = VoxelCounts.read(tmp_path / "stats.json")
    assert read.to_dict() == at_once.to_dict()
    assert read.lesion_table.tolist() == at_once.lesion_table.tolist()


def test_a_file_without_lesions_is_read_and_its_lesions_are_asked_for(tmp_path):
    counted({"a": label_map(1)}).write(tmp_path / "stats.json")
    plain = json.loads((tmp_path / "stats.json").read_text())
    assert "lesions" not in plain
    assert "lesions" not in plain["provenance"]
    with pytest.raises(UserError, match=r"^alpha: the lesions of a were not counted\. Count them"):
        _ = VoxelCounts.read(tmp_path / "stats.json").lesion_table


def test_lesions_of_some_cases_alone_have_no_total():
    counts = counted({"a": label_map(1)})
    counts.add(label_map(2), case_id="b", lesions=True)
    assert "lesions" not in counts.provenance()
    with pytest.raises(UserError, match="the lesions of a were not counted"):
        _ = counts.lesion_table


@pytest.mark.parametrize(
    ("lesions", "text"),
    [
        ([1], "case a: expected 2 numbers of lesions, none above its voxels"),
        ([1, -1], "none above its voxels"),
        ([1, 3], "none above its voxels"),
        ([1.5, 1], "none above its voxels"),
    ],
)
def test_lesions_that_do_not_fit_the_voxels_are_refused(lesions, text):
    counts = VoxelCounts.from_dict({"scheme": SCHEME.to_dict(), "cases": {"a": [9, 5, 2, 0]}})
    with pytest.raises(ValueError, match=text):
        counts.add_lesions(lesions, case_id="a")
    counts.add_lesions([5, 2], case_id="a")
    with pytest.raises(ValueError, match="the lesions of case a were counted already"):
        counts.add_lesions([5, 2], case_id="a")
    with pytest.raises(ValueError, match="case b was not counted"):
        counts.add_lesions([1, 1], case_id="b")


@pytest.mark.parametrize("package", ["segfocal.statistics", "segfocal.data.verify",
                                     "segfocal.data.layouts", "segfocal.data.split"])  # fmt: skip
def test_importing_costs_no_torch_and_statistics_no_nibabel(package):
    banned = {"torch", "monai", "matplotlib", "pydantic"}
    if package == "segfocal.statistics":
        banned.add("nibabel")
    code = f"import sys, {package}; print([m for m in {sorted(banned)} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_order_of_cases_does_not_matter(seed, num_cases):
    maps = {f"c{i}": label_map(seed + i, (3, 3, 3)) for i in range(num_cases)}
    backwards = dict(reversed(maps.items()))
    assert counted(maps).to_dict() == counted(backwards).to_dict()


def test_a_tensor_is_counted_as_the_array_it_holds():
    classes = torch.tensor([[0, 1], [1, 255]], dtype=torch.uint8)
    counts = VoxelCounts(LabelScheme(("background", "a"), (0, 1), ignore_values=(9,)))
    counts.add(classes, case_id="plain")
    counts.add(MetaTensor(classes), case_id="meta")
    assert (counts.voxels.tolist(), counts.ignored) == ([2, 4], 2)
    with pytest.raises(ValueError, match=r"^classes must be uint8 class indices, got int64\.$"):
        counts.add(classes.long(), case_id="c")
