"""Which run predicts which case, by the split.json beside each checkpoint."""

import json

import pytest

from segfocal.errors import UserError
from segfocal.inference.held_out import held_out_groups


def checkpoint(folder, *val):
    """`best.pt` of a run that validated on these cases."""
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps({"train": ["t"], "val": list(val)}))
    return folder / "best.pt"


def test_each_case_goes_to_the_runs_that_validated_on_it_in_the_order_given(tmp_path):
    b, a = checkpoint(tmp_path / "b", "1", "2"), checkpoint(tmp_path / "a", "2", "3", "5")
    groups = held_out_groups([b, a], ["5", "2", "3", "t", "1"])
    assert list(groups.items()) == [((b,), ["1"]), ((b, a), ["2"]), ((a,), ["5", "3"])]


def test_no_case_for_any_run_is_a_mistake(tmp_path):
    path = checkpoint(tmp_path / "a", "1")
    with pytest.raises(UserError, match="none of the 2 cases of -i was held out by the runs of"):
        held_out_groups([path], ["t", "2"])


@pytest.mark.parametrize("val", [None, "1", {"1": 2}])
def test_a_split_without_a_list_of_cases_is_told(tmp_path, val):
    path = checkpoint(tmp_path / "a")
    (tmp_path / "a" / "split.json").write_text(json.dumps({"val": val}))
    with pytest.raises(UserError) as error:
        held_out_groups([path], ["1"])
    assert str(error.value) == (
        f"{tmp_path / 'a' / 'split.json'}: val: expected a list of case ids."
    )


def test_a_checkpoint_away_from_its_run_is_told_what_is_missing(tmp_path):
    with pytest.raises(UserError) as error:
        held_out_groups([tmp_path / "best.pt"], ["1"])
    assert str(error.value) == (
        f"--held-out: {tmp_path / 'split.json'} does not exist. Pass checkpoints in the folders of "
        f"their runs, whose split.json says what was held out."
    )
