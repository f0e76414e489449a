"""Alpha and weight, spelled out by hand."""

import pytest
import torch

from segfocal.functional.class_weights import focal_weights

LIKE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize(
    ("activation", "alpha", "weight", "positive", "negative"),
    [
        ("softmax", None, None, [1, 1, 1], [1, 1, 1]),
        ("softmax", 0.25, None, [0.75, 0.25, 0.25], [1, 1, 1]),
        ("softmax", [0.2, 1.3, 1.5], None, [0.2, 1.3, 1.5], [1, 1, 1]),
        ("softmax", [1.3, 1.5], None, [0, 1.3, 1.5], [1, 1, 1]),
        ("softmax", 0.25, [2, 4, 8], [1.5, 1, 2], [2, 4, 8]),
        ("sigmoid", None, None, [1, 1, 1], [1, 1, 1]),
        ("sigmoid", 0.25, None, [0.25] * 3, [0.75] * 3),
        ("sigmoid", [0.1, 0.5, 1.0], None, [0.1, 0.5, 1.0], [0.9, 0.5, 0.0]),
        ("sigmoid", 0.25, 2.0, [0.5] * 3, [1.5] * 3),
        ("sigmoid", [0.1, 0.5, 1.0], [1, 2, 3], [0.1, 1.0, 3.0], [0.9, 1.0, 0.0]),
    ],
)
def test_weights_of_positives_and_negatives(activation, alpha, weight, positive, negative):
    as_tensors = [
        None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
        for numbers in (alpha, weight)
    ]
    for given_alpha, given_weight in ((alpha, weight), as_tensors):
        weights = focal_weights(
            3, LIKE, activation=activation, alpha=given_alpha, weight=given_weight
        )
        assert weights.positive.tolist() == pytest.approx(positive)
        assert weights.negative.tolist() == pytest.approx(negative)
        assert weights.positive.dtype == torch.float64
