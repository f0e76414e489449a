"""`segfocal-train --demo`: no data, no config. A phantom is written, trained on and reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfocal.config.load import LoadedConfig, load_config
from segfocal.data.phantom.dataset import write_phantom
from segfocal.data.split import read_split
from segfocal.data.verify import load_case
from segfocal.errors import UserError
from segfocal.metrics.threshold_baseline import ThresholdBaseline, threshold_baseline
from segfocal.training.launch import Launch
from segfocal.training.preflight import open_dataset
from segfocal.training.reporter import Reporter
from segfocal.training.run import TrainRequest, train

NUM_CASES = 24


def run_demo(
    out: Path | None,
    overrides: Sequence[str],
    *,
    quiet: bool,
    started_s: float,
    launch: Launch | None = None,
) -> ThresholdBaseline:
    """Writes the phantom, trains, and sets the network beside the best threshold.

    Args:
        out: Folder for phantom and run; None is the first free of segfocal-demo, segfocal-demo-2.
        overrides: `section.setting=value`, over configs/phantom.yaml.
        quiet: Print nothing but errors.
        started_s: `time.monotonic()` when the command began.
        launch: That this is the first of several ranks.

    Returns:
        The threshold baseline on the validation cases.

    Raises:
        UserError: If `out` is not empty, or a setting is wrong.
    """
    base = out if out is not None else _first_free(Path("segfocal-demo"))
    if base.exists() and (not base.is_dir() or any(base.iterdir())):
        raise UserError(f"{base} is not empty. Pass --out for another folder.")
    settings = [f"data.root={base / 'phantom'}", *overrides]
    loaded = load_config(Path("phantom.yaml"), settings)
    reporter = Reporter(quiet=quiet, closing_words=False)
    with reporter.writing_phantom(NUM_CASES) as progress:
        write_phantom(base / "phantom", num_cases=NUM_CASES, progress=progress)
    outcome = train(
        TrainRequest(
            config=Path("phantom.yaml"),
            overrides=tuple(settings),
            out=base / "run",
            quiet=quiet,
            started_s=started_s,
        ),
        reporter,
        launch,
    )
    assert outcome is not None
    baseline = baseline_of_run(loaded, base / "run")
    reporter.demo_result(outcome, baseline, base)
    return baseline


def baseline_of_run(loaded: LoadedConfig, run: Path) -> ThresholdBaseline:
    """The best single-channel threshold of the run's training cases, on its validation cases."""
    dataset, _ = open_dataset(loaded)
    split = read_split(run / "split.json", dataset.case_ids)
    cases = {
        case.case_id: load_case(case, dataset.scheme, dataset.channels) for case in dataset.cases
    }
    pairs = {}
    for case_id, case in cases.items():
        assert case.classes is not None
        pairs[case_id] = (case.image, case.classes)
    return threshold_baseline(
        [pairs[case_id] for case_id in split.train],
        [pairs[case_id] for case_id in split.val],
        dataset.scheme.target_names,
        dataset.scheme.target_classes,
        val_names=split.val,
        zooms_mm=[cases[case_id].zooms for case_id in split.val],
    )


def _first_free(path: Path) -> Path:
    """`path`, or `path-2`, `path-3` ... where it is taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
