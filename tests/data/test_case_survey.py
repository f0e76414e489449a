"""A case broken in every way there is: each gets its kind and its one line, and only that."""

import dataclasses
import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from segfocal.data.case_survey import SurveyRules, survey_case
from segfocal.data.cases import Case, MissingFile
from segfocal.data.defects import SEVERITIES
from segfocal.data.survey_walk import survey_cases
from segfocal.labels import LabelScheme
from segfocal.statistics.intensities import PERCENTILES

from .nifti_files import SHEARED, TURNED, image_of, label_of, save

SHAPE = (7, 6, 5)
SCHEME = LabelScheme(("background", "oedema", "tumour"), (0, 1, 2), ignore_values=(9,))
RULES = SurveyRules(SCHEME, ("CT", "PET"), None, 0.1, 10_000)


@pytest.fixture
def case(tmp_path):
    """A case without any problem."""
    images = tuple(
        save(tmp_path / f"c_000{i}.nii.gz", image_of(SHAPE, i), TURNED) for i in range(2)
    )
    return Case("c", images, save(tmp_path / "c.nii.gz", label_of(SHAPE, (0, 1, 2, 9)), TURNED))


def told(case, rules=RULES):
    """Kind and line of every problem."""
    survey = survey_case(case, rules)
    assert all("\n" not in problem.text for problem in survey.problems)
    return [(problem.kind, str(problem)) for problem in survey.problems]


def edited(path, change):
    """Changes the decompressed bytes of a gzip file."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(change(raw) or raw)))


def poke(path, offset, form, *values):
    edited(path, lambda raw: struct.pack_into(form, raw, offset, *values))


def test_a_good_case_has_no_problem_and_its_numbers_are_numpys(case):
    survey = survey_case(case, RULES)
    assert survey.problems == []
    assert survey.usable
    label = np.asarray(nib.load(case.label).dataobj)
    assert survey.label.voxels == tuple(int((label == value).sum()) for value in (0, 1, 2, 9))
    assert survey.shape == SHAPE
    assert survey.spacing_mm == pytest.approx(nib.load(case.label).header.get_zooms(), rel=1e-5)
    assert survey.orientation == "".join(nib.aff2axcodes(TURNED))
    for i, channel in enumerate(survey.channels):
        image = nib.load(case.images[i]).get_fdata()
        assert channel.name == ("CT", "PET")[i]
        assert channel.dtype == "int16"
        assert channel.intensities.minimum == image.min()
        assert channel.intensities.maximum == image.max()
        labelled = image[np.isin(label, (1, 2))]
        assert channel.annotated.num_voxels == labelled.size
        assert (channel.annotated.minimum, channel.annotated.maximum) == (
            labelled.min(),
            labelled.max(),
        )
        assert channel.annotated.percentiles == pytest.approx(
            np.percentile(labelled[labelled != 0], PERCENTILES, method="inverted_cdf")
        )
    assert set(survey.label.lesions_mm3) == {"oedema", "tumour"}


def test_lesions_are_as_large_as_sheared_voxels(tmp_path):
    label = np.zeros(SHAPE, np.uint8)
    label[3:5, 3, 3] = 2
    images = tuple(save(tmp_path / f"c_{i}.nii", image_of(SHAPE, i), SHEARED) for i in range(2))
    case = Case("c", images, save(tmp_path / "c.nii", label, SHEARED))
    assert survey_case(case, RULES).label.lesions_mm3["tumour"] == pytest.approx((12.0,))


def test_lesions_are_measured_in_cubic_millimetres(case):
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = label[3, 3, 3] = label[4, 4, 4] = 2
    save(case.label, label, TURNED)
    voxel_mm3 = abs(np.linalg.det(TURNED[:3, :3]))
    assert survey_case(case, RULES).label.lesions_mm3["tumour"] == pytest.approx(
        (voxel_mm3, 2 * voxel_mm3)
    )


def test_four_channels_in_one_file_are_surveyed_apart(tmp_path, case):
    data = np.stack([image_of(SHAPE, i) for i in range(2)], axis=3)
    both = save(tmp_path / "both.nii.gz", data, TURNED)
    apart = survey_case(case, RULES).channels
    assert survey_case(Case("c", (both,), case.label), RULES).channels == apart
    first = save(tmp_path / "first.nii.gz", np.moveaxis(data, 3, 0), TURNED)
    rules = SurveyRules(SCHEME, ("CT", "PET"), 0, 0.1, 10_000)
    assert survey_case(Case("c", (first,), case.label), rules).channels == apart


def test_a_missing_file(case):
    case.images[1].unlink()
    assert told(case) == [("missing-file", f"c: {case.images[1]}: does not exist. Copy it there.")]
    case.images[1].symlink_to("annex/objects/x")
    ((kind, line),) = told(case)
    assert kind == "missing-file"
    assert line == (
        f"c: {case.images[1]}: is a link that leads nowhere. Fetch what it points at (git annex "
        f"get, datalad get), or copy the file there."
    )


def test_what_a_case_still_has_is_measured_and_checked(case):
    damaged = case.label.read_bytes()[:-8]
    case.label.write_bytes(damaged)
    lacks = MissingFile("CT", "ct/c.nii.gz")
    less = Case("c", case.images[1:], case.label, missing=(lacks,))
    survey = survey_case(less, RULES)
    assert [(channel.name, channel.dtype) for channel in survey.channels] == [("PET", "int16")]
    assert survey.shape == SHAPE
    assert [problem.kind for problem in survey.problems] == ["missing-file", "damaged-gzip"]
    assert str(survey.problems[0]) == (
        "c: CT is missing, expected ct/c.nii.gz. Copy it there, or leave the case out by "
        "data.exclude."
    )
    assert not survey.usable


@pytest.mark.parametrize("label", [True, False])
def test_a_case_without_any_image_or_anything_at_all(case, label):
    lacks = tuple(MissingFile(name, f"{name}.nii.gz") for name in ("CT", "PET"))
    lacks += () if label else (MissingFile("label", "label.nii.gz"),)
    survey = survey_case(Case("c", (), case.label if label else None, missing=lacks), RULES)
    assert [problem.kind for problem in survey.problems] == ["missing-file"] * len(lacks)
    assert (survey.shape, survey.channels) == (None, [])
    assert (survey.label is not None) == label


def test_a_label_is_not_held_against_a_channel_that_lies_on_another_grid_by_leave(case):
    save(case.images[1], image_of((4, 4, 4)), TURNED)
    rules = dataclasses.replace(RULES, resample_channels=True)
    less = Case("c", case.images[1:], case.label, missing=(MissingFile("CT", "x.nii.gz"),))
    assert [kind for kind, _ in told(less, rules)] == ["missing-file"]
    assert [kind for kind, _ in told(less)] == ["missing-file", "shape"]


def test_a_volume_of_several_channels_in_the_place_of_one(case):
    save(case.images[1], image_of((*SHAPE, 2)), TURNED)
    assert told(case) == [
        (
            "channels",
            (
                "c: PET is 7x6x5x2, 4-D (c_0001.nii.gz). Expected a 3-D volume: each channel has a "
                "file of its own here. Split the file."
            ),
        )
    ]


def test_the_reason_stands_before_what_follows_from_it(case):
    poke(case.images[0], 254, "<h", 0)
    poke(case.images[0], 80, "<f", 0.0)
    kinds = [kind for kind, _ in told(case)]
    assert kinds == ["spacing", "affine", "affine"]


def test_what_is_no_nifti(case):
    case.label.write_bytes(b"<html>404</html>" * 40)
    assert told(case) == [
        (
            "unreadable",
            (
                f"c: {case.label}: is not a NIfTI file. Expected NIfTI-1 or NIfTI-2 (.nii or "
                f".nii.gz). Copy or convert the file again."
            ),
        )
    ]


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda raw: raw[:-8], "the gzip stream is cut short. Copy or download the file again."),
        (lambda raw: raw[: len(raw) // 2], "the gzip stream is cut short. Copy"),
        (lambda raw: raw[:-8] + bytes(4) + raw[-4:], "the gzip stream is damaged ("),
        (lambda raw: raw[:-4] + bytes(4), "the gzip stream is damaged ("),
    ],
    ids=["no trailer", "half", "checksum", "length"],
)
def test_damaged_gzip(case, which, break_it, text):
    path = case.label if which == "label" else case.images[0]
    path.write_bytes(break_it(path.read_bytes()))
    ((kind, line),) = told(case)
    assert kind == "damaged-gzip"
    assert line.startswith(f"c: {path}: {text}")


def test_too_few_voxels_in_a_whole_gzip(case):
    edited(case.label, lambda raw: raw[:-10])
    ((kind, line),) = told(case)
    assert kind == "cut-short"
    assert line.startswith(f"c: {case.label}: is cut short: 7x6x5 uint8 needs 562 bytes, the file")


def test_bytes_behind_the_last_voxel(case):
    edited(case.images[0], lambda raw: raw + bytes(12))
    assert told(case) == [
        (
            "trailing-data",
            (
                f"c: {case.images[0]}: 12 bytes follow the last voxel. Harmless padding, or a "
                f"header whose dim was changed: compare with the source."
            ),
        )
    ]


def test_absurd_dimensions(case):
    poke(case.label, 42, "<3h", 30_000, 30_000, 30_000)
    assert told(case) == [
        (
            "too-large",
            (
                f"c: {case.label}: its header promises 30000x30000x30000 voxels, more than "
                f"data.max_voxels (10000). Mend the header, or raise data.max_voxels if the volume "
                f"is that large."
            ),
        )
    ]


def test_a_shape_that_differs(case):
    save(case.label, label_of((7, 6, 4), (0, 1, 2)), TURNED)
    assert told(case) == [
        (
            "shape",
            (
                "c: image is 7x6x5, label is 7x6x4. Resample one onto the other's grid, or check "
                "that they belong together."
            ),
        )
    ]


def test_affines_that_differ_between_channels_and_with_the_label(case):
    moved = TURNED.copy()
    moved[2, 3] += 1.5
    save(case.images[1], image_of(SHAPE, 1), moved)
    save(case.label, label_of(SHAPE, (0, 1, 2)), moved)
    cure = (
        "Resample one onto the other's grid, or mend the header that is wrong "
        "(data.affine_tolerance_mm is 0.1)."
    )
    other = "To have the channel resampled, set data.resample_channels: true."
    assert told(case) == [
        ("affine", f"c: CT and PET affines differ by 1.5 mm in z. {cure} {other}"),
        ("affine", f"c: image and label affines differ by 1.5 mm in z. {cure}"),
    ]


def test_a_qform_against_the_sform(case):
    image = nib.Nifti1Image(image_of(SHAPE), TURNED)
    turned = TURNED.copy()
    turned[0, 3] -= 4
    image.header.set_sform(TURNED, 1)
    image.header.set_qform(turned, 1)
    nib.save(image, case.images[0])
    ((kind, line),) = told(case)
    assert kind == "forms"
    assert line == (
        "c: CT: qform and sform differ by 4 mm in x; programs read one or the other (segfocal: the "
        "sform). Copy the right one over the other in c_0000.nii.gz."
    )


def test_forms_are_compared_in_millimetres(case):
    image = nib.Nifti1Image(image_of(SHAPE), 1000 * TURNED)
    moved = 1000 * TURNED
    moved[0, 3] -= 4
    image.header.set_sform(image.affine, 1)
    image.header.set_qform(moved, 1)
    image.header.set_xyzt_units("micron")
    nib.save(image, case.images[0])
    assert told(case) == []


def test_a_qform_without_sense_beside_a_good_sform(case):
    poke(case.images[0], 256, "<3f", 9, 9, 9)
    ((kind, line),) = told(case)
    assert kind == "forms"
    assert line.startswith("c: CT: its qform makes no sense; programs read one or the other")


def test_no_orientation_at_all(case):
    for path in (*case.images, case.label):
        poke(path, 252, "<2h", 0, 0)
    assert told(case)[0] == (
        "no-orientation",
        (
            "c: CT has neither a qform nor an sform code: left and right are anyone's guess. Write "
            "the scanner's orientation into c_0000.nii.gz."
        ),
    )
    assert [kind for kind, _ in told(case)] == ["no-orientation"] * 3


@pytest.mark.parametrize("length", [0.0, -2.0, float("nan")])
def test_a_voxel_size_that_is_none_beside_a_good_sform(case, length):
    poke(case.label, 84, "<f", length)
    sizes = ", ".join(f"{zoom:.4g}" for zoom in nib.affines.voxel_sizes(TURNED))
    kinds = dict(told(case))
    assert kinds["odd-spacing"].startswith("c: label has the voxel size [")
    assert kinds["odd-spacing"].endswith(
        f"mm (pixdim); its affine says [{sizes}]. Write that into pixdim of c.nii.gz: other "
        f"programs read it."
    )
    assert set(kinds) <= {"odd-spacing", "forms"}


def test_a_voxel_size_of_zero_and_no_sform(case):
    poke(case.images[0], 254, "<h", 0)
    poke(case.images[0], 80, "<f", 0.0)
    assert (
        "spacing",
        (
            "c: CT has the voxel size [0, 2, 3] mm (pixdim) and no sform to tell the true "
            "one. Write the scanner's voxel size into c_0000.nii.gz."
        ),
    ) in told(case)


def test_a_voxel_size_of_nan_and_no_sform(case):
    poke(case.images[0], 254, "<h", 0)
    poke(case.images[0], 80, "<f", float("nan"))
    assert (
        "spacing",
        (
            f"c: {case.images[0]}: has the voxel size [nan, 2, 3] mm (pixdim) and no sform to tell "
            f"the true one. Write the scanner's voxel size into it."
        ),
    ) in told(case)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(case, bad):
    data = image_of(SHAPE).astype(np.float32)
    data[1, 1, 1] = data[2, 2, 2] = bad
    save(case.images[0], data, TURNED)
    assert told(case) == [
        (
            "not-finite",
            (
                "c: c_0000.nii.gz: 2 of 210 voxels are NaN, infinite or too large for float32. Set "
                "them to 0 (or to the air value) in the file."
            ),
        )
    ]


def test_undeclared_labels(case):
    save(case.label, label_of(SHAPE, (0, 1, 7)), TURNED)
    assert told(case) == [
        (
            "undeclared-label",
            (
                "c: label holds {0,1,7}; the config declares {0,1,2,9}. Declare 7 in data.labels, "
                "or set loss.ignore_index: 7 if nobody annotated those voxels."
            ),
        )
    ]


def test_a_float_label_that_was_interpolated(case):
    data = label_of(SHAPE, (0, 1, 2)).astype(np.float32)
    data[0, 0, 0] = 0.4
    save(case.label, data, TURNED)
    assert told(case) == [
        (
            "label-not-integer",
            (
                f"c: {case.label}: label holds 0.4, expected integers (1 voxels are not). Was it "
                f"resampled with interpolation? Resample labels with nearest neighbour."
            ),
        )
    ]


def test_an_empty_and_an_all_ignored_label(case):
    save(case.label, np.zeros(SHAPE, np.uint8), TURNED)
    assert told(case) == [
        (
            "empty-label",
            (
                "c: label holds background alone. Right for a healthy case; otherwise the "
                "annotation was lost on the way."
            ),
        )
    ]
    save(case.label, np.full(SHAPE, 9, np.uint8), TURNED)
    assert told(case) == [
        (
            "all-ignored",
            (
                "c: every voxel is ignored: nothing to learn from. Take the case out, or name "
                "another loss.ignore_index."
            ),
        )
    ]


def test_a_channel_that_is_constant(case):
    save(case.images[1], np.full(SHAPE, 3, np.int16), TURNED)
    assert told(case) == [
        (
            "constant-image",
            "c: PET holds 3 in every voxel (c_0001.nii.gz). Was it converted wrongly?",
        )
    ]


def test_channels_in_another_axis_and_too_many(tmp_path, case):
    data = np.stack([image_of(SHAPE, i) for i in range(2)])
    first = save(tmp_path / "first.nii.gz", data, TURNED)
    ((kind, line),) = told(Case("c", (first,), None))
    assert (kind, line) == (
        "channel-axis",
        "c: image 2x7x6x5 is channel-first; set data.channel_dim: 0.",
    )
    third = Case("c", (*case.images, case.images[0]), None)
    assert told(third)[0] == (
        "channels",
        "c: has 3 channel files; the data has 2 channels (CT, PET).",
    )


def test_every_problem_of_a_case_is_told_at_once(case):
    case.images[0].write_bytes(case.images[0].read_bytes()[:-8])
    data = image_of(SHAPE).astype(np.float32)
    data[0, 0, 0] = np.nan
    save(case.images[1], data, TURNED)
    poke(case.images[1], 252, "<2h", 0, 0)
    save(case.label, label_of(SHAPE, (0, 5)), TURNED)
    assert sorted(kind for kind, _ in told(case)) == [
        "affine",
        "damaged-gzip",
        "no-orientation",
        "not-finite",
        "undeclared-label",
    ]


def test_copies_are_found_however_they_are_compressed(tmp_path, case):
    other = tmp_path / "d_0000.nii"
    other.write_bytes(gzip.decompress(case.images[0].read_bytes()))
    second = Case("d", (other, case.images[0]), case.label)
    surveys = survey_cases([case, second], RULES)
    assert surveys[0].problems == []
    assert [(p.kind, str(p)) for p in surveys[1].problems] == [
        (
            "duplicate-image",
            (
                "d: CT holds the same numbers as c's CT. A copy on both sides of a split makes "
                "validation look better than it is: remove one."
            ),
        ),
        (
            "duplicate-image",
            (
                "d: PET holds the same numbers as c's CT. A copy on both sides of a split makes "
                "validation look better than it is: remove one."
            ),
        ),
    ]
    same = Case("e", (case.images[0], case.images[0]), case.label)
    (problem,) = survey_cases([same], RULES)[0].problems
    assert str(problem) == "e: PET holds the same numbers as its own CT. Was the wrong file copied?"


def test_every_kind_is_documented():
    from pathlib import Path

    page = Path("docs/stats.md").read_text()
    for kind, severity in SEVERITIES.items():
        assert f"| `{kind}` | {severity} |" in page, kind


def test_a_label_that_contradicts_what_was_annotated_is_a_problem(tmp_path):
    scheme = LabelScheme(("background", "liver", "spleen"), (0, 1, 2))
    image = save(tmp_path / "i.nii.gz", image_of((6, 5, 4)))
    label = save(tmp_path / "l.nii.gz", label_of((6, 5, 4), (0, 1, 2)))
    rules = SurveyRules(scheme, ("CT",), None, 0.1, 10**9)
    whole = survey_case(Case("c", (image,), label), rules)
    assert whole.problems == []
    (problem,) = survey_case(Case("c", (image,), label, ("liver",)), rules).problems
    assert (problem.kind, problem.severity) == ("undeclared-label", "error")
    assert problem.text.startswith("label holds spleen (2), but the case is declared annotated for")


def test_a_channel_on_another_grid_is_no_problem_where_it_is_resampled(tmp_path):
    images = tuple(save(tmp_path / f"{n}.nii.gz", image_of((6 + n, 5, 4))) for n in range(2))
    label = save(tmp_path / "l.nii.gz", label_of((6, 5, 4)))
    scheme = LabelScheme(("background", "lesion"), (0, 1))
    case = Case("c", images, label)
    (problem,) = survey_case(case, SurveyRules(scheme, ("a", "b"), None, 0.1, 10**9)).problems
    assert problem.kind == "shape"
    assert problem.text.endswith("set data.resample_channels: true.")
    resampled = SurveyRules(scheme, ("a", "b"), None, 0.1, 10**9, resample_channels=True)
    assert survey_case(case, resampled).problems == []
    within = [channel.annotated for channel in survey_case(case, resampled).channels]
    assert within[0].num_voxels == np.count_nonzero(nib.load(label).dataobj)
    assert within[1] is None


def test_a_moved_channel_of_the_labels_shape_is_not_measured_under_it(case):
    moved = TURNED.copy()
    moved[2, 3] += 3
    save(case.images[1], image_of(SHAPE), moved)
    first, second = survey_case(case, dataclasses.replace(RULES, resample_channels=True)).channels
    assert first.annotated is not None
    assert second.annotated is None


def test_under_an_empty_label_nothing_is_measured(case):
    save(case.label, np.where(label_of(SHAPE) > 0, 9, 0).astype(np.uint8), TURNED)
    assert [channel.annotated for channel in survey_case(case, RULES).channels] == [None, None]
