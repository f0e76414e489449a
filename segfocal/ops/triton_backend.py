"""The door to the Triton backend, which imports triton only when it is called.

It is called with tensors on a CUDA device alone: `backend_choice.py` sees to that.
"""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

MISSING = None if find_spec("triton") else "triton is not installed. Run pip install triton."
"""Why it cannot run on this machine, found out without importing triton."""


def class_sums(logits: Tensor, target: FlatTarget, formula: Formula) -> Tensor:
    """The sums of `ClassSums`, as `reference.class_sums`."""
    from segfocal.ops import triton_launch

    return triton_launch.class_sums(logits, target, formula)


def class_sums_backward(
    upstream: Tensor, logits: Tensor, target: FlatTarget, formula: Formula
) -> Tensor:
    """Gradient with respect to the logits, as `reference.class_sums_backward`."""
    from segfocal.ops import triton_launch

    return triton_launch.class_sums_backward(upstream, logits, target, formula)
