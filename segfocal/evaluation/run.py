"""What `segfocal-evaluate` does: pairs predictions with references, measures, tells and writes."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocal.config.load import LoadedConfig, config_of, load_config
from segfocal.data.layouts.descriptor import FILE_NAME, Descriptor
from segfocal.data.processes import available_cores, in_processes
from segfocal.errors import SegfocalWarning, UserError
from segfocal.evaluation.case import CaseEvaluation, EvaluationRules, crashed, evaluate_pair
from segfocal.evaluation.curve_files import CURVE_FILES
from segfocal.evaluation.files import FILES, FORMAT, SUMMARY, write_files
from segfocal.evaluation.meaning import declared_scheme, ignored_near, scheme_of_files
from segfocal.evaluation.out_folder import check_out_folder
from segfocal.evaluation.outcome import HistogramPool, Outcome
from segfocal.evaluation.pairs import Pair, find_predictions, pair_up
from segfocal.evaluation.probability_files import find_probabilities, with_probabilities
from segfocal.evaluation.references import References, find_references, ignore_values
from segfocal.evaluation.telling import tell
from segfocal.files import read_json
from segfocal.metrics.evaluation import LesionRules, Measures
from segfocal.metrics.free_response import CANDIDATE_THRESHOLD
from segfocal.metrics.lesion_sizes import SIZE_EDGES_MM3
from segfocal.reports.console import Console

_MAX_WORKERS = 8
_BYTES_PER_WORKER = 1 << 18
"""Of compressed files; labels are a small part of their volumes."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The arguments of segfocal-evaluate.

    Attributes:
        pred: Predicted label files: a folder, or one file.
        ref: References: a folder, a file, a list, or a data set.
        config: YAML file, or a shipped config's name; None is no config.
        overrides: `section.setting=value`, over the file's.
        lesions: How lesions are matched.
        tolerance_mm: Distance up to which a surface voxel counts as right.
        out: Folder for tables and pictures (`files.FILES`, `curve_files.CURVE_FILES`); None is
            none.
        allow_missing: References without a prediction are no problem.
        workers: Processes; None is one per core, 8 at most, fewer for little data.
        as_json: Print the record as JSON and nothing else.
        quiet: Print nothing but problems.
        probabilities: Folder of probabilities; None is the folder `probabilities` beside the
            predictions, where there is one.
        ignore_probabilities: Look at no probabilities.
        candidate_threshold: Probability above which voxels make up candidates for lesions.
        lesion_edges_mm3: Volumes that part lesions by size, ascending.
    """

    pred: Path
    ref: Path
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    lesions: LesionRules = "plain"
    tolerance_mm: float = 2.0
    out: Path | None = None
    allow_missing: bool = False
    workers: int | None = None
    as_json: bool = False
    quiet: bool = False
    probabilities: Path | None = None
    ignore_probabilities: bool = False
    candidate_threshold: float = CANDIDATE_THRESHOLD
    lesion_edges_mm3: Sequence[float] = SIZE_EDGES_MM3


def evaluate(request: EvaluationRequest) -> int:
    """Measures predictions against references.

    Returns:
        Exit status: 1 if a case could not be evaluated, else 0.

    Raises:
        UserError: For a mistake in arguments or config, or if there is nothing to evaluate.
    """
    _check_request(request)
    loaded = _config(request)
    with loaded.placing():
        return _evaluate(request, loaded)


def _evaluate(request: EvaluationRequest, loaded: LoadedConfig) -> int:
    console = Console(quiet=request.quiet or request.as_json)
    predictions = find_predictions(request.pred)
    folder = None
    if not request.ignore_probabilities:
        folder = find_probabilities(request.pred, request.probabilities)
    is_its_data = request.config is None or _same(loaded.config.data.root, request.ref)
    with warnings.catch_warnings():
        # A wrong numTraining and the like: for segfocal-stats to tell.
        warnings.simplefilter("ignore", SegfocalWarning)
        references = find_references(request.ref, loaded, is_its_data=is_its_data)
    pairs, problems = pair_up(predictions, references, allow_missing=request.allow_missing)
    problems = [*references.problems, *predictions.problems, *problems]
    rules, labels_from = _rules(request, loaded, references, pairs)
    if folder is not None:
        pairs, lacking = with_probabilities(pairs, folder, rules.scheme)
        problems = [*problems, *folder.problems, *lacking]
    pool = HistogramPool()
    every = _walk(pairs, rules, request, console, pool)
    evaluated = tuple(case for case in every if not case.problems)
    found = (problem for case in every for problem in (*case.problems, *case.curve_problems))
    outcome = Outcome(
        evaluated,
        (*problems, *found),
        rules,
        labels_from,
        is_synthetic=references.is_synthetic
        or any(case.is_synthetic for case in every)
        or (request.config is not None and _trains_on_phantom(loaded.config.data.root)),
        trained_on=_trained_on(request.config, evaluated),
        probabilities_from=None if folder is None else folder.path,
        histograms=pool.histograms,
        lesion_edges_mm3=request.lesion_edges_mm3,
    )
    # First the files, which an hour of measuring may lie behind: `| head` ends what is printed.
    written = write_files(request.out, outcome) if request.out is not None else []
    tell(outcome, written, console, as_json=request.as_json)
    return 1 if outcome.problems else 0


def _rules(
    request: EvaluationRequest,
    loaded: LoadedConfig,
    references: References,
    pairs: Sequence[Pair],
) -> tuple[EvaluationRules, str]:
    """What is measured by what meaning of the values, and who says so."""
    data = loaded.config.data
    places = [path if path.is_dir() else path.parent for path in (request.ref, request.pred)]
    scheme, labels_from = declared_scheme(loaded, request.config, references, places)
    if scheme is None:
        scheme = scheme_of_files(
            [pair.reference for pair in pairs] + [pair.prediction for pair in pairs],
            [*ignore_values(loaded), *ignored_near(places[0])],
            data.max_voxels,
        )
        labels_from = "the values in the files, which nobody declares"
    rules = EvaluationRules(
        scheme,
        Measures(request.tolerance_mm, request.lesions),
        data.affine_tolerance_mm,
        data.max_voxels,
        request.candidate_threshold,
    )
    return rules, labels_from


def _walk(
    pairs: Sequence[Pair],
    rules: EvaluationRules,
    request: EvaluationRequest,
    console: Console,
    pool: HistogramPool,
) -> list[CaseEvaluation]:
    workers = request.workers or _worth_starting(pairs)
    with console.working("evaluating", len(pairs)) as bar:
        return in_processes(
            pairs,
            functools.partial(evaluate_pair, rules),
            crashed,
            workers=min(workers, len(pairs)),
            on_done=bar.advance,
            kept=pool.take,
        )


def _worth_starting(pairs: Sequence[Pair]) -> int:
    """Processes for these pairs: starting one costs about a second."""
    num_bytes = 0
    for pair in pairs:
        for path in (pair.reference, *pair.probabilities.values()):
            with contextlib.suppress(OSError):
                num_bytes += path.stat().st_size
    return min(available_cores(), _MAX_WORKERS, 1 + num_bytes // _BYTES_PER_WORKER)


def _check_request(request: EvaluationRequest) -> None:
    if not 0 <= request.tolerance_mm < float("inf"):
        raise UserError(f"--tolerance: expected millimetres >= 0, got {request.tolerance_mm:g}.")
    if not 0 <= request.candidate_threshold < 1:
        raise UserError(
            f"--candidates: expected a probability from 0 to below 1, got "
            f"{request.candidate_threshold:g}."
        )
    edges = request.lesion_edges_mm3
    if any(not 0 < edge < math.inf for edge in edges) or sorted(set(edges)) != list(edges):
        raise UserError(
            f"--lesion-sizes: expected ascending volumes in mm3, got "
            f"{' '.join(f'{edge:g}' for edge in edges)}."
        )
    if request.workers is not None and request.workers < 1:
        raise UserError(f"--workers: expected a number >= 1, got {request.workers}.")
    if request.out is not None:
        inputs = {"--pred": request.pred, "--ref": request.ref}
        if request.probabilities is not None:
            inputs["--probabilities"] = request.probabilities
        check_out_folder(request.out, (*FILES, *CURVE_FILES), SUMMARY, FORMAT, inputs)


def _config(request: EvaluationRequest) -> LoadedConfig:
    if request.config is not None:
        return load_config(request.config, request.overrides)
    settings = {"data": {"root": str(request.ref)}}
    return config_of(settings, request.overrides, "evaluate", {"data.root": "--ref"})


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _trained_on(config: Path | None, cases: Sequence[CaseEvaluation]) -> tuple[str, ...]:
    """The cases whose names stand in the training part of the split.json beside a run's config."""
    split = None if config is None else config.parent / "split.json"
    if split is None or not split.is_file():
        return ()
    trained = read_json(split).get("train")
    names = set(map(str, trained)) if isinstance(trained, list) else set()
    return tuple(case.case_id for case in cases if case.case_id in names)


def _trains_on_phantom(root: Path) -> bool:
    if (root / FILE_NAME).is_file():
        return Descriptor.read(root).synthetic
    return "PHANTOM" in root.name.upper()
