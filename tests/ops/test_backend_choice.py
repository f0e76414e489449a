"""Choice of backend: a function of its arguments, without silent fallback."""

import re

import pytest
import torch

from segfocal.ops import backend_choice, backends, class_sums
from segfocal.ops.backend_choice import BACKENDS, Request, Support, choose_backend, passed_over

PLAIN = Request("cpu", torch.float32, "softmax")


def test_backends_lists_what_can_be_asked_for():
    assert list(backends()) == list(BACKENDS)
    assert backends()["reference"].missing is None
    assert repr(backends()) == backends().markdown()


def test_the_table_has_one_row_a_backend():
    lines = backends().markdown().splitlines()
    assert len(lines) == 2 + len(BACKENDS)
    assert lines[-1] == (
        "| reference | eager formulas by channel | nothing | any | any "
        "| labels, regions, channels, shares | none, voxels, channels "
        "| gamma per class, label smoothing, minimum overlap |"
    )


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_reference_runs_everywhere(device_type, dtype):
    request = PLAIN._replace(device_type=device_type, dtype=dtype)
    assert choose_backend("reference", request) == "reference"
    assert choose_backend("auto", request) in BACKENDS


def test_an_unknown_name_lists_the_known_ones():
    known = ", ".join(BACKENDS)
    with pytest.raises(
        ValueError, match=re.escape(f"backend must be auto or one of {known}: got 'fpga'.")
    ):
        class_sums(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.uint8), backend="fpga")


PICKY = Support(
    "a picky one",
    devices=("cpu", "cuda"),
    dtypes=(torch.float32, torch.bfloat16),
    targets=("labels",),
    masks=("none", "voxels"),
    class_gamma=False,
    label_smoothing=False,
    overlaps=("product",),
    needs_recent=True,
)


@pytest.fixture
def picky(monkeypatch):
    chosen = {"picky": BACKENDS["reference"]._replace(support=PICKY)}
    monkeypatch.setattr(backend_choice, "BACKENDS", chosen | {"reference": BACKENDS["reference"]})


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"device_type": "mps"}, "it runs on cpu or cuda, not on mps."),
        ({"is_recent": False}, "it runs on GPUs of compute capability 8.0 or later."),
        ({"dtype": torch.float64}, "it takes logits of float32 or bfloat16, not of float64."),
        ({"target": "shares"}, "of targets it takes labels, not shares."),
        ({"mask": "channels"}, "of masks it takes none or voxels, not channels."),
        ({"overlap": "minimum"}, "of overlaps it takes product, not minimum."),
        ({"class_gamma": True}, "it takes one gamma, not one per class."),
        ({"label_smoothing": True}, "it has no label smoothing."),
    ],
)
@pytest.mark.usefixtures("picky")
def test_auto_passes_over_what_cannot_run_and_a_name_says_why(asked, reason):
    assert choose_backend("auto", PLAIN) == "picky"
    request = PLAIN._replace(**asked)
    assert choose_backend("auto", request) == "reference"
    message = f"backend picky cannot run: {reason} Use backend='auto'."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        choose_backend("picky", request)


def test_a_backend_that_is_not_installed_says_so(monkeypatch):
    absent = BACKENDS["reference"]._replace(support=Support("absent", missing="pip install it."))
    monkeypatch.setattr(
        backend_choice, "BACKENDS", {"absent": absent, "reference": BACKENDS["reference"]}
    )
    assert choose_backend("auto", PLAIN) == "reference"
    with pytest.raises(
        ValueError,
        match=re.escape("backend absent cannot run: pip install it. Use backend='auto'."),
    ):
        choose_backend("absent", PLAIN)


def test_what_is_made_for_a_device_is_told_where_auto_passes_over_it(monkeypatch):
    fast = BACKENDS["numba"]
    numba = fast._replace(support=fast.support._replace(missing=None))
    monkeypatch.setitem(backend_choice.BACKENDS, "numba", numba)
    assert passed_over(PLAIN) is None
    assert passed_over(PLAIN._replace(device_type="mps")) is None
    assert passed_over(PLAIN._replace(label_smoothing=True)) == (
        "backend numba cannot run: it has no label smoothing."
    )
    gone = fast._replace(support=fast.support._replace(missing="numba is not installed."))
    monkeypatch.setitem(backend_choice.BACKENDS, "numba", gone)
    assert passed_over(PLAIN) == "backend numba cannot run: numba is not installed."
    old = PLAIN._replace(device_type="cuda", is_recent=False)
    reason = BACKENDS["triton"].support.missing
    reason = reason or "it runs on GPUs of compute capability 8.0 or later."
    assert passed_over(old) == f"backend triton cannot run: {reason}"


LABELS = torch.zeros(1, 4, dtype=torch.uint8)
ONE_HOT = torch.stack([LABELS == 0, LABELS == 1, LABELS == 2], 1)


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        (LABELS, {}, {}),
        (LABELS, {"activation": "sigmoid"}, {"activation": "sigmoid"}),
        (
            LABELS,
            {"activation": "sigmoid", "regions": ((1, 2), (2,), (0,))},
            {"activation": "sigmoid", "target": "regions"},
        ),
        (
            LABELS,
            {"activation": "sigmoid", "regions": ((1,), (0,), (2,))},
            {"activation": "sigmoid", "target": "regions"},
        ),
        (ONE_HOT, {}, {"target": "channels"}),
        (ONE_HOT.float(), {}, {"target": "shares"}),
        (LABELS, {"mask": torch.ones(1, 1, 4, dtype=torch.bool)}, {"mask": "voxels"}),
        (LABELS, {"mask": torch.ones(1, 3, 4, dtype=torch.bool)}, {"mask": "channels"}),
        (LABELS, {"gamma": (0.5, 1.0, 2.0)}, {"class_gamma": True}),
        (LABELS, {"label_smoothing": 0.1}, {"label_smoothing": True}),
        (LABELS, {"overlap": "minimum"}, {"overlap": "minimum"}),
    ],
)
def test_the_request_tells_what_the_call_asks(monkeypatch, target, options, expected):
    requests = []

    class Recording(Support):
        def refusal(self, request):
            requests.append(request)

    recording = BACKENDS["reference"]._replace(support=Recording("recording"))
    monkeypatch.setitem(backend_choice.BACKENDS, "reference", recording)
    class_sums(torch.zeros(1, 3, 4), target, backend="reference", **options)
    assert requests == [PLAIN._replace(**expected)]
