import io
import os
import re

import pytest
from rich import box
from rich.table import Table

from segfocal.reports.console import Console
from segfocal.reports.text import alpha_line, cases_text, epoch_line, val_text


@pytest.fixture
def streams():
    return io.StringIO(), io.StringIO()


def make(streams, tmp_path, **kwargs):
    return Console(
        stream=streams[0], error_stream=streams[1], log_path=tmp_path / "log.txt", **kwargs
    )


def run_epochs(console, records):
    for record in records:
        with console.epoch(record.epoch, 300, 5) as bar:
            for _ in range(5):
                bar.advance(loss=record.loss, terms=record.terms, steps_per_s=3.1, memory_gb=6.8)
        with console.working("validating", 2) as bar:
            bar.advance()
        console.end_epoch(record, 300, best=record.epoch == 3, memory_gb=6.8, eta_s=15130)


def test_the_opening_lines_read_as_documented(streams, tmp_path):
    with make(streams, tmp_path) as console:
        console.header(
            {"segfocal": "0.1", "torch": "2.13", "monai": "1.6.1"}, "cuda:0 H100 80GB", "bf16", 7
        )
        console.data(
            "MSD Task01",
            388,
            96,
            ("FLAIR", "T1w", "T1gd", "T2w"),
            ("WT", "TC", "ET"),
            overlapping=True,
        )
        console.alpha(
            "balanced",
            {"WT": 0.1234, "ET": 2.5},
            num_cases=388,
            ignore_values=(255,),
            ignored_fraction=0.004,
        )
    assert streams[0].getvalue() == (
        "segfocal 0.1 · torch 2.13 · monai 1.6.1 · cuda:0 H100 80GB · bf16 · seed 7\n"
        "data   MSD Task01: 388 train / 96 val · channels FLAIR,T1w,T1gd,T2w · regions WT,TC,ET\n"
        "alpha  balanced, from 388 cases: WT 0.123 ET 2.5 · ignore 255: 0.4% of voxels\n"
    )


def test_where_stdout_is_no_terminal_an_epoch_is_exactly_one_line(streams, tmp_path, records):
    with make(streams, tmp_path) as console:
        run_epochs(console, records)
    lines = streams[0].getvalue().splitlines()
    assert lines[0] == (
        "epoch   1/300 loss 0.912 (focal .100 dice .800) lr 1.0e-03 3.1 it/s 6.8 GB ETA 4h12"
    )
    assert lines[2] == (
        "epoch   3/300 loss 0.400 (focal .021 dice .391) lr 3.3e-01 3.0 it/s 6.8 GB ETA 4h12"
        " | val WT .887 TC .801 ET .742 mean .810 best | ET lesions found 71/88, 19 FP"
        " | n=96, 2 without TC (1 false alarm), 4 without ET"
    )
    assert len(lines) == len(records) == 3
    assert "\x1b" not in streams[0].getvalue()


def test_a_terminal_gets_a_bar_and_a_line_for_validation(streams, tmp_path, records):
    with make(streams, tmp_path, force_terminal=True) as console:
        assert console.is_terminal
        run_epochs(console, records)
    said = streams[0].getvalue()
    assert "\x1b[" in said
    assert "━" in said
    assert "val     3: WT .887 TC .801 ET .742 mean .810 best | ET lesions found 71/88" in said


def test_the_log_has_every_line_with_its_time_and_no_colour(streams, tmp_path, records):
    with make(streams, tmp_path, force_terminal=True) as console:
        run_epochs(console, records)
        console.warning("disk is nearly full")
    log = (tmp_path / "log.txt").read_text()
    assert "\x1b" not in log
    lines = log.splitlines()
    assert len(lines) == 6
    assert lines[1][21:].startswith("epoch   2/300 loss 0.412")
    assert lines[2][21:].startswith(
        "val     2: WT .887 TC .801 ET - mean .844 | ET lesions found 0/0"
    )
    assert lines[5].endswith("  warning: disk is nearly full")


def test_a_resumed_run_goes_on_in_the_same_log(streams, tmp_path):
    for word in ("first", "second"):
        with make(streams, tmp_path) as console:
            console.line(word)
    assert [line[21:] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "first",
        "second",
    ]


def test_quiet_writes_nothing_but_warnings_and_the_log(streams, tmp_path, records, summary):
    with make(streams, tmp_path, quiet=True, force_terminal=True) as console:
        run_epochs(console, records)
        console.results("validation", {"network": summary})
        console.warning("disk is nearly full")
    assert streams[0].getvalue() == ""
    assert streams[1].getvalue() == "warning: disk is nearly full\n"
    assert "epoch   1/300" in (tmp_path / "log.txt").read_text()


def test_names_with_brackets_or_colons_are_written_as_they_are(streams, tmp_path):
    with make(streams, tmp_path) as console:
        console.line("case [red]A[/red] :smile: " + 300 * "x")
    assert streams[0].getvalue() == "case [red]A[/red] :smile: " + 300 * "x" + "\n"


def test_a_stream_without_unicode_gets_plain_characters(tmp_path):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with Console(stream=stream) as console:
        console.header({"segfocal": "0.1"}, "cpu", "fp32", 7)
        console.line("Fall Möller")
    stream.flush()
    assert raw.getvalue() == b"segfocal 0.1 | cpu | fp32 | seed 7\nFall M?ller\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_results_table_sets_the_network_beside_the_baseline(
    streams, tmp_path, summary, terminal
):
    with make(streams, tmp_path, force_terminal=terminal) as console:
        console.results(
            "validation, 96 cases",
            {"network": summary, "threshold": {**summary, "ET": summary["TC"]}},
            note="SYNTHETIC PHANTOM - not clinical evidence",
        )
    log = (tmp_path / "log.txt").read_text()
    for text in (streams[0].getvalue(), log):
        row = next(line for line in text.splitlines() if " ET " in line)
        cells = [cell for cell in row.replace("│", " ").replace("|", " ").split() if cell]
        assert cells[-9:] == ["ET", ".742", "71/88", "19", ".801", "75/90", "25", "96,", "4"] or (
            cells[-10:]
            == ["ET", ".742", "71/88", "19", ".801", "75/90", "25", "96,", "4", "without"]
        )
        assert "SYNTHETIC PHANTOM - not clinical evidence" in text
        mean = next(line for line in text.splitlines() if "mean" in line)
        assert ".810" in mean
        assert ".830" in mean


def test_lines_without_what_is_unknown(records):
    assert epoch_line(records[0], None) == (
        "epoch    1 loss 0.912 (focal .100 dice .800) lr 1.0e-03 3.1 it/s"
    )
    slow = records[0].__class__(1, 1, 1.0, 0.25, 1e-3, 0.5)
    assert epoch_line(slow, 9) == "epoch   1/9 loss 0.500 lr 1.0e-03 4.0 s/it"
    assert alpha_line("none", {}) == "alpha  none"


def test_one_class_needs_no_mean(summary):
    only = {"WT": summary["WT"]}
    assert val_text(only, 0.887, best=False) == "WT .887 | WT lesions found 100/120, 30 FP | n=96"
    assert cases_text({}) == "n=0"


@pytest.mark.parametrize("columns", [20, 60, 200])
def test_a_table_keeps_every_name_on_a_narrow_terminal(streams, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table("class", "value", "stored as", box=box.SIMPLE_HEAD)
    table.add_row("non-enhancing tumour", "1,2", "int16,float32")
    with make(streams, tmp_path, force_terminal=True) as console:
        console.table(table)
        console.table(Table(*(f"a column with a long name {n}" for n in range(12))))
    log = (tmp_path / "log.txt").read_text()
    for said in (streams[0].getvalue(), log):
        for word in ("class", "stored as", "non-enhancing tumour", "1,2", "int16,float32"):
            assert word in said
        assert "a column with a long name 11" in said


@pytest.mark.parametrize(
    ("columns", "bar", "terms"), [(60, False, False), (80, True, False), (110, True, True)]
)
def test_a_narrow_terminal_gets_a_shorter_line_and_not_a_cut_one(
    streams, tmp_path, monkeypatch, records, columns, bar, terms
):
    monkeypatch.setenv("COLUMNS", str(columns))
    with make(streams, tmp_path, force_terminal=True) as console:
        run_epochs(console, records)
    said = streams[0].getvalue()
    assert "3.1 it/s" in said
    assert "…" not in said
    assert ("━" in said) == bar
    moving = [line for line in re.split(r"[\r\n]", said) if "%" in line and "it/s" in line]
    assert moving
    assert all(("(focal" in line) == terms for line in moving)


def test_a_stream_that_nobody_reads_ends_what_is_said_and_not_the_log(tmp_path):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        os.close(reading)
        with Console(stream=stream, log_path=tmp_path / "log.txt") as console:
            console.line("one")
            console.line("two")
    assert [line[21:] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]
