"""`report.html`: a run's results, pictures and settings in one file that needs no network."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import jinja2

from segfocal.data.phantom.stamp import STAMP
from segfocal.files import atomic_write
from segfocal.metrics.case_score import CaseScore, RegionSummary
from segfocal.reports.case_table import read_case_scores, scored_epoch
from segfocal.reports.history import read_history
from segfocal.reports.text import duration, fraction

MAX_CASES = 50
MAX_SAMPLES = 4
SHOWN_FILES = ("config.yaml", "command.txt", "env.json")


def write_report(
    run_dir: Path,
    *,
    title: str | None = None,
    facts: Mapping[str, str] | None = None,
    results: Mapping[str, Mapping[str, RegionSummary]] | None = None,
    synthetic: bool = False,
    done: bool = False,
) -> Path:
    """Write `report.html` from what a run folder holds; what is missing is left out.

    Read from the folder: `metrics.csv`, `val_cases.csv`, `progress.png`, the newest
    `samples/*.png`, `config.yaml`, `command.txt`, `env.json`, `DONE`, `FAILED.txt`.

    Args:
        run_dir: The run folder.
        title: Heading; the folder's name when None.
        facts: What to say about the run (data, alpha, device, versions), in order.
        results: Method to summary per region (`network`, `threshold baseline`).
        synthetic: Say at the top, at the bottom and on each table that this is the phantom.
        done: Say that the run is done, before DONE is there.

    Returns:
        The path of the report.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segfocal.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["fraction"] = fraction
    cases = _worst_first(run_dir / "val_cases.csv")
    regions = list(cases[0].regions) if cases else []
    page = environment.get_template("report.html.j2").render(
        title=title or run_dir.resolve().name,
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        state=_state(run_dir, done=done),
        stamp=STAMP if synthetic else "",
        facts=dict(facts or {}),
        results=dict(results or {}),
        progress=_embedded(run_dir / "progress.png"),
        samples=[(path.stem, _embedded(path)) for path in _newest_samples(run_dir / "samples")],
        cases=cases[:MAX_CASES],
        num_cases=len(cases),
        scored_epoch=scored_epoch(run_dir / "val_cases.csv"),
        regions=regions,
        volumes=all(
            score.ref_ml is not None
            for case in cases
            for score in case.regions.values()
            if score.annotated
        ),
        files={
            name: (run_dir / name).read_text(encoding="utf-8")
            for name in SHOWN_FILES
            if (run_dir / name).exists()
        },
    )
    path = run_dir / "report.html"
    with atomic_write(path) as stream:
        stream.write(page.encode())
    return path


def _state(run_dir: Path, *, done: bool) -> str:
    """`epoch 60, 31m00 · done`, or what stands in FAILED.txt."""
    parts = []
    if (run_dir / "metrics.csv").exists():
        history = read_history(run_dir / "metrics.csv")
        if history:
            parts.append(f"epoch {history[-1].epoch}, {duration(history[-1].elapsed_s)}")
    if (run_dir / "FAILED.txt").exists():
        failure = (run_dir / "FAILED.txt").read_text(encoding="utf-8").strip()
        parts.append(f"failed: {failure}")
    elif done or (run_dir / "DONE").exists():
        parts.append("done")
    return " · ".join(parts)


def _worst_first(path: Path) -> list[CaseScore]:
    """Cases by their mean Dice, the lowest first; those without any Dice at the end."""
    if not path.exists():
        return []

    def mean(case: CaseScore) -> float:
        defined = [s.dice for s in case.regions.values() if not math.isnan(s.dice)]
        return sum(defined) / len(defined) if defined else math.inf

    return sorted(read_case_scores(path), key=mean)


def _newest_samples(folder: Path) -> Sequence[Path]:
    """The last pictures by name (`epoch_012` after `epoch_011`), newest first."""
    return sorted(folder.glob("*.png"), reverse=True)[:MAX_SAMPLES]


def _embedded(path: Path) -> str:
    """A PNG as a data URI, "" where there is none."""
    if not path.exists():
        return ""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
