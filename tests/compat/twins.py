"""One loss twice, from segfocal.compat.monai and from MONAI: same arguments in, outcomes beside
each other. MONAI is the oracle.
"""

from __future__ import annotations

import dataclasses
import warnings

import monai.losses
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from segfocal.compat import monai as compat

ROUNDING = {
    # value: rtol and atol; gradient: in multiples of its largest entry
    torch.float64: (1e-10, 1e-12, 1e-9),
    torch.float32: (2e-5, 2e-6, 2e-5),
    torch.float16: (4e-3, 4e-3, 1e-2),
    torch.bfloat16: (3e-2, 3e-2, 8e-2),
}


@dataclasses.dataclass
class Outcome:
    error: type | None
    value: torch.Tensor | None
    grads: list[torch.Tensor]
    warnings: list[tuple[type, str]]
    said: str | None


def outcome(library, name, args, kwargs, inputs, target, *rest):
    """Constructs, calls and differentiates; `inputs` is one tensor or a list of them."""
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in as_list(inputs)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loss = getattr(library, name)(*resolve(library, args), **resolve(library, kwargs))
            value = loss(leaves if isinstance(inputs, list) else leaves[0], target, *rest)
            grads = []
            if value.requires_grad:
                # weigh the elements apart, so that a gradient in the wrong place is seen
                size = value.numel()
                upstream = torch.linspace(0.5, 1.5, size).reshape(value.shape).to(value)
                grads = torch.autograd.grad(value, leaves, upstream, allow_unused=True)
                grads = [None if g is None else g.detach() for g in grads]
            error, said, value = None, None, value.detach()
        except Exception as problem:  # noqa: BLE001 - the oracle may raise anything
            error, said, value, grads = type(problem), str(problem), None, []
    warned = [
        (w.category, str(w.message))
        for w in caught
        if "single channel" in str(w.message)
        or "alpha" in str(w.message)
        or "mask" in str(w.message).lower()
    ]
    return Outcome(error, value, list(grads), warned, said)


def assert_same(name, kwargs, inputs, target, *rest, args=(), dtype=None):
    """Returns MONAI's outcome."""
    ours = outcome(compat, name, args, kwargs, inputs, target, *rest)
    theirs = outcome(monai.losses, name, args, kwargs, inputs, target, *rest)
    assert ours.error is theirs.error
    assert ours.warnings == theirs.warnings
    if theirs.error is not None:
        return theirs
    dtype = dtype or as_list(inputs)[0].dtype
    rtol, atol, grad_rtol = ROUNDING[dtype if dtype.is_floating_point else torch.float32]
    torch.testing.assert_close(ours.value, theirs.value, rtol=rtol, atol=atol, equal_nan=True)
    assert len(ours.grads) == len(theirs.grads)
    for mine, other in zip(ours.grads, theirs.grads, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            largest = other.nan_to_num().abs().max().item() if other.numel() else 0.0
            torch.testing.assert_close(
                mine, other, rtol=grad_rtol, atol=grad_rtol * largest + atol / 200, equal_nan=True
            )
    return theirs


def as_list(inputs):
    return inputs if isinstance(inputs, list) else [inputs]


def resolve(library, arguments):
    """A callable that is given as ("loss", name, kwargs) is the library's own."""

    def one(value):
        if isinstance(value, tuple) and value and value[0] == "loss":
            return getattr(library, value[1])(**value[2])
        return value

    if isinstance(arguments, dict):
        return {key: one(value) for key, value in arguments.items()}
    return [one(value) for value in arguments]


DTYPES = st.sampled_from(
    [torch.float32] * 4 + [torch.float64] * 3 + [torch.float16, torch.bfloat16]
)
SPATIAL = st.lists(st.integers(1, 5), min_size=1, max_size=3)
TARGETS = ["labels"] * 5 + ["one hot"] * 3 + ["several", "soft", "probabilities"]


@st.composite
def pairs(draw, *, spatial=SPATIAL, targets=tuple(TARGETS), channels=None, regular=False):
    """Logits, target, and what the target is."""
    batch = draw(st.integers(1, 3))
    classes = draw(channels if channels is not None else st.integers(1, 4))
    size = draw(spatial)
    dtype = draw(DTYPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(targets))
    shape = (batch, 1, *size)
    highest = max(classes, 2)
    labels = torch.randint(0, highest, shape, generator=generator)
    if kind == "labels":
        ignored = draw(st.sampled_from([None, None, 255, 0]))
        if ignored is not None:
            labels[torch.rand(shape, generator=generator) < 0.3] = ignored
        kinds = [torch.int64, torch.int64, torch.uint8, torch.float32, torch.int16]
        target = labels.to(draw(st.sampled_from(kinds)))
    elif kind == "one hot":
        target = F.one_hot(labels[:, 0], highest).movedim(-1, 1)[:, -classes:]
        if draw(st.booleans()):
            target = target * (torch.rand(shape, generator=generator) > 0.3)
        kinds = [torch.float32, torch.float32, torch.int64, torch.float64, torch.uint8, torch.bool]
        target = target.to(draw(st.sampled_from(kinds)))
    elif kind == "several":
        target = (torch.rand(logits.shape, generator=generator) < 0.4).float()
    elif kind == "soft":
        target = torch.rand(logits.shape, generator=generator)
    else:
        target = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
        target = target.softmax(1).float()
    if not regular and draw(st.integers(0, 24)) == 0:
        target = draw(
            st.sampled_from(
                [target[:, :, :1], target[0], target[:, :1], target[:, 0], target + 7, -target]
            )
            if target.dtype != torch.bool
            else st.just(target[:, :1])
        )
    return logits.to(dtype), target, kind


def maybe(strategy, default):
    """The default most of the time."""
    return st.one_of(*[st.just(default)] * 3, strategy)


REDUCTIONS = st.sampled_from(["mean", "mean", "mean", "sum", "none"])
SMOOTH = st.sampled_from([1e-5, 1e-5, 1.0, 1e-2])
ACTIVATIONS = st.sampled_from(
    [{"softmax": True}] * 12
    + [{"sigmoid": True}] * 10
    + [{}, {}, {"other_act": torch.tanh}, {"other_act": torch.tanh}, {"other_act": "tanh"}]
    + [{"sigmoid": True, "softmax": True}]
)


@st.composite
def activations(draw):
    return dict(draw(ACTIVATIONS))


def weights(draw, classes, include_background):
    """No weight, one number, one per class that counts, one too many, or a negative one."""
    counted = classes if include_background or classes == 1 else classes - 1
    kind = draw(st.sampled_from(["none"] * 9 + ["one", "each", "tensor"] * 3 + ["more", "less 0"]))
    if kind == "none":
        return None
    if kind == "one":
        return 1.5
    values = [0.5 + 0.75 * c for c in range(counted)]
    if kind == "more":
        values.append(1.0)
    if kind == "less 0":
        values[0] = -1.0
    return torch.tensor(values) if kind == "tensor" else values
