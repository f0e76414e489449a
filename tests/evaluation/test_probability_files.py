from pathlib import Path

import numpy as np
import pytest

from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.evaluation.pairs import Pair
from segfocal.evaluation.probability_files import (
    ProbabilityFolder,
    find_probabilities,
    with_probabilities,
)
from segfocal.labels import LabelScheme
from tests.data.nifti_files import save

SCHEME = LabelScheme(("background", "liver", "left kidney"), (0, 1, 2))


def folder(*stems):
    return ProbabilityFolder(Path("p"), {stem: Path(f"p/{stem}.nii.gz") for stem in stems})


def equipped(files, *, prediction="c1", case_id="c1", scheme=SCHEME, annotated=None):
    case = Case(case_id, (), Path("ref.nii.gz"), annotated)
    pair = Pair(Path(f"pred/{prediction}.nii.gz"), case)
    (pair,), problems = with_probabilities([pair], files, scheme)
    told = {name: path.name.removesuffix(".nii.gz") for name, path in pair.probabilities.items()}
    return told, [str(problem) for problem in problems]


def test_a_file_belongs_to_its_case_and_class():
    told, problems = equipped(folder("c1_liver", "c1_left-kidney", "c1_background", "c10_liver"))
    assert told == {"liver": "c1_liver", "left kidney": "c1_left-kidney"}
    assert problems == []


@pytest.mark.parametrize("stems", [("c1_seg_liver", "c1_seg_left-kidney"), ("c1_seg",), ("c1",)])
def test_the_name_of_the_prediction_or_of_the_case_will_do(stems):
    told, problems = equipped(folder(*stems), prediction="c1_seg")
    assert set(told.values()) == set(stems)
    assert list(told) == ["liver", "left kidney"]
    assert problems == []


def test_a_file_for_the_class_goes_before_one_for_all():
    told, _ = equipped(folder("c1", "c1_liver"))
    assert told == {"liver": "c1_liver", "left kidney": "c1"}


def test_what_is_missing_is_one_line_with_the_file_and_the_cure():
    cure = "Write it with segfocal-predict --probabilities, or pass --no-probabilities."
    _, problems = equipped(folder("c1_liver"))
    where = Path("p/c1_left-kidney.nii.gz")
    assert problems == [f"c1: has no probabilities of left kidney: {where} does not exist. {cure}"]
    _, problems = equipped(folder("c2_liver"))
    where = Path("p/c1_liver.nii.gz")
    assert problems == [f"c1: has no probabilities: {where} does not exist. {cure}"]


def test_classes_whose_names_differ_by_a_sign_have_files_of_their_own():
    scheme = LabelScheme(("background", "T1+", "T1-"), (0, 1, 2))
    told, problems = equipped(folder("c1_T1%2B", "c1_T1-"), scheme=scheme)
    assert told == {"T1+": "c1_T1%2B", "T1-": "c1_T1-"}
    assert problems == []
    told, (problem,) = equipped(folder("c1_T1-"), scheme=scheme)
    assert told == {"T1-": "c1_T1-"}
    assert problem.startswith(f"c1: has no probabilities of T1+: {Path('p/c1_T1%2B.nii.gz')} does")


def test_a_name_that_was_encoded_beside_another_is_found_where_it_is_measured_alone():
    scheme = LabelScheme(("background", "T1+"), (0, 1))
    assert equipped(folder("c1_T1%2B", "c1_T1-"), scheme=scheme)[0] == {"T1+": "c1_T1%2B"}


def test_of_regions_it_says_that_those_of_classes_are_not_added_up():
    scheme = LabelScheme.preset("msd-task01")
    names = ("oedema", "non-enhancing", "enhancing")
    told, (problem,) = equipped(folder(*(f"c1_{name}" for name in names)), scheme=scheme)
    assert told == {}
    assert problem == (
        f"c1: has no probabilities: {Path('p/c1_WT.nii.gz')} does not exist. c1_enhancing, "
        f"c1_non-enhancing, c1_oedema do: to measure what their run was trained on, pass --config "
        f"RUN/config.yaml. Write it with segfocal-predict --probabilities of a network with these "
        f"regions (those of classes are not added up), or pass --no-probabilities."
    )


def test_of_what_nobody_looked_for_no_file_is_needed():
    told, problems = equipped(folder("c1_liver"), annotated=("liver",))
    assert (list(told), problems) == (["liver"], [])


def test_the_label_map_itself_is_not_taken_for_probabilities():
    files = ProbabilityFolder(Path("pred"), {"c1": Path("pred/c1.nii.gz")})
    assert equipped(files)[0] == {}


def test_the_folder_beside_the_predictions_is_found_and_may_lack(tmp_path):
    assert find_probabilities(tmp_path, None) is None
    save(tmp_path / "probabilities/c1_a.nii.gz", np.zeros((2, 2, 2), np.float32))
    one = save(tmp_path / "c1.nii.gz", np.zeros((2, 2, 2), np.uint8))
    for pred in (tmp_path, one):
        found = find_probabilities(pred, None)
        assert list(found.files) == ["c1_a"]
    save(tmp_path / "probabilities/c1_a.nii", np.zeros((2, 2, 2), np.float32))
    (problem,) = find_probabilities(tmp_path, None).problems
    assert problem.text.endswith("c1_a.nii and c1_a.nii.gz have one name. Remove one.")


def test_a_folder_that_is_named_must_be_one_and_hold_volumes(tmp_path):
    with pytest.raises(UserError, match=r"^--probabilities .*no is not a folder\. Pass the one"):
        find_probabilities(tmp_path, tmp_path / "no")
    with pytest.raises(UserError, match=r"holds no volume .*CASE_CLASS\.nii\.gz\."):
        find_probabilities(tmp_path, tmp_path)


def test_a_folder_that_is_named_and_holds_nothing_of_any_case_is_a_mistake():
    files = {"x_liver": Path("p/x_liver.nii.gz")}
    with pytest.raises(UserError) as error:
        equipped(ProbabilityFolder(Path("p"), files, is_named=True))
    assert str(error.value) == (
        "--probabilities p: holds nothing of any case that is evaluated. Expected files such as "
        "c1_liver.nii.gz, found x_liver.nii.gz (1)."
    )
    assert len(equipped(ProbabilityFolder(Path("p"), files))[1]) == 1


def test_whether_a_folder_was_named_is_remembered(tmp_path):
    save(tmp_path / "probabilities/c1_a.nii.gz", np.zeros((2, 2, 2), np.float32))
    assert not find_probabilities(tmp_path, None).is_named
    assert find_probabilities(tmp_path, tmp_path / "probabilities").is_named
