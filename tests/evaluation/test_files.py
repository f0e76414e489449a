"""docs/evaluate.md names every column, option and file; what is undefined is null or empty."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from segfocal.cli import evaluate as command
from segfocal.evaluation.case import CaseEvaluation, EvaluationRules
from segfocal.evaluation.curve_files import (
    CURVE_FILES,
    FROC_COLUMNS,
    PROBABILITY_COLUMNS,
    RELIABILITY_COLUMNS,
    THRESHOLD_COLUMNS,
)
from segfocal.evaluation.files import (
    CASE_COLUMNS,
    FILES,
    LESION_COLUMNS,
    summary_record,
    write_cases,
    write_lesions,
)
from segfocal.evaluation.outcome import Outcome
from segfocal.labels import LabelScheme
from segfocal.metrics.evaluation import UNSCORED, Measures, evaluate_classes
from segfocal.reports.csv_file import read_csv

PAGE = Path("docs/evaluate.md").read_text()


def outcome():
    """A case with the first class on neither side; the second was not annotated."""
    nothing = np.zeros((3, 3, 3), np.uint8)
    regions = evaluate_classes(nothing, nothing, {"a": (1,)}, (1, 1, 1), Measures())
    scheme = LabelScheme(("background", "a", "b"), (0, 1, 2))
    rules = EvaluationRules(scheme, Measures(), 0.1, 100)
    case = CaseEvaluation("c", regions | {"b": UNSCORED})
    return Outcome((case,), (), rules, "somebody", is_synthetic=False)


def test_the_page_names_every_column_file_and_option(capsys):
    columns = (*CASE_COLUMNS, *LESION_COLUMNS, *PROBABILITY_COLUMNS, *THRESHOLD_COLUMNS)
    for name in (*columns, *RELIABILITY_COLUMNS, *FROC_COLUMNS, *FILES, *CURVE_FILES):
        if name not in ("case", "class"):
            assert re.search(rf"`[^`|]*\b{name}\b[^`|]*`", PAGE), name
    with pytest.raises(SystemExit):
        command.main(["--help"])
    options = {word.strip("[],") for word in capsys.readouterr().out.split() if "--" in word}
    for option in options - {"--help", "--version", "--debug"}:
        assert option in PAGE, option


def test_what_is_undefined_is_null_in_json_and_empty_in_csv(tmp_path):
    record = json.loads(json.dumps(summary_record(outcome()), allow_nan=False))
    assert record["classes"]["a"]["dice"] == {"mean": None, "median": None, "n": 0}
    assert record["mean_of_classes"]["dice"] is None
    write_cases(tmp_path / "cases.csv", outcome().cases, note="")
    first, second = read_csv(tmp_path / "cases.csv")
    assert (first["present_in"], first["dice"], first["hd95_mm"]) == ("neither", "", "")
    assert (first["ref_voxels"], first["lesions"], first["lesion_f1"]) == ("0", "0", "")
    assert set(second.values()) == {"c", "b", ""}
    write_lesions(tmp_path / "lesions.csv", outcome().cases, note="")
    assert read_csv(tmp_path / "lesions.csv") == []
