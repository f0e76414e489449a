"""What `segfocal-evaluate` says on the terminal."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segfocal.data.defects import Problem
from segfocal.evaluation.files import summary_record
from segfocal.evaluation.outcome import Outcome
from segfocal.labels import LabelScheme
from segfocal.reports.console import Console
from segfocal.reports.text import SEPARATOR

_LESION_WORDS = {
    "plain": "found if touched",
    "brats-gli": "by brats-gli",
    "brats-met": "by brats-met",
}

_MAX_TOLD = 12
"""Problems of one kind that are told one by one; the record holds all of them."""

_HINT = "note   data.* and loss.* are settings: --set data.labels=brats18-22, or --config FILE"

_MAX_CLASSES = 8


def tell(outcome: Outcome, written: Sequence[Path], console: Console, *, as_json: bool) -> None:
    """Tables, files and problems; or the record as JSON. Problems go to standard error."""
    if as_json:
        record = summary_record(outcome)
        json.dump(record, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
        return
    _tell_problems(outcome.problems)
    console.line(_headline(outcome), "bold")
    if outcome.cases:
        _tell_tables(outcome, console)
    if written:
        console.line("wrote  " + " ".join(map(str, written)))
        if outcome.cases:
            console.line(
                f"next   segfocal-compare {shlex.quote(str(written[0].parent))} [OTHER ...]"
            )


def _tell_problems(problems: Sequence[Problem]) -> None:
    """A line each, before the tables: `| head` ends what comes later."""
    num_told: Counter[str] = Counter()
    for problem in problems:
        num_told[problem.kind] += 1
        if num_told[problem.kind] <= _MAX_TOLD:
            sys.stderr.write(f"error  {problem} [{problem.kind}]\n")
    for kind, count in num_told.items():
        if count > _MAX_TOLD:
            more = count - _MAX_TOLD
            sys.stderr.write(f"error  and {more} more [{kind}]: --json tells all of them\n")
    if any(setting in problem.text for problem in problems for setting in ("data.", "loss.")):
        sys.stderr.write(f"{_HINT}\n")
    sys.stderr.flush()


def _tell_tables(outcome: Outcome, console: Console) -> None:
    from segfocal.reports import evaluation_tables as tables

    measures, reports = outcome.rules.measures, outcome.reports
    console.line(_labels_line(outcome.rules.scheme, outcome.labels_from))
    if outcome.stamp:
        console.line(outcome.stamp)
    if outcome.trained_on:
        console.line(
            f"doubt  the run was trained on {len(outcome.trained_on)} cases of these names "
            f"({outcome.trained_on[0]} ...): for them this is no measure of new ones"
        )
    console.table(tables.overlap_table(reports, measures.tolerance_mm))
    console.table(tables.lesion_table(reports, _LESION_WORDS[measures.lesions]))
    sizes = tables.lesion_size_table(outcome.lesion_sizes)
    if sizes is not None:
        console.table(sizes)
    if measures.lesions != "plain":
        console.table(tables.brats_table(reports))
        console.line(tables.BRATS_POLICY)
    empty = tables.empty_table(reports)
    if empty is not None:
        console.table(empty)
        console.line(tables.EMPTY_POLICY)
    if outcome.curves:
        _tell_curves(outcome, console)


def _tell_curves(outcome: Outcome, console: Console) -> None:
    from segfocal.reports import curve_tables

    console.table(curve_tables.voxel_table(outcome.curves))
    console.line(curve_tables.BEST_POLICY)
    binning = curve_tables.binning_line(outcome.curves)
    if binning is not None:
        console.line(binning)
    console.table(curve_tables.candidate_table(outcome.curves))
    console.line(curve_tables.candidate_line(outcome.rules.candidate_threshold))


def _headline(outcome: Outcome) -> str:
    """`evaluated 12 cases · 2 problems · 0.4% of voxels ignored`."""
    num, num_problems = len(outcome.cases), len(outcome.problems)
    parts = [f"evaluated {num} case{'' if num == 1 else 's'}"]
    if num_problems:
        parts.append(f"{num_problems} problem{'' if num_problems == 1 else 's'}")
    if num and outcome.rules.scheme.ignore_values:
        share = sum(case.ignored_fraction for case in outcome.cases) / num
        parts.append(f"{100 * share:.1f}% of voxels ignored")
    return SEPARATOR.join(parts)


def _labels_line(scheme: LabelScheme, labels_from: str) -> str:
    """`labels by dataset.json: 0 background, 1 tumour · regions WT,TC,ET · ignore 255`."""
    told = [f"{value} {name}" for value, name in zip(scheme.values, scheme.names, strict=True)]
    more = f" and {len(told) - _MAX_CLASSES} more" if len(told) > _MAX_CLASSES + 1 else ""
    shown = ", ".join(told[:_MAX_CLASSES] if more else told)
    parts = [f"labels by {labels_from}: {shown}{more}"]
    if scheme.regions:
        parts.append(f"regions {','.join(scheme.target_names)}")
    if scheme.ignore_values:
        parts.append(f"ignore {','.join(map(str, scheme.ignore_values))}")
    return SEPARATOR.join(parts)
