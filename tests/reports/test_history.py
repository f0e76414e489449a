import csv
import math
from dataclasses import replace

import pytest

from segfocal.reports.history import EpochRecord, History, measured, read_history

TERMS, REGIONS = ("focal", "dice"), ("WT", "TC", "ET")


def same(a, b):
    """Equal, with NaN equal to NaN."""
    return repr(a) == repr(b)


def test_records_read_back_equal_to_the_last_bit(tmp_path, records):
    history = History(tmp_path / "metrics.csv", TERMS, REGIONS)
    for record in records:
        history.append(record)
    assert same(read_history(tmp_path / "metrics.csv"), records)


def test_columns_are_the_same_from_the_first_epoch_to_the_last(tmp_path, records):
    path = tmp_path / "metrics.csv"
    history = History(path, TERMS, REGIONS)
    headers = []
    for record in records:
        history.append(record)
        headers.append(path.read_text().splitlines()[0])
    assert len(set(headers)) == 1
    assert headers[0].startswith("epoch,step,elapsed_s,steps_per_s,lr,loss,loss/focal,loss/dice,")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows[2]["val/ET/lesions_found"] == "71"
    assert float(rows[2]["val/mean_dice"]) == pytest.approx((0.887 + 0.801 + 0.742) / 3)
    assert rows[0]["val/WT/dice"] == rows[1]["val/ET/dice"] == ""


def test_the_file_is_whole_after_every_epoch_and_no_temporary_stays(tmp_path, records):
    history = History(tmp_path / "metrics.csv", TERMS, REGIONS)
    for number, record in enumerate(records, start=1):
        history.append(record)
        assert len(read_history(tmp_path / "metrics.csv")) == number
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_resume_drops_the_epochs_after_the_checkpoint(tmp_path, records):
    path = tmp_path / "metrics.csv"
    first = History(path, TERMS, REGIONS)
    for record in records:
        first.append(record)
    unbroken = path.read_bytes()
    resumed = History.resume(path, 2, TERMS, REGIONS)
    assert [record.epoch for record in resumed.records] == [1, 2]
    resumed.append(records[2])
    assert path.read_bytes() == unbroken


def test_resume_without_a_file_starts_empty(tmp_path):
    assert History.resume(tmp_path / "metrics.csv", 3, TERMS, REGIONS).records == []


def test_the_scores_of_an_epoch_are_its_own(tmp_path, records):
    history = History(tmp_path / "metrics.csv", TERMS, REGIONS)
    history.records = records
    assert history.validation(2) is records[1].val
    assert history.validation(3) is records[2].val
    assert history.validation(1) == history.validation(4) == {}


def test_what_an_epoch_measured_has_no_empty_cell(records):
    first = {"epoch": 1, "step": 50, "elapsed_s": 16.1, "steps_per_s": 3.1, "lr": 1e-3}
    loss = {"loss": 0.9123456789012345, "loss/focal": 0.1, "loss/dice": 0.8}
    assert measured(records[0]) == first | loss
    second = measured(records[1])
    assert second["val/WT/dice"] == 0.887
    assert second["val/ET/lesions"] == 0
    assert not {"val/ET/dice", "val/ET/lesion_f1"} & second.keys()  # undefined
    assert "loss" not in measured(replace(records[0], loss=math.inf))


def test_the_note_stands_in_every_row(tmp_path, records):
    history = History(tmp_path / "metrics.csv", TERMS, REGIONS, note="SYNTHETIC PHANTOM")
    for record in records:
        history.append(record)
    rows = list(csv.DictReader(history.path.read_text().splitlines()))
    assert [row["note"] for row in rows] == ["SYNTHETIC PHANTOM"] * 3


def test_region_names_may_hold_slashes_commas_and_quotes(tmp_path, records):
    odd = 'a/b, "c"'
    val = {odd: records[2].val["WT"]}
    history = History(tmp_path / "metrics.csv", TERMS, (odd,))
    history.append(replace(records[2], val=val))
    assert read_history(history.path)[0].val == val


def test_mean_dice_leaves_undefined_regions_out(records):
    assert math.isnan(records[0].mean_dice)
    assert records[1].mean_dice == pytest.approx((0.887 + 0.801) / 2)


def test_a_csv_of_something_else_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is not a metrics\.csv of segfocal"):
        read_history(path)


def test_a_nan_loss_is_kept_as_nan(tmp_path):
    history = History(tmp_path / "m.csv", (), ())
    history.append(EpochRecord(1, 1, 1.0, 1.0, 1e-3, float("nan")))
    assert math.isnan(read_history(history.path)[0].loss)
