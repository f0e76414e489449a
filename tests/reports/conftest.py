import numpy as np
import pytest

from segfocal.metrics.case_score import CaseScore, RegionScore, RegionSummary
from segfocal.reports.history import EpochRecord

NAN = float("nan")


@pytest.fixture
def summary():
    return {
        "WT": RegionSummary(0.887, 0.8, 120, 100, 30, 96, 96, 0, 0),
        "TC": RegionSummary(0.801, 0.7, 90, 75, 25, 96, 95, 2, 1),
        "ET": RegionSummary(0.742, 0.79775, 88, 71, 19, 96, 92, 4, 0),
    }


@pytest.fixture
def records(summary):
    undefined = RegionSummary(NAN, NAN, 0, 0, 0, 96, 0, 96, 0)
    terms = {"focal": 0.021, "dice": 0.391}
    return [
        EpochRecord(1, 50, 16.1, 3.1, 1e-3, 0.9123456789012345, {"focal": 0.1, "dice": 0.8}),
        EpochRecord(2, 100, 33.3, 2.9, 9.9e-4, 0.412, terms, {**summary, "ET": undefined}),
        EpochRecord(3, 150, 50.0, 3.0, 1 / 3, 0.4, terms, summary),
    ]


@pytest.fixture
def cases():
    def region(dice, ref, pred):
        return RegionScore(dice, ref, pred, int(ref > 0), int(dice > 0), 0, ref / 125, pred / 125)

    return [
        CaseScore("A", {"WT": region(0.9, 125, 120), "ET": region(0.8, 25, 20)}),
        CaseScore("B", {"WT": region(0.1, 250, 5), "ET": region(NAN, 0, 0)}),
    ]


@pytest.fixture
def volumes():
    """An image (2, 30, 36, 20) in RAS order, reference and prediction class maps."""
    rng = np.random.default_rng(0)
    reference = np.zeros((30, 36, 20), np.uint8)
    reference[18:26, 10:20, 6:14] = 1
    reference[20:24, 12:18, 8:12] = 3
    reference[:, :, 16:18] = 255
    prediction = np.roll(np.where(reference == 255, 0, reference), 2, 0).astype(np.uint8)
    image = rng.normal(10, 1, (2, 30, 36, 20)).astype(np.float32)
    image[0][reference == 1] += 10
    image[1][reference == 3] += 20
    image[:, :3] = 0
    return image, reference, prediction
