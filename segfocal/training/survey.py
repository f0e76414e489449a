"""What `segfocal-stats` does: the data set that training would use, measured and checked."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segfocal.config.load import LoadedConfig, config_of, load_config
from segfocal.data.case_survey import CaseSurvey, SurveyRules
from segfocal.data.cases import Case, Dataset
from segfocal.data.dataset_stats import FORMAT, DatasetStats, dataset_stats, problem_to_dict
from segfocal.data.defects import SEVERITIES, Problem
from segfocal.data.phantom.stamp import STAMP
from segfocal.data.processes import available_cores
from segfocal.data.survey_walk import survey_cases
from segfocal.errors import UserError, warnings_caught
from segfocal.files import atomic_write, make_writable, read_json, write_json
from segfocal.reports.console import Console
from segfocal.training.preflight import open_dataset
from segfocal.training.suggestion import config_text

_DEFAULT_OUT = Path("stats.json")
_MAX_WORKERS = 8
_BYTES_PER_WORKER = 1 << 24


@dataclass(frozen=True)
class SurveyRequest:
    """The arguments of segfocal-stats.

    Attributes:
        data: Folder of the data set; None is the config's `data.root`.
        config: YAML file, or a shipped config's name; None is no config.
        overrides: `section.setting=value`, over the file's.
        layout: Layout of the folder; None is the config's, else found out.
        check: List problems instead of numbers.
        accept: Kinds of doubts that are as they should be.
        out: JSON file; its picture stands beside it. None is stats.json, and nothing at all with
            `check` or `as_json`.
        workers: Processes; None is one per core, 8 at most, fewer for small data sets.
        suggest: YAML file to write: a config for this data set. None is none.
        as_json: Print the record as JSON and nothing else.
        quiet: Print nothing but errors.
    """

    data: Path | None = None
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    layout: str | None = None
    check: bool = False
    accept: tuple[str, ...] = ()
    out: Path | None = None
    workers: int | None = None
    suggest: Path | None = None
    as_json: bool = False
    quiet: bool = False


def survey(request: SurveyRequest) -> int:
    """Measures or checks a data set.

    Returns:
        Exit status: 1 if `check` found a problem, else 0.

    Raises:
        UserError: For a mistake in arguments or config, or if no case can be used.
    """
    _check_request(request)
    out = _target(request)
    loaded = _config(request)
    console = Console(quiet=request.quiet or request.as_json)
    with _told_by(console):
        if not request.check:
            dataset, _ = open_dataset(loaded, keep_incomplete=True)
            surveys = _walk(dataset, loaded, request, console)
            stats = dataset_stats(dataset, surveys)
            return _tell_stats(stats, loaded, request, out, console)
        try:
            dataset, _ = open_dataset(loaded, keep_incomplete=True)
        except UserError as error:
            if not loaded.config.data.root.is_dir():
                raise
            found = [Problem("", "dataset", str(error))]
            return _tell_problems(found, 0, None, request, out, console)
        surveys = _walk(dataset, loaded, request, console)
    problems = [Problem("", "dataset", fault) for fault in dataset.faults]
    problems += [problem for one in surveys for problem in one.problems]
    kept = [problem for problem in problems if problem.kind not in request.accept]
    return _tell_problems(kept, len(surveys), dataset.synthetic, request, out, console)


def _walk(
    dataset: Dataset, loaded: LoadedConfig, request: SurveyRequest, console: Console
) -> list[CaseSurvey]:
    data = loaded.config.data
    rules = SurveyRules(
        dataset.scheme,
        dataset.channels,
        data.channel_dim,
        data.affine_tolerance_mm,
        data.max_voxels,
        data.resample_channels,
    )
    workers = request.workers or _worth_starting(dataset.cases)
    with console.working("reading cases", len(dataset.cases)) as bar:
        return survey_cases(
            dataset.cases,
            rules,
            workers=min(workers, len(dataset.cases)),
            on_case=bar.advance,
        )


def _worth_starting(cases: Sequence[Case]) -> int:
    """Processes for these cases: starting one costs a second, in which one reads a few files."""
    num_bytes = 0
    for case in cases:
        for path in (*case.images, case.label):
            with contextlib.suppress(OSError):
                num_bytes += path.stat().st_size if path is not None else 0
    return min(available_cores(), _MAX_WORKERS, 1 + num_bytes // _BYTES_PER_WORKER)


def _tell_stats(
    stats: DatasetStats,
    loaded: LoadedConfig,
    request: SurveyRequest,
    out: Path | None,
    console: Console,
) -> int:
    from segfocal.reports import survey_tables

    unit = loaded.config.loss.alpha_unit
    # First the files, which an hour of reading may lie behind: `| head` ends what is printed.
    if out is not None:
        from segfocal.reports.survey_figure import survey_figure

        picture = out.with_suffix(".png")
        write_json(out, stats.to_dict())
        survey_figure(stats, picture)
    if request.suggest is not None:
        with atomic_write(request.suggest) as stream:
            stream.write(config_text(stats, loaded, path=request.suggest).encode())
    if request.as_json:
        _print_json(stats.to_dict())
    console.line(survey_tables.headline(stats), "bold")
    if stats.dataset.synthetic:
        console.line(STAMP)
    console.table(survey_tables.class_table(stats.groups))
    console.table(survey_tables.channel_table(stats.channels))
    if stats.alpha[unit]:
        console.table(survey_tables.alpha_table(stats.alpha[unit], stats.counts.num_cases))
    if stats.alpha_note:
        console.line(stats.alpha_note)
    _tell_left_out(stats, console)
    if out is not None:
        console.line(f"{out} and {picture}")
    if request.suggest is not None:
        console.line(f"{request.suggest}: a config for these cases, with the reasons")
        console.line(
            f"next   segfocal-train --config {shlex.quote(str(request.suggest))} --dry-run"
        )
    return 0


def _tell_left_out(stats: DatasetStats, console: Console) -> None:
    num_problems = len(stats.dataset.faults) + sum(len(one.problems) for one in stats.surveys)
    if stats.left_out:
        shown = ", ".join(stats.left_out[:5])
        more = f" and {len(stats.left_out) - 5} more" if len(stats.left_out) > 5 else ""
        console.line(
            f"left out: {len(stats.left_out)} of {len(stats.surveys)} cases, which training would "
            f"refuse: {shown}{more}",
            "red",
        )
    if num_problems:
        console.line(f"problems: {num_problems}. segfocal-stats --check lists each with its cure.")


def _tell_problems(
    problems: Sequence[Problem],
    num_cases: int,
    synthetic: bool | None,
    request: SurveyRequest,
    out: Path | None,
    console: Console,
) -> int:
    from segfocal.reports.survey_tables import problem_lines, problem_summary

    record = {
        "format": f"{FORMAT} check",
        "synthetic": STAMP if synthetic else synthetic,
        "num_cases": num_cases,
        "problems": [problem_to_dict(problem) for problem in problems],
    }
    if request.as_json:
        _print_json(record)
    for problem, line in zip(problems, problem_lines(problems), strict=True):
        console.line(line, "red" if problem.severity == "error" else "yellow")
    accepted = f" Accepted: {', '.join(request.accept)}." if request.accept else ""
    console.line(problem_summary(problems, num_cases) + accepted)
    if out is not None:
        write_json(out, record)
        console.line(str(out))
    return 1 if problems else 0


def _check_request(request: SurveyRequest) -> None:
    if request.data is None and request.config is None:
        raise UserError(
            "--data is missing: the folder of the data set, or --config with data.root."
        )
    if request.data is not None and not request.data.is_dir():
        what = "is a file" if request.data.exists() else "does not exist"
        raise UserError(f"--data {request.data} {what}. Expected the folder of a data set.")
    if request.suggest is not None:
        _check_suggest(request.suggest, check=request.check)
    if request.workers is not None and request.workers < 1:
        raise UserError(f"--workers: expected a number >= 1, got {request.workers}.")
    doubts = [kind for kind, severity in SEVERITIES.items() if severity == "doubt"]
    for kind in request.accept:
        if kind not in doubts:
            raise UserError(
                f"--accept {kind}: expected a kind of doubt: {', '.join(doubts)}. "
                f"Errors stop training and have to be mended."
            )


def _check_suggest(path: Path, *, check: bool) -> None:
    if check:
        raise UserError("--suggest goes by the numbers: leave out --check.")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--suggest {path}: expected a name that ends in .yaml.")
    if path.exists():
        raise UserError(f"--suggest {path}: exists, and may hold your changes. Pass another name.")
    if not path.parent.is_dir():
        raise UserError(f"--suggest {path}: the folder {path.parent} does not exist.")
    make_writable(path.parent)


def _target(request: SurveyRequest) -> Path | None:
    """The file to write, checked before an hour of reading."""
    out = request.out
    if out is None:
        if request.check or request.as_json:
            return None
        out = _DEFAULT_OUT
    if out.suffix != ".json":
        raise UserError(f"--out {out}: expected a name that ends in .json.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist.")
    make_writable(out.parent)
    if out.exists():
        written = read_json(out).get("format") if out.is_file() else None
        if not isinstance(written, str) or not written.startswith(FORMAT):
            raise UserError(
                f"{out} exists and was not written by segfocal-stats. Pass another --out."
            )
    return out


def _config(request: SurveyRequest) -> LoadedConfig:
    given: dict[str, Any] = {}
    if request.data is not None:
        given["root"] = str(request.data)
    if request.layout is not None:
        given["layout"] = request.layout
    if request.config is None:
        options = {"data.root": "--data", "data.layout": "--layout"}
        places = {
            name: option for name, option in options.items() if name.removeprefix("data.") in given
        }
        return config_of({"data": given}, request.overrides, "stats", places)
    return load_config(
        request.config,
        [
            *request.overrides,
            *(f"data.{name}={json.dumps(value)}" for name, value in given.items()),
        ],
    )


@contextmanager
def _told_by(console: Console) -> Iterator[None]:
    """Doubts that a layout warns of, as one line each."""
    messages: list[str] = []
    with warnings_caught(messages):
        yield
    for message in messages:
        console.warning(message)


def _print_json(record: dict[str, Any]) -> None:
    json.dump(record, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
