import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segfocal.data.split import (
    Split,
    make_fold,
    make_split,
    read_split,
    train_on_all,
    write_split,
)
from segfocal.errors import UserError

IDS = [f"case_{i:03d}" for i in range(50)]

ids_of_cases = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=30, unique=True)


@settings(max_examples=80, deadline=None)
@given(ids_of_cases, st.floats(0.01, 0.99), st.integers(0, 2**31), st.randoms())
def test_every_case_is_in_one_list_whatever_the_order(ids, fraction, seed, random):
    split = make_split(ids, val_fraction=fraction, seed=seed)
    assert sorted([*split.train, *split.val]) == sorted(ids)
    assert split.train
    assert split.val
    assert abs(len(split.val) - fraction * len(ids)) <= 1
    shuffled = list(ids)
    random.shuffle(shuffled)
    assert make_split(shuffled, val_fraction=fraction, seed=seed) == split


def test_the_split_is_the_documented_hash():
    def key(case_id):
        return hashlib.sha256(f"7:{case_id}".encode()).hexdigest()

    expected = sorted(sorted(IDS, key=key)[:10])
    assert list(make_split(IDS, val_fraction=0.2, seed=7).val) == expected


def test_another_seed_gives_another_split():
    drawn = {make_split(IDS, val_fraction=0.2, seed=seed).val for seed in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("left_out", range(0, 50, 7))
def test_leaving_a_case_out_moves_at_most_one_other(left_out):
    fewer = [case for i, case in enumerate(IDS) if i != left_out]
    full = set(make_split(IDS, val_fraction=0.2, seed=1).val)
    less = set(make_split(fewer, val_fraction=0.2, seed=1).val)
    assert len((full ^ less) - {IDS[left_out]}) <= 1


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 3), (10, 0.24, 2)]
)
def test_the_number_held_out_is_rounded_and_leaves_both_lists_filled(count, fraction, held_out):
    assert len(make_split(IDS[:count], val_fraction=fraction, seed=0).val) == held_out


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(UserError, match=r"data.val_fraction: expected a number between 0 and 1"):
        make_split(IDS, val_fraction=fraction, seed=0)


def test_one_case_cannot_be_split():
    few = r"^split: expected at least 2 cases, got 1.*val_fraction: 0"
    with pytest.raises(UserError, match=few):
        make_split(["a"], val_fraction=0.5, seed=0)
    with pytest.raises(UserError, match=few):
        make_fold(["a"], folds=2, fold=0, seed=0)


def test_a_case_id_that_stands_twice_is_refused():
    with pytest.raises(UserError, match="b stand twice"):
        make_split(["a", "b", "b"], val_fraction=0.5, seed=0)


@pytest.mark.parametrize(("count", "folds"), [(50, 5), (7, 3), (5, 5)])
def test_folds_cover_every_case_once_in_even_shares(count, folds):
    splits = [make_fold(IDS[:count], folds=folds, fold=k, seed=3) for k in range(folds)]
    validated = [case for split in splits for case in split.val]
    assert sorted(validated) == IDS[:count]
    assert max(len(s.val) for s in splits) - min(len(s.val) for s in splits) <= 1
    for split in splits:
        assert sorted([*split.train, *split.val]) == IDS[:count]


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (5, 5), (5, -1)])
def test_a_fold_out_of_range_is_refused(folds, fold):
    with pytest.raises(UserError, match=f"got fold {fold} of {folds}"):
        make_fold(IDS, folds=folds, fold=fold, seed=0)
    with pytest.raises(UserError) as error:
        make_fold(IDS[:5], folds=6, fold=0, seed=0)
    assert str(error.value) == (
        "split: expected at least 6 patients for data.folds: 6, got 5. Set fewer folds."
    )


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(ids_of_cases.map(lambda ids: ids[0]), st.integers(0, 9), min_size=2),
    st.integers(2, 5),
)
def test_over_all_folds_every_patient_validates_once_with_all_scans(scans, folds):
    patients = {case_id: f"patient {number}" for case_id, number in scans.items()}
    if len(set(patients.values())) < folds:
        return
    held_out = []
    for fold in range(folds):
        split = make_fold(scans, folds=folds, fold=fold, seed=3, patients=patients)
        assert sorted([*split.train, *split.val]) == sorted(scans)
        validated = {patients[case_id] for case_id in split.val}
        assert validated.isdisjoint(patients[case_id] for case_id in split.train)
        held_out.append(validated)
    assert sorted(name for names in held_out for name in names) == sorted(set(patients.values()))
    sizes = [len(names) for names in held_out]
    assert max(sizes) - min(sizes) <= 1


def test_training_on_all_validates_on_none():
    split = train_on_all(reversed(IDS))
    assert list(split.train) == IDS
    assert split.val == ()
    assert train_on_all(["a"]).train == ("a",)
    with pytest.raises(UserError, match=r"^split: expected at least 1 cases, got 0"):
        train_on_all([])


def test_a_fold_is_called_by_its_number_and_another_split_by_none(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(2 * [{"train": ["case_001"], "val": []}]))
    assert make_fold(IDS, folds=5, fold=3, seed=0).fold_words == "fold 3 of 5"
    assert read_split(path, IDS, fold=1).fold_words == "fold 1"
    assert make_split(IDS, val_fraction=0.2, seed=0).fold_words == ""


@pytest.mark.parametrize(
    "split",
    [
        make_split(IDS, val_fraction=0.2, seed=7),
        make_fold(IDS, folds=5, fold=2, seed=7),
        train_on_all(IDS),
    ],
)
def test_a_split_comes_back_from_its_file(tmp_path, split):
    write_split(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json", IDS) == split
    assert json.loads((tmp_path / "split.json").read_text())["made_by"]["method"]


def test_a_fold_of_nnunets_splits_is_taken(tmp_path):
    path = tmp_path / "splits_final.json"
    halves = [IDS[:25], IDS[25:]]
    path.write_text(json.dumps([{"train": halves[1], "val": halves[0]},
                                {"train": halves[0], "val": halves[1]}]))  # fmt: skip
    split = read_split(path, IDS, fold=1)
    assert (list(split.train), list(split.val)) == (halves[0], halves[1])
    assert split.made_by == {"method": "splits_final.json", "fold": 1}
    for fold in (None, 2):
        with pytest.raises(UserError) as error:
            read_split(path, IDS, fold=fold)
        assert str(error.value) == (
            f"{path}: holds 2 folds; set data.fold to one from 0 to 1, got {fold}."
        )
    path.write_text(json.dumps({"train": halves[0], "val": halves[1]}))
    with pytest.raises(UserError, match=r"holds one split and no folds. Leave data.fold out"):
        read_split(path, IDS, fold=1)


def test_a_split_made_by_hand_may_leave_cases_out(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["case_003", "case_001"], "val": ["case_002"]}))
    assert read_split(path, IDS) == Split(("case_001", "case_003"), ("case_002",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["case_001"]}', "split.json: val: expected a list of case ids"),
        ('{"train": "case_001", "val": []}', "split.json: train: expected a list of case ids"),
        ('{"train": [1], "val": []}', "split.json: train: expected a list of case ids"),
        ('{"train": [], "val": ["case_001"]}', "split.json: train is empty"),
        ('{"train": ["case_001", "case_001"], "val": []}', "case_001 stand twice in train"),
        ('{"train": ["case_001"], "val": ["case_001"]}', "case_001 both train and validate"),
        ('{"train": ["case_001", "x", "y"], "val": ["z"]}', "does not have: x, y, z. Was the"),
        ("[]", "holds 0 folds"),
        ('"case_001"', "expected a JSON object, got str"),
        ('{"train": ["case_001"], "val": [], "made_by": 3}', "made_by: expected an object"),
        ('{"train": [\n"case_001"\n"val"]}', r"split.json:3: is not valid JSON"),
    ],
)
def test_a_split_that_cannot_be_used_is_refused_by_file(tmp_path, text, message):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_split(path, IDS)
    assert str(caught.value).startswith(str(path))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(ids_of_cases.map(lambda ids: ids[0]), st.integers(0, 9), min_size=2),
    st.floats(0.01, 0.99),
)
def test_the_scans_of_a_patient_stay_on_one_side(scans, fraction):
    patients = {case_id: f"patient {number}" for case_id, number in scans.items()}
    if len(set(patients.values())) < 2:
        return
    split = make_split(scans, val_fraction=fraction, seed=3, patients=patients)
    assert sorted([*split.train, *split.val]) == sorted(scans)
    held_out = {patients[case_id] for case_id in split.val}
    assert held_out
    assert held_out.isdisjoint(patients[case_id] for case_id in split.train)
    number = len(set(patients.values()))
    assert abs(len(held_out) - fraction * number) <= 1


def test_a_patient_each_is_the_split_without_patients():
    alone = {case_id: case_id for case_id in IDS}
    with_patients = make_split(IDS, val_fraction=0.3, seed=1, patients=alone)
    assert with_patients == make_split(IDS, val_fraction=0.3, seed=1)
    assert "patients" not in with_patients.made_by
    halves = {case_id: case_id[:-1] for case_id in IDS}
    assert make_split(IDS, val_fraction=0.3, seed=1, patients=halves).made_by["patients"] == 5


def test_one_patient_cannot_be_split():
    with pytest.raises(UserError) as error:
        make_split(["a_1", "a_2"], val_fraction=0.5, seed=0, patients={"a_1": "a", "a_2": "a"})
    assert str(error.value) == (
        "split: all 2 cases are of patient a; expected at least 2 patients. Correct "
        "data.patient_pattern, or set data.val_fraction: 0 to validate on none."
    )
