import csv

from segfocal.reports.case_table import read_case_scores, scored_epoch, write_case_scores


def test_case_scores_read_back_equal(tmp_path, cases):
    write_case_scores(tmp_path / "val_cases.csv", cases, epoch=12)
    assert repr(read_case_scores(tmp_path / "val_cases.csv")) == repr(cases)


def test_the_epoch_is_told_where_the_file_knows_it(tmp_path, cases):
    path = tmp_path / "val_cases.csv"
    assert scored_epoch(path) == ""
    for scores, epoch, told in ((cases, 12, "12"), (cases, None, ""), ([], 12, "")):
        write_case_scores(path, scores, epoch=epoch)
        assert scored_epoch(path) == told


def test_there_is_a_row_for_each_case_and_region(tmp_path, cases):
    write_case_scores(tmp_path / "val_cases.csv", cases, epoch=12, note="SYNTHETIC PHANTOM")
    rows = list(csv.DictReader((tmp_path / "val_cases.csv").read_text().splitlines()))
    assert [(row["case"], row["region"]) for row in rows] == [
        ("A", "WT"),
        ("A", "ET"),
        ("B", "WT"),
        ("B", "ET"),
    ]
    assert {row["epoch"] for row in rows} == {"12"}
    assert {row["note"] for row in rows} == {"SYNTHETIC PHANTOM"}
    assert rows[3]["dice"] == ""
    assert rows[2]["ref_ml"] == "2.0"


def test_volumes_that_were_not_measured_stay_unknown(tmp_path, cases):
    from dataclasses import replace

    bare = [
        replace(
            case,
            regions={n: replace(r, ref_ml=None, pred_ml=None) for n, r in case.regions.items()},
        )
        for case in cases
    ]
    write_case_scores(tmp_path / "val_cases.csv", bare)
    assert repr(read_case_scores(tmp_path / "val_cases.csv")) == repr(bare)


def test_a_region_that_was_not_annotated_has_a_row_without_numbers(tmp_path, cases):
    from segfocal.metrics.case_score import NOT_ANNOTATED, CaseScore

    partial = [cases[0], CaseScore("C", {"WT": cases[0].regions["WT"], "ET": NOT_ANNOTATED})]
    path = tmp_path / "val_cases.csv"
    write_case_scores(path, partial, epoch=3)
    assert repr(read_case_scores(path)) == repr(partial)
    assert path.read_text().splitlines()[-1] == "3,C,ET,,,,,,,,,"
