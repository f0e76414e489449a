import unicodedata
from pathlib import Path

import pytest

from segfocal.data.cases import Case, MissingFile
from segfocal.data.defects import Problem
from segfocal.errors import UserError
from segfocal.evaluation.pairs import Predictions, find_predictions, pair_up
from segfocal.evaluation.references import References


def references(*names, **options):
    return References(
        tuple(Case(name, (), Path(f"ref/{name}.nii.gz")) for name in names), **options
    )


def predictions(*names, **options):
    return Predictions({name: Path(f"pred/{name}.nii.gz") for name in names}, **options)


def pairs_of(pred, ref, *, allow_missing=False):
    pairs, problems = pair_up(pred, ref, allow_missing=allow_missing)
    told = [(pair.prediction.name, pair.reference.name) for pair in pairs]
    return told, [str(problem) for problem in problems]


def test_files_of_one_name_belong_together_sorted():
    told, problems = pairs_of(predictions("b", "a"), references("a", "b"))
    assert told == [("a.nii.gz", "a.nii.gz"), ("b.nii.gz", "b.nii.gz")]
    assert problems == []


@pytest.mark.parametrize(
    ("pred", "ref"),
    [("a", "a-seg"), ("a_seg", "a"), ("a_trans", "a"), ("a_pred", "a_label"), ("a-Mask", "a")],
)
def test_a_word_that_programs_put_behind_the_name_is_no_part_of_it(pred, ref):
    told, problems = pairs_of(predictions(pred), references(ref))
    assert told == [(f"{pred}.nii.gz", f"{ref}.nii.gz")]
    assert problems == []


@pytest.mark.parametrize("mark", ["", "_seg"])
def test_an_accent_is_the_same_as_one_character_or_as_two(mark):
    one, two = (unicodedata.normalize(form, "M\u00fcller") for form in ("NFC", "NFD"))
    assert one != two
    for pred, ref in ((one, two), (two, one)):
        told, problems = pairs_of(predictions(pred + mark), references(ref))
        assert told == [(f"{pred}{mark}.nii.gz", f"{ref}.nii.gz")]
        assert problems == []
    told, _ = pairs_of(predictions(one, two), references(two, one))
    assert told == [(f"{name}.nii.gz",) * 2 for name in sorted((one, two))]


def test_the_whole_name_goes_before_its_part():
    told, problems = pairs_of(predictions("a", "a_seg"), references("a"))
    assert told == [("a.nii.gz", "a.nii.gz")]
    assert problems == [
        (
            "a_seg: a_seg.nii.gz has no reference of that name. Add the reference, or move the "
            "prediction away."
        )
    ]


@pytest.mark.parametrize(
    ("pred", "ref", "words"),
    [
        (["a"], ["a_seg", "a-label"], "prediction a could be of references a_seg and a-label"),
        (["a_pred"], ["a", "a_seg"], "prediction a_pred could be of references a and a_seg"),
        (["a_seg", "a_pred"], ["a"], "predictions a_seg and a_pred could be of reference a"),
    ],
)
def test_what_could_be_of_two_is_taken_for_neither(pred, ref, words):
    told, problems = pairs_of(predictions("b", *pred), references("b", *ref))
    assert told == [("b.nii.gz", "b.nii.gz")]
    assert problems == [
        f"a: {words}: none is taken. Name the two that belong together alike.",
    ]


def test_what_could_be_of_two_is_told_in_the_order_of_the_names():
    two_of_each = (name + mark for name in "heafgbcd" for mark in ("_seg", "-label"))
    _, problems = pairs_of(predictions("z", *"heafgbcd"), references("z", *two_of_each))
    assert [problem.partition(":")[0] for problem in problems] == list("abcdefgh")


def test_where_nothing_else_is_there_what_could_be_of_two_is_told():
    with pytest.raises(UserError, match=r"^a: prediction a could be of references a_seg and a-lab"):
        pairs_of(predictions("a"), references("a_seg", "a-label"))


def test_a_misspelt_name_is_told_with_the_case_that_is_left():
    _, problems = pairs_of(predictions("case_1", "case2"), references("case_1", "case_2"))
    assert problems == [
        (
            "case2: case2.nii.gz has no reference of that name. Is it case_2? Rename it, or move "
            "the prediction away."
        ),
        "case_2: has no prediction case_2.nii.gz. Predict it, or pass --allow-missing.",
    ]


def test_what_was_not_predicted_is_told_in_the_order_of_the_names():
    _, problems = pairs_of(predictions("a"), references(*"heafgbcd"))
    assert [problem.partition(":")[0] for problem in problems] == list("bcdefgh")


def test_what_was_not_predicted_may_be_as_it_should_be():
    assert pairs_of(predictions("a"), references("a", "b"), allow_missing=True)[1] == []
    assert pairs_of(predictions("a", is_file=True), references("a", "b"))[1] == []


@pytest.mark.parametrize("name", ["b", "b_seg"])
def test_a_case_of_a_data_set_without_its_label_is_told(name):
    missing = (MissingFile("T1", "imagesTr/b.nii.gz"), MissingFile("label", "labelsTr/b.nii.gz"))
    cases = (*references("a").cases, Case("b", (), None, missing=missing), Case("c", (), None))
    _, problems = pairs_of(predictions("a", name), References(cases))
    assert problems == ["b: its label is missing, expected labelsTr/b.nii.gz. Copy it there."]


def test_the_volumes_of_a_folder_are_predictions_but_for_two_of_one_name(tmp_path):
    for name in ("a.nii.gz", "a.nii", "b.nii", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_predictions(tmp_path)
    assert found.files == {"b": tmp_path / "b.nii"}
    assert [problem.case_id for problem in found.problems] == ["a"]
    assert not found.is_file
    (tmp_path / "b.nii").unlink()
    assert (find_predictions(tmp_path).files, len(found.problems)) == ({}, 1)
    lone = find_predictions(tmp_path / "a.nii")
    assert (lone.files, lone.is_file) == ({"a": tmp_path / "a.nii"}, True)
    (tmp_path / "C.NII.GZ").write_bytes(b"")
    assert find_predictions(tmp_path).files == {"C": tmp_path / "C.NII.GZ"}
    assert find_predictions(tmp_path / "C.NII.GZ").files == {"C": tmp_path / "C.NII.GZ"}


@pytest.mark.parametrize("names", [(), ("notes.txt", ".hidden", "more.csv")])
def test_a_folder_without_a_volume_is_told_with_what_it_holds(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    held = "more.csv, notes.txt" if names else "nothing"
    with pytest.raises(UserError, match=rf"holds no volume \(.*\); it holds {held}\. Pass the"):
        find_predictions(tmp_path)


def test_of_what_a_folder_holds_the_first_four_names_are_told(tmp_path):
    for name in "dafbec":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"; it holds a, b, c, d\. Pass the"):
        find_predictions(tmp_path)


def test_predictions_that_are_not_there_or_no_volume_are_refused(tmp_path):
    with pytest.raises(UserError) as error:
        find_predictions(tmp_path / "missing")
    assert str(error.value) == (
        f"--pred {tmp_path / 'missing'} does not exist. Expected a folder of label files, or one."
    )
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"notes\.txt: expected a volume \(\.nii\.gz, .*\)\.$"):
        find_predictions(tmp_path / "notes.txt")


def test_two_files_belong_together_whatever_their_names():
    told, problems = pairs_of(predictions("a", is_file=True), references("b", is_file=True))
    assert told == [("a.nii.gz", "b.nii.gz")]
    assert problems == []


def test_a_folder_and_a_file_belong_together_by_name():
    told, problems = pairs_of(predictions("b", "a"), references("a", is_file=True))
    assert told == [("a.nii.gz", "a.nii.gz")]
    assert [problem.partition(":")[0] for problem in problems] == ["b"]
    told, problems = pairs_of(predictions("b", is_file=True), references("a", "b"))
    assert (told, problems) == ([("b.nii.gz", "b.nii.gz")], [])


def test_no_pair_at_all_is_a_mistake_in_the_arguments():
    with pytest.raises(UserError) as error:
        pair_up(predictions("a", "b"), references("x"), allow_missing=True)
    assert str(error.value) == (
        "no prediction has the name of a reference: predictions a, b (2), references x (1). Name "
        "each prediction as its case."
    )


def test_where_nothing_fits_three_names_of_each_side_are_told():
    with pytest.raises(UserError, match=r"predictions a, b, c \(5\), references u, v, w \(4\)\."):
        pair_up(predictions(*"ebdca"), references(*"xwuv"), allow_missing=True)


def test_where_there_is_no_reference_the_first_problem_is_told():
    with pytest.raises(UserError, match=r"^a: a.nii.gz has no reference of that name\. Add the"):
        pair_up(predictions("a", "b"), references(), allow_missing=True)


def test_a_name_that_two_references_have_is_told_once():
    twice = References(references("b").cases, (Problem("a", "dataset", "two files"),))
    told, problems = pairs_of(predictions("a", "b"), twice)
    assert (told, problems) == ([("b.nii.gz", "b.nii.gz")], [])


def test_where_no_prediction_has_a_name_of_its_own_that_is_told():
    twice = Predictions({}, (Problem("a", "dataset", "two files of one name"),))
    with pytest.raises(UserError, match=r"^a: two files of one name$"):
        pair_up(twice, references("a"), allow_missing=True)


def test_predictions_of_the_test_cases_are_pointed_at_their_labels():
    with pytest.raises(UserError, match=r"Are the references in d/labelsTs\? Pass that as --ref"):
        pair_up(predictions("a"), references("x", others=Path("d/labelsTs")), allow_missing=True)


def test_where_the_only_pair_is_spoilt_its_problem_is_told():
    missing = (MissingFile("label", "labelsTr/a.nii.gz"),)
    with pytest.raises(UserError, match=r"^a: its label is missing, expected labelsTr/a"):
        pair_up(
            predictions("a"),
            References((Case("a", (), None, missing=missing),)),
            allow_missing=True,
        )
