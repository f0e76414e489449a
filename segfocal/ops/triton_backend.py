"""The door to the Triton backend, which imports triton only when it is called.

It is called with tensors on a CUDA device alone: `backend_choice.py` sees to that.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula
from segfocal.ops.loss_formula import LossFormula, TermWeights


def why_not_here() -> str | None:
    """Why it cannot run on this machine, or None. Found out without importing triton.

    Triton compiles the code that starts a kernel when first used, so it needs more than itself.
    """
    if find_spec("triton") is None:
        return "triton is not installed. Run pip install triton."
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler. Install gcc, or name one in the environment variable CC."
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme names a folder for local headers; triton looks where the system has them
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    if not header.exists():
        return f"triton needs Python's headers: {header} is not there. Install python3-dev."
    return None


MISSING = why_not_here()


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


def loss_of_sums(
    sums: Tensor, formula: LossFormula, weights: TermWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a batch, its two terms and its slopes, as `segfocal.ops.loss_of_sums` tells."""
    from segfocal.ops import triton_loss

    return triton_loss.loss_of_sums(sums, formula, weights)
