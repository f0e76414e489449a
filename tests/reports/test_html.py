import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from segfocal.data.phantom.stamp import STAMP
from segfocal.metrics.case_score import NOT_ANNOTATED, CaseScore, RegionScore
from segfocal.reports.case_table import write_case_scores
from segfocal.reports.figures import progress_figure
from segfocal.reports.history import History
from segfocal.reports.html import write_report


class Page(HTMLParser):
    """Collects tags, attributes and the text of table rows."""

    def __init__(self, markup):
        super().__init__()
        self.opened, self.closed, self.sources, self.rows = [], [], [], []
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        self.opened.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        self.closed.append(tag)

    def handle_data(self, data):
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def fill(run, records, cases):
    history = History(run / "metrics.csv", ("focal", "dice"), ("WT", "TC", "ET"))
    for record in records:
        history.append(record)
    write_case_scores(run / "val_cases.csv", cases)
    progress_figure(records, run / "progress.png")
    (run / "samples").mkdir()
    for epoch in range(1, 8):
        (run / "samples" / f"epoch_{epoch:03d}.png").write_bytes(b"\x89PNG" + bytes([epoch]))
    (run / "config.yaml").write_text("train:\n  epochs: 3  # <script>alert(1)</script>\n")
    (run / "DONE").touch()


def test_the_report_is_one_file_that_asks_nothing_of_the_network(tmp_path, records, cases, summary):
    fill(tmp_path, records, cases)
    path = write_report(
        tmp_path, title="run 7", facts={"alpha": "balanced"}, results={"network": summary}
    )
    markup = path.read_text(encoding="utf-8")
    page = Page(markup)
    assert "<title>run 7" in markup
    assert f"<title>{tmp_path.name}" in write_report(tmp_path).read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert not (tmp_path / "report.html.tmp").exists()
    assert not re.search(r"https?://", markup)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for tag in ("table", "tr", "h2", "p", "dl", "body", "html"):
        assert page.opened.count(tag) == page.closed.count(tag), tag


def test_the_report_holds_the_pictures_of_the_run_newest_samples_first(tmp_path, records, cases):
    fill(tmp_path, records, cases)
    markup = write_report(tmp_path).read_text(encoding="utf-8")
    pictures = [base64.b64decode(s.split(",")[1]) for s in Page(markup).sources]
    assert pictures[0] == (tmp_path / "progress.png").read_bytes()
    assert [picture[-1] for picture in pictures[1:]] == [7, 6, 5, 4]


def test_the_report_shows_scores_with_their_numbers_of_cases(tmp_path, records, cases, summary):
    fill(tmp_path, records, cases)
    rows = Page(write_report(tmp_path, results={"network": summary}).read_text("utf-8")).rows
    assert ["TC", ".801", "75/90", "25", ".700", "96", "95", "2", "1"] in rows
    named = [row for row in rows if row and row[0] in ("A", "B")]
    assert named[0][:2] == ["B", ".100 · 1/1 · 0"]
    assert named[0][4] == "- · 0/0 · 0"
    assert named[1][0] == "A"
    assert named[1][2:4] == ["1.0", "1.0"]
    assert "Lowest mean Dice first. \nDice, then lesions" in (tmp_path / "report.html").read_text()


def scored(name, *dice, **changed):
    """A case of regions with these Dice and otherwise the same numbers."""
    region = RegionScore(0.5, 250, 125, 3, 2, 1, 2.0, 1.0)
    regions = {f"r{i}": replace(region, dice=d, **changed) for i, d in enumerate(dice)}
    return CaseScore(name, regions)


def case_rows(run, *cases):
    write_case_scores(run / "val_cases.csv", cases)
    markup = write_report(run).read_text("utf-8")
    return [row for row in Page(markup).rows if row and row[0] in {case.case for case in cases}]


def test_cases_are_ordered_by_the_mean_of_what_is_defined_and_the_undefined_are_last(tmp_path):
    nan = float("nan")
    rows = case_rows(
        tmp_path, scored("N", nan, nan), scored("A", 0.9, 0.5), scored("B", nan, 0.6),
        scored("C", 0.1, 0.9),
    )  # fmt: skip
    assert [row[0] for row in rows] == ["C", "B", "A", "N"]


@pytest.mark.parametrize("count", [50, 51])
def test_of_many_cases_the_fifty_worst_are_shown_and_that_is_said(tmp_path, count):
    cases = [scored(f"case {number}", number / count) for number in range(count)]
    rows = case_rows(tmp_path, *reversed(cases))
    assert [row[0] for row in rows] == [f"case {number}" for number in range(50)]
    told = f"The 50 with the lowest mean Dice of {count}; all are in val_cases.csv."
    assert (told in (tmp_path / "report.html").read_text("utf-8")) == (count > 50)


def test_what_was_not_annotated_or_measured_in_ml_is_not_made_up(tmp_path):
    partial = CaseScore("A", {"r0": scored("A", 0.5).regions["r0"], "r1": NOT_ANNOTATED})
    (row,) = case_rows(tmp_path, partial)
    assert row == ["A", ".500 · 2/3 · 1", "2.0", "1.0", "not annotated"]
    (row,) = case_rows(tmp_path, scored("A", 0.5, ref_ml=None, pred_ml=None))
    assert row == ["A", ".500 · 2/3 · 1", "250", "125"]


def test_how_a_run_stands_is_told(tmp_path, records):
    def state():
        return re.search(r"[^>]*epoch 3, 50s[^<]*", write_report(tmp_path).read_text("utf-8"))[0]

    history = History(tmp_path / "metrics.csv", ("focal", "dice"), ("WT", "TC", "ET"))
    for record in records:
        history.append(record)
    assert "done" not in state()
    assert "epoch 3, 50s · done" in write_report(tmp_path, done=True).read_text("utf-8")
    (tmp_path / "DONE").touch()
    assert state().strip().endswith("epoch 3, 50s · done")


def test_text_from_files_cannot_become_markup(tmp_path, records, cases):
    fill(tmp_path, records, cases)
    markup = write_report(tmp_path, title="<b>x</b>", facts={"<i>": "<u>"}).read_text("utf-8")
    assert "script" not in Page(markup).opened
    assert not {"b", "i", "u"} & set(Page(markup).opened)
    assert "&lt;script&gt;" in markup


def test_the_stamp_stands_on_a_phantoms_report_and_its_tables_alone(
    tmp_path, records, cases, summary
):
    fill(tmp_path, records, cases)
    results = {"network": summary, "threshold baseline": summary}
    real = write_report(tmp_path, results=results).read_text("utf-8")
    fake = write_report(tmp_path, results=results, synthetic=True).read_text("utf-8")
    assert STAMP not in real
    assert fake.count(STAMP) == 5
    assert f"threshold baseline · {STAMP}</caption>" in fake


def test_an_empty_run_folder_still_gives_a_report(tmp_path):
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert page.sources == []
    assert "table" not in page.opened


def test_a_failed_run_says_why(tmp_path, records):
    history = History(tmp_path / "metrics.csv", ("focal", "dice"), ("WT", "TC", "ET"))
    for record in records:
        history.append(record)
    (tmp_path / "FAILED.txt").write_text("Loss became NaN at step 1204\n")
    markup = write_report(tmp_path).read_text("utf-8")
    assert "epoch 3, 50s · failed: Loss became NaN at step 1204" in markup
