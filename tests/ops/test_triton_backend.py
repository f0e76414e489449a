"""When the Triton backend runs, and when triton is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from segfocal.ops import backend_choice, backends, class_sums, flat_arguments, triton_backend
from segfocal.ops.backend_choice import BACKENDS, Request, choose_backend

HEADERS = Path("/usr/include/python3/Python.h")
CUDA = Request("cuda", torch.float32, "softmax")

PLAIN = {
    "logits": torch.zeros(1, 2, 3),
    "target": torch.zeros(1, 3, dtype=torch.uint8),
    "activation": "softmax",
    "gamma": 2.0,
    "label_smoothing": 0.0,
    "ignore_index": None,
    "mask": None,
    "regions": None,
    "check_target": False,
}


class OnGpu(NamedTuple):
    """What the choice reads of logits on a GPU."""

    device: torch.device = torch.device("cuda", 0)
    dtype: torch.dtype = torch.float32
    shape: tuple = (1, 2, 3)


@pytest.fixture
def installed(monkeypatch):
    """As on a machine that has triton."""
    backend = BACKENDS["triton"]
    present = backend._replace(support=backend.support._replace(missing=None))
    monkeypatch.setitem(backend_choice.BACKENDS, "triton", present)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.usefixtures("installed")
def test_auto_takes_it_on_cuda_whatever_is_asked(activation, dtype):
    everything = CUDA._replace(
        dtype=dtype,
        activation=activation,
        target="shares",
        mask="channels",
        class_gamma=True,
        label_smoothing=True,
        overlap="minimum",
    )
    for request in (CUDA._replace(dtype=dtype, activation=activation), everything):
        assert choose_backend("auto", request) == "triton"


@pytest.mark.usefixtures("installed")
def test_an_old_gpu_is_refused_by_name_and_passed_over_by_auto():
    old = CUDA._replace(is_recent=False)
    message = (
        "backend triton cannot run: it runs on GPUs of compute capability 8.0 or later. "
        "Use backend='auto'."
    )
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        choose_backend("triton", old)
    assert choose_backend("auto", old) == "chunked"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "chunked"), ((9, 0), "triton")])
@pytest.mark.usefixtures("installed")
def test_the_device_is_asked_for_its_age(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    on_gpu = flat_arguments.flatten(**PLAIN)._replace(logits=OnGpu())
    assert choose_backend("auto", flat_arguments.make_request(on_gpu, "product")) == chosen


@pytest.mark.usefixtures("installed")
def test_on_the_cpu_it_is_refused_by_name_and_passed_over_by_auto():
    logits, labels = torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.uint8)
    message = "backend triton cannot run: it runs on cuda, not on cpu. Use backend='auto'."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        class_sums(logits, labels, backend="triton")
    assert choose_backend("auto", CUDA._replace(device_type="cpu")) != "triton"


def test_without_triton_it_says_what_to_install(monkeypatch):
    backend = BACKENDS["triton"]
    missing = "triton is not installed. Run pip install triton."
    absent = backend._replace(support=backend.support._replace(missing=missing))
    monkeypatch.setitem(backend_choice.BACKENDS, "triton", absent)
    message = f"backend triton cannot run: {missing} Use backend='auto'."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        choose_backend("triton", CUDA)
    assert choose_backend("auto", CUDA) != "triton"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("find_spec", lambda _: None, "triton is not installed. Run pip install triton."),
        ("shutil.which", lambda _: None, "triton needs a C compiler. Install gcc, or name one"),
        ("sysconfig.get_paths", lambda _: {"include": "/nowhere"}, "triton needs Python's headers"),
    ],
)
def test_it_tells_what_triton_lacks_on_this_machine(monkeypatch, name, value, message):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(triton_backend, "find_spec", lambda _: object())
    monkeypatch.setattr(triton_backend.shutil, "which", lambda _: "/usr/bin/cc")
    # as Debian's Python outside of a virtual environment
    folders = {"posix_prefix": HEADERS.parent, "posix_local": "/usr/local/include/python3"}
    monkeypatch.setattr(triton_backend.sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(
        triton_backend.sysconfig, "get_paths", lambda scheme: {"include": str(folders[scheme])}
    )
    monkeypatch.setattr(triton_backend.Path, "exists", lambda path: path == HEADERS)
    assert triton_backend.why_not_here() is None
    monkeypatch.setattr(f"segfocal.ops.triton_backend.{name}", value)
    assert triton_backend.why_not_here().startswith(message)


def test_a_compiler_named_in_cc_will_do(monkeypatch):
    monkeypatch.setattr(triton_backend, "find_spec", lambda _: object())
    monkeypatch.setattr(triton_backend.shutil, "which", lambda _: None)
    monkeypatch.setattr(triton_backend.Path, "exists", lambda _: True)
    monkeypatch.setenv("CC", "/opt/cc")
    assert triton_backend.why_not_here() is None


def test_it_is_listed_with_all_it_takes():
    support = backends()["triton"]
    assert support.devices == ("cuda",)
    assert support.class_gamma
    assert support.label_smoothing
    assert support.overlaps == ("product", "minimum")


def test_a_loss_on_the_cpu_does_not_import_triton():
    # torch may import triton for itself
    code = """
import sys, torch
from segfocal.ops import class_sums
logits = torch.zeros(1, 2, 3, requires_grad=True)
class_sums(logits, torch.zeros(1, 3, dtype=torch.uint8)).focal_pos.sum().backward()
assert "segfocal.ops.triton_launch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
