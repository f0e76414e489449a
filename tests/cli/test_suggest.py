"""The config that `segfocal-stats --suggest` writes: what it says of data that is known."""

import itertools
import math
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from segfocal.cli import stats as command
from segfocal.cli import train
from segfocal.config.load import load_config
from segfocal.data.phantom.stamp import STAMP
from segfocal.training.suggestion import patch_size, target_spacing
from tests.data.nifti_files import nnunet, save

PLACES = list(itertools.product((1, 4, 7), (1, 4, 7), (1,)))


@pytest.fixture
def run(run_in_empty_folder):
    return run_in_empty_folder(command.main, "--workers", 1, "--quiet")


def write_cases(
    root, affines, *, channel="T1", image=None, label=None, shape=(9, 10, 8), **declared
):
    """An nnU-Net data set of one channel and class, whose cases have these affines."""
    cases = [f"c{number}" for number in range(len(affines))]
    nnunet(root, cases=cases, channels=(channel,), **declared)
    for number, (case, affine) in enumerate(zip(cases, affines, strict=True)):
        noise = np.random.default_rng(number).normal(100, 20, shape).round().astype(np.int16)
        classes = np.zeros(shape, np.uint8)
        classes[2:5, 2:5, 2:5] = 1
        save(root / "imagesTr" / f"{case}_0000.nii.gz", noise if image is None else image, affine)
        save(root / "labelsTr" / f"{case}.nii.gz", classes if label is None else label, affine)
    return root


def suggested(run, root, *arguments):
    """The settings of the file that is written, without `data.root`."""
    status, _, error = run("--data", root, "--suggest", "my.yaml", *arguments)
    assert (status, error) == (0, "")
    written = yaml.safe_load(Path("my.yaml").read_text())
    assert written["data"].pop("root") == str(root)
    load_config(Path("my.yaml"))
    return written


def sized(*spacing):
    return np.diag([*spacing, 1.0])


def test_what_is_suggested_for_the_phantom_trains(run, phantom, run_in_empty_folder_again):
    written = suggested(run, phantom, "--set", "loss.gamma=1.5", "data.val_fraction=0.4")
    assert written == {
        "data": {"val_fraction": 0.4, "normalize": "zscore_nonzero"},
        "loss": {"gamma": 1.5},
        "train": {"patch_size": [32, 40, 32]},
    }
    text = Path("my.yaml").read_text()
    assert STAMP in text
    assert "patch_size: [32, 40, 32]   # the middle case is 32x36x28\n" in text
    status, out, _ = run_in_empty_folder_again("--config", "my.yaml", "--dry-run")
    assert status == 0
    assert "network are in order" in out


@pytest.fixture
def run_in_empty_folder_again(run_in_empty_folder):
    return run_in_empty_folder(train.main)


def test_plain_data_gets_a_patch_alone(run, tmp_path):
    root = write_cases(tmp_path / "data", 3 * [sized(1, 1, 1)])
    assert suggested(run, root) == {"data": {}, "train": {"patch_size": [16, 16, 16]}}
    assert "# the middle case is 9x10x8" in Path("my.yaml").read_text()


@pytest.mark.parametrize("channel", ["CT", "brain"])
def test_hounsfield_units_get_a_window_around_what_is_labelled(run, tmp_path, channel):
    cube = (20, 20, 20)
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)], channel=channel, shape=cube)
    for path in (root / "imagesTr").iterdir():
        hounsfield = np.full(cube, -1000 if channel == "brain" else -300, np.int16)
        hounsfield[2:5, 2:5, 2:5] = np.arange(27).reshape(3, 3, 3) * 2 + 40  # 40 to 92
        hounsfield[9, 9, 9] = 900
        save(path, hounsfield, sized(1, 1, 1))
    written = suggested(run, root)
    assert written["data"] == {"normalize": [-10, 140]}  # 52 more on either side, in tens
    lowest = -1000 if channel == "brain" else -300
    told = f"# {channel}: from {lowest}, taken for HU: the classes' 40 to 92 and"
    assert told in Path("my.yaml").read_text()


def test_every_channel_has_its_own_rule(run, tmp_path):
    root = tmp_path / "data"
    nnunet(root, channels=("T1", "CT", "PET"))
    label = np.zeros((10, 10, 10), np.uint8)
    label[0, 0, 5:] = 1  # -975 to -725 HU, 250 more on either side
    ramp = np.linspace(-1000, 5000, 1000).reshape(10, 10, 10)
    images = 50 + ramp / 9000, np.where(label > 0, -975, 1000), np.where(ramp > 2000, ramp, 0)
    images[1][0, 0, 9] = -725
    for case, (number, image) in itertools.product(("c1", "c2"), enumerate(images)):
        path = root / "imagesTr" / f"{case}_{number:04d}.nii.gz"
        save(path, image.astype(np.float32), sized(1, 1, 1))
        save(root / "labelsTr" / f"{case}.nii.gz", label, sized(1, 1, 1))
    written = suggested(run, root)
    assert written["data"] == {
        "normalize": {"T1": "zscore", "CT": [-980, -480], "PET": "zscore_nonzero"}
    }
    text = Path("my.yaml").read_text()
    assert "# CT: from -975, taken for HU" in text
    assert "; PET: 0 in 50% of the voxels\n" in text


def test_a_large_volume_has_a_cube_in_millimetres(run, tmp_path):
    shape = (256, 256, 24)
    label = np.zeros(shape, np.uint8)
    label[0] = 1
    image = np.arange(math.prod(shape)).reshape(shape).astype(np.int16)
    root = write_cases(tmp_path / "data", 2 * [sized(0.5, 0.5, 4)], image=image, label=label)
    assert suggested(run, root)["train"]["patch_size"] == [192, 192, 24]


@pytest.mark.parametrize("low", [0.0, -3.0, -1000.0])
def test_numbers_that_are_none_of_ct_get_no_window_for_its_name(run, tmp_path, low):
    """Scaled to 0 .. 1, to a z-score, or air alone."""
    image = np.linspace(low, low + (low > -900), 1000, dtype=np.float32).reshape(10, 10, 10)
    label = np.zeros((10, 10, 10), np.uint8)
    label[3, 3, 3:6] = 1
    root = write_cases(
        tmp_path / "data", 2 * [sized(1, 1, 1)], channel="CT", image=image, label=label
    )
    assert suggested(run, root)["data"] == {}


def test_a_window_goes_no_further_than_the_numbers(run, tmp_path):
    image = np.linspace(-1024, 1500, 1000).reshape(10, 10, 10).astype(np.int16)
    label = (image < 1300).astype(np.uint8)  # an organ that air belongs to
    root = write_cases(
        tmp_path / "data", 2 * [sized(1, 1, 1)], channel="CT", image=image, label=label
    )
    assert suggested(run, root)["data"] == {"normalize": [-1020, 1500]}


@pytest.mark.parametrize(("zeros", "rule"), [(0.2, None), (0.3, "zscore_nonzero")])
def test_images_that_are_0_outside_are_normalised_by_what_is_not(run, tmp_path, zeros, rule):
    image = np.random.default_rng(0).integers(50, 90, (10, 10, 10)).astype(np.int16)
    image.reshape(-1)[: round(1000 * zeros)] = 0
    label = np.zeros((10, 10, 10), np.uint8)
    label[8, 8, 8] = 1
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)], image=image, label=label)
    assert suggested(run, root)["data"].get("normalize") == rule


@pytest.mark.parametrize(
    ("along_s", "spacing"),
    [
        ((2.0, 2.1, 2.0), None),
        ((2.0, 2.5, 3.0), [1.0, 1.2, 2.5]),
        ((2.0, 9.0, 9.0), [1.0, 1.2, 9.0]),  # thick, but as many slices as rows
    ],
)
def test_voxels_of_several_sizes_are_resampled_to_the_middle_one(run, tmp_path, along_s, spacing):
    root = write_cases(tmp_path / "data", [sized(1, 1.2, size) for size in along_s])
    assert suggested(run, root)["data"].get("spacing_mm") == spacing


def test_of_thick_slices_the_thinner_are_kept_and_the_axes_are_the_bodys(run, tmp_path):
    """The files' first axis is the body's third: 30x30x4 voxels of 1x1x4 to 8 mm along R, A, S."""
    thick = [4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    label = np.zeros((4, 30, 30), np.uint8)
    label[1, 3:6, 3:6] = 1
    image = np.random.default_rng(0).integers(1, 90, label.shape).astype(np.int16)
    turned = [np.array([[0, 0, 1, 0], [0, 1, 0, 0], [s, 0, 0, 0], [0, 0, 0, 1.0]]) for s in thick]
    root = write_cases(tmp_path / "data", turned, image=image, label=label)
    assert nib.aff2axcodes(turned[0]) == ("S", "A", "R")
    written = suggested(run, root)
    assert written["data"] == {"spacing_mm": [1.0, 1.0, 4.0]}
    assert written["train"]["patch_size"] == [32, 32, 16]
    text = Path("my.yaml").read_text()
    assert "# voxels are of 1x1x4 to 1x1x8 mm" in text
    assert "# the middle case is 30x30x8" in text


@pytest.mark.parametrize(("num", "many"), [(2, False), (3, True)])
def test_lesions_are_drawn_alike_where_a_case_has_several(run, tmp_path, num, many):
    label = np.zeros((9, 9, 3), np.uint8)
    for place in PLACES[:num]:
        label[place] = 1
    image = np.random.default_rng(0).integers(1, 90, label.shape).astype(np.int16)
    root = write_cases(tmp_path / "data", 3 * [sized(1, 1, 1)], image=image, label=label)
    written = suggested(run, root)
    assert written.get("loss") == ({"batch": True} if many else None)
    assert written["train"].get("foreground_by") == ("lesion" if many else None)


@pytest.mark.parametrize(
    ("in_pieces", "classes", "many"), [(1, 2, True), (1, 3, False), (2, 3, True)]
)
def test_one_class_in_pieces_does_not_make_lesions_of_many(run, tmp_path, in_pieces, classes, many):
    label = np.zeros((9, 9, 5), np.uint8)
    for value in range(1, in_pieces + 1):
        for x, y, _ in PLACES[:3]:
            label[x, y, 2 * value - 2] = value
    for value in range(in_pieces + 1, classes + 1):
        label[3 * value - 6 : 3 * value - 4, :, 4] = value
    image = np.random.default_rng(0).integers(1, 90, label.shape).astype(np.int16)
    names = {"background": 0, "a": 1, "b": 2, "c": 3}
    names = {name: value for name, value in names.items() if value <= classes}
    affines = 3 * [sized(1, 1, 1)]
    root = write_cases(tmp_path / "data", affines, image=image, label=label, labels=names)
    assert ("foreground_by" in suggested(run, root)["train"]) == many


@pytest.mark.parametrize(
    ("name", "axes"),
    [("kidney_left", [1, 2]), ("Right lung", [1, 2]), ("leftover", None), ("bright", None)],
)
def test_classes_that_are_told_by_their_side_are_not_mirrored(run, tmp_path, name, axes):
    labels = {"background": 0, name: 1}
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)], labels=labels)
    assert suggested(run, root)["train"].get("augment") == (axes and {"flip_axes": axes})


@pytest.mark.parametrize(
    ("given", "patch"),
    [
        ("data.spacing_mm=[0.5, 1, 1]", [24, 16, 16]),
        ("network.name=DynUNet", [32, 16, 16]),
        ("network.name=UNet", [24, 16, 16]),
        ("network.name=SegResNet", [24, 16, 16]),
    ],
)
def test_the_patch_goes_by_what_was_given(run, tmp_path, given, patch):
    shape = (17 if "name" in given else 10, 10, 8)
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)], shape=shape)
    written = suggested(run, root, "--set", given)
    assert written["train"]["patch_size"] == patch


def test_what_was_given_stands_and_a_name_ends_no_comment(run, tmp_path):
    root = write_cases(
        tmp_path / "a\nb: c",
        2 * [sized(1, 1, 1)],
        channel="CT\ntrain: {epochs: 1}",
        labels={"background": 0, "left\nloss: {gamma: 9}": 1},
    )
    given = {
        "out": "runs/a",
        "data": {"normalize": "none", "val_fraction": 0.5},
        "train": {"patch_size": [8, 16, 8], "augment": {"noise_std": 0.0}},
    }
    Path("base.yaml").write_text(yaml.safe_dump(given))
    written = suggested(run, root, "--config", "base.yaml")
    assert written == {
        "out": "runs/a",
        "data": given["data"],
        "train": {"patch_size": [8, 16, 8], "augment": {"flip_axes": [1, 2], "noise_std": 0.0}},
    }
    comments = Path("my.yaml").read_text().split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in comments)


@pytest.mark.parametrize(("num", "told"), [(4, False), (5, True)])
def test_few_cases_are_told_of_cross_validation(run, tmp_path, num, told):
    root = write_cases(tmp_path / "data", num * [sized(1, 1, 1)])
    suggested(run, root)
    assert ("data.folds=5 data.fold=0" in Path("my.yaml").read_text()) == told


def test_cases_with_an_error_are_named_and_not_counted(run, tmp_path):
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)] + 25 * [sized(5, 5, 5)])
    names = [f"c{number}" for number in range(2, 27)]
    for name in names:
        save(root / "labelsTr" / f"{name}.nii.gz", np.zeros((3, 3, 3), np.uint8), sized(5, 5, 5))
    (root / "labelsTr" / "c26.nii.gz").write_bytes(b"no label")
    assert suggested(run, root)["data"] == {}
    text = Path("my.yaml").read_text()
    assert "from 2 cases" in text
    (line,) = (line for line in text.splitlines() if "exclude" in line)
    assert line.startswith("#")
    assert sorted(yaml.safe_load(line.partition("exclude: ")[2])) == sorted(names)


def test_the_command_in_the_file_can_be_typed(run, tmp_path):
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)])
    run("--data", root, "--suggest", "my first.yaml")
    (line,) = (line for line in Path("my first.yaml").read_text().splitlines() if "dry" in line)
    typed = shlex.split(line.removeprefix("#").removesuffix("checks it"))
    assert typed == ["segfocal-train", "--config", "my first.yaml", "--dry-run"]


def test_what_was_given_is_one_line_however_long(run, tmp_path):
    labels = {"background": 0, "lesion": 1} | {f"organ {n}": n for n in range(2, 40)}
    root = write_cases(tmp_path / "data", 2 * [sized(1, 1, 1)])
    Path("base.yaml").write_text(yaml.safe_dump({"data": {"labels": labels}}))
    assert suggested(run, root, "--config", "base.yaml")["data"]["labels"] == labels
    assert len(Path("my.yaml").read_text().split("  labels: ")[1].splitlines()[0]) > 500


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--suggest", "my.yaml", "--check"], "--suggest goes by the numbers: leave out --check."),
        (["--suggest", "my.txt"], "--suggest my.txt: expected a name that ends in .yaml."),
        (["--suggest", "no/my.yaml"], "--suggest no/my.yaml: the folder no does not exist."),
        (
            ["--suggest", "old.yaml"],
            "--suggest old.yaml: exists, and may hold your changes. Pass another name.",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_read(run, tmp_path, arguments, line):
    Path("old.yaml").write_text("data: {root: mine}")
    (tmp_path / "data").mkdir()
    status, _, error = run("--data", tmp_path / "data", *arguments)
    assert (status, error) == (2, f"segfocal-stats: {line}\n")
    assert Path("old.yaml").read_text() == "data: {root: mine}"
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize(
    ("along_s", "rows", "slices", "along_a", "expected"),
    [
        ((3.5, 3.5, 4.5, 4.5), 100, 33, 1.0, 3.5),
        ((3.5, 3.5, 4.5, 4.5), 99, 33, 1.0, 4.0),  # not fewer than a third
        ((2.5, 2.5, 3.5, 3.5), 100, 20, 1.0, 3.0),  # not thicker than thrice
        ((4.0, 4.0, 8.0, 8.0), 100, 20, 2.0, 6.0),  # nor than thrice the other axis
        ((0.5, 9.0, 9.0, 9.0), 100, 20, 2.0, 2.0),  # never finer than the rest
        ((3.5, *10 * [9.0]), 100, 20, 1.0, 9.0),
        ((*18 * [9.0], 4.0, 3.5), 100, 20, 1.0, 4.0),  # the second of twenty
    ],
)
@pytest.mark.parametrize("thick", range(3))
def test_thick_slices_are_those_of_nnunets_rule(along_s, rows, slices, along_a, expected, thick):
    def turned(numbers):
        return tuple(np.roll(numbers, thick).tolist())

    spacings = [turned((1.0, along_a, size)) for size in along_s]
    shapes = len(along_s) * [turned((rows + 50, rows, slices))]
    assert target_spacing(spacings, shapes) == turned((1.0, along_a, expected))


@given(
    st.lists(st.floats(1, 900), min_size=3, max_size=3),
    st.lists(st.floats(0.2, 8), min_size=3, max_size=3),
    st.sampled_from([8, 16]),
)
def test_a_patch_fits_and_is_near_to_a_cube(shape, spacing, multiple):
    patch = patch_size(shape, spacing, multiple)
    whole = [max(16, multiple * math.ceil(length / multiple)) for length in shape]
    assert math.prod(patch) <= 96**3
    assert all(length % multiple == 0 for length in patch)
    assert all(16 <= length <= most for length, most in zip(patch, whole, strict=True))
    if math.prod(whole) <= 96**3:
        assert patch == whole
    cut = [axis for axis in range(3) if patch[axis] < whole[axis]]
    for axis, other in itertools.product(cut, range(3)):
        # whatever was cut was the longest before its last cut, but for axes as short as can be
        before = (patch[axis] + multiple) * spacing[axis]
        assert before >= patch[other] * spacing[other] * (1 - 1e-9) or patch[other] == 16
