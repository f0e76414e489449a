import dataclasses

import numpy as np
import pytest

from segfocal.metrics.curves import Area
from segfocal.metrics.probability_evaluation import (
    evaluate_probabilities,
    summarise_probabilities,
)
from segfocal.reports.curve_tables import (
    binning_line,
    candidate_line,
    candidate_table,
    voxel_table,
)
from tests.reports.test_evaluation_tables import printed, words

REF = np.zeros((6, 6, 6), bool)
REF[1:3, 1:3, 1:3] = True
PROBS = np.where(REF, 0.805, 0.105)
PROBS[5, 5, 5] = 0.905


def reports():
    """In one of two cases nothing is there, and one voxel is sure of the opposite."""
    cases = [evaluate_probabilities(PROBS, ref) for ref in (REF, REF & False)]
    return {"a": summarise_probabilities(cases), "b": summarise_probabilities([])}


@pytest.mark.parametrize("make", [voxel_table, candidate_table])
def test_a_table_fits_80_columns_and_cuts_no_number(make):
    lines = printed(make({"whole tumour and oedema": reports()["a"]}))
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_areas_calibration_and_thresholds_stand_in_the_row():
    row = words(printed(voxel_table(reports())), "a")
    one = reports()["a"]
    assert row[1] == "1/2"
    assert row[3] == f"{207 / 208:.3f}"[1:]
    assert row[2] == f"{one.pooled_auroc.value:.3f}"[1:]
    assert row[5] == f"{8 / 9:.3f}"[1:]  # one voxel above the eight of the class
    # without the class .5 predicts nine voxels: Dice 0, and from .91 on it is in no mean
    assert row[8] == f"{(16 / 17) / 2:.3f}"[1:]
    assert row[9:] == [f"{(16 / 17) / 2:.3f}"[1:], ".50"]


def test_lesions_and_rates_stand_in_the_row():
    row = words(printed(candidate_table(reports())), "a")
    # above .1 everything is one candidate: it finds the lesion, and is false in the other case
    assert row == ["a", "2", "1", ".500", ".000", "1.000", "1.000", "1.000", "1.000", ".714"]
    assert candidate_line(0.25) == (
        "candidates: components above p 0.25, each as sure as its highest voxel"
    )


def test_without_a_case_there_are_dashes():
    assert words(printed(voxel_table(reports())), "b")[1:] == ["0", *["-"] * 9]
    assert words(printed(candidate_table(reports())), "b")[1:] == ["0", "0", *["-"] * 7]


def test_the_error_of_the_bins_is_told_where_it_reaches_the_third_digit():
    one = reports()["a"]
    assert binning_line({"a": one}) is None
    off = dataclasses.replace(one, pooled_average_precision=Area(0.5, 0.00123))
    assert binning_line({"a": one, "b": off}) == "areas of all voxels are exact to 0.00123"
