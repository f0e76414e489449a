"""Choice of backend: a function of its arguments, without silent fallback."""

import re

import pytest
import torch

from segfocal.ops import backend_choice, backends, class_sums
from segfocal.ops.backend_choice import BACKENDS, choose_backend


def test_backends_lists_what_can_be_asked_for():
    assert backends() == ("reference",)


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("requested", ["auto", "reference"])
def test_the_reference_runs_everywhere(requested, device_type, dtype):
    assert choose_backend(requested, device_type, dtype, "softmax") == "reference"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=re.escape("backend must be auto or one of reference: got 'triton'.")
    ):
        class_sums(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.uint8), backend="triton")


def test_auto_passes_over_what_cannot_run_and_a_name_does_not(monkeypatch):
    def float32_only(_device_type, dtype, _activation):
        return None if dtype == torch.float32 else f"it has no {dtype}."

    picky = BACKENDS["reference"]._replace(refusal=float32_only)
    monkeypatch.setattr(
        backend_choice, "BACKENDS", {"picky": picky, "reference": BACKENDS["reference"]}
    )
    assert choose_backend("auto", "cpu", torch.float32, "softmax") == "picky"
    assert choose_backend("auto", "cpu", torch.float64, "softmax") == "reference"
    with pytest.raises(
        ValueError,
        match=re.escape("backend picky cannot run: it has no torch.float64. Use backend='auto'."),
    ):
        choose_backend("picky", "cpu", torch.float64, "softmax")
