"""The backends that compute the sums, what each supports, and the one rule that chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from segfocal.ops import chunked, native_cpu, reference, triton_backend
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

TARGET_FORMS = ("labels", "regions", "channels", "shares")
MASK_FORMS = ("none", "voxels", "channels")


class Request(NamedTuple):
    """What a call asks of a backend: all that the choice may depend on.

    Attributes:
        device_type: Such as "cpu" or "cuda".
        dtype: The logits' dtype.
        activation: "softmax" or "sigmoid".
        target: "labels" for one class a channel, "regions" for labels with a region table,
            "channels" for integers or bool per channel, "shares" for floating point per channel.
        mask: "none", "voxels" for `(B, 1, *S)`, or "channels" for `(B, C, *S)`.
        class_gamma: Whether each class has a gamma of its own.
        label_smoothing: Whether labels are smoothed.
        overlap: "product" or "minimum".
        is_recent: Whether a CUDA device is of compute capability 8.0 or later; True elsewhere.
    """

    device_type: str
    dtype: torch.dtype
    activation: str
    target: str = "labels"
    mask: str = "none"
    class_gamma: bool = False
    label_smoothing: bool = False
    overlap: str = "product"
    is_recent: bool = True


class Support(NamedTuple):
    """What a backend takes. None stands for everything.

    Attributes:
        how: The way it computes, in a few words.
        needs: What must be installed for it beyond segfocal's own dependencies.
        missing: Why it cannot run on this machine at all, as a sentence, or None if it can. Found
            out once, at import, so that a compiled graph can hold the choice.
        devices: Device types.
        dtypes: Dtypes of the logits.
        targets: Forms of the target, as in `Request`.
        masks: Forms of the mask, as in `Request`.
        class_gamma: Whether each class may have a gamma of its own.
        label_smoothing: Whether labels may be smoothed.
        overlaps: "product", "minimum" or both.
        needs_recent: Whether a CUDA device must be of compute capability 8.0 or later.
    """

    how: str
    needs: str = "nothing"
    missing: str | None = None
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    targets: tuple[str, ...] = TARGET_FORMS
    masks: tuple[str, ...] = MASK_FORMS
    class_gamma: bool = True
    label_smoothing: bool = True
    overlaps: tuple[str, ...] = ("product", "minimum")
    needs_recent: bool = False

    def refusal(self, request: Request) -> str | None:
        """Why a request cannot be met here, as a sentence; None if it can."""
        if self.missing is not None:
            return self.missing
        if self.devices is not None and request.device_type not in self.devices:
            return f"it runs on {_listed(self.devices)}, not on {request.device_type}."
        if self.needs_recent and not request.is_recent:
            return "it runs on GPUs of compute capability 8.0 or later."
        if self.dtypes is not None and request.dtype not in self.dtypes:
            known = _listed(map(_plain, self.dtypes))
            return f"it takes logits of {known}, not of {_plain(request.dtype)}."
        for name, allowed, asked in (
            ("targets", self.targets, request.target),
            ("masks", self.masks, request.mask),
            ("overlaps", self.overlaps, request.overlap),
        ):
            if asked not in allowed:
                return f"of {name} it takes {_listed(allowed)}, not {asked}."
        if request.class_gamma and not self.class_gamma:
            return "it takes one gamma, not one per class."
        if request.label_smoothing and not self.label_smoothing:
            return "it has no label smoothing."
        return None


class Backend(NamedTuple):
    """A way to compute the sums and their gradient. All of them mean the same.

    Attributes:
        class_sums: `(logits_BCS, target, formula) -> sums (B, 7, C)`.
        class_sums_backward: `(upstream (B, 7, C), logits_BCS, target, formula) -> gradient`.
        support: What it takes.
    """

    class_sums: Callable[[Tensor, FlatTarget, Formula], Tensor]
    class_sums_backward: Callable[[Tensor, Tensor, FlatTarget, Formula], Tensor]
    support: Support


BACKENDS: dict[str, Backend] = {
    "numba": Backend(
        native_cpu.class_sums,
        native_cpu.class_sums_backward,
        Support(
            "compiled, one pass over blocks that fit the cache",
            needs="numba (`pip install segfocal[fast-cpu]`)",
            missing=native_cpu.MISSING,
            devices=("cpu",),
            dtypes=native_cpu.DTYPES,
            targets=native_cpu.TARGETS,
            label_smoothing=False,
        ),
    ),
    "triton": Backend(
        triton_backend.class_sums,
        triton_backend.class_sums_backward,
        Support(
            "fused GPU kernels",
            needs="triton, which comes with torch for CUDA and ROCm",
            missing=triton_backend.MISSING,
            devices=("cuda",),
            dtypes=(torch.float16, torch.bfloat16, torch.float32, torch.float64),
            needs_recent=True,
        ),
    ),
    "chunked": Backend(
        chunked.class_sums,
        chunked.class_sums_backward,
        Support("plain torch over blocks that fit the cache"),
    ),
    "reference": Backend(
        reference.class_sums, reference.class_sums_backward, Support("eager formulas by channel")
    ),
}
"""In the order in which "auto" tries them."""


class BackendTable(Mapping[str, Support]):
    """What each backend takes, by name, in the order of "auto". Prints as a Markdown table."""

    def __init__(self, rows: Mapping[str, Support]) -> None:
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> Support:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """The table, the same on every machine: it does not tell what is missing here."""
        header = ("backend", "how", "needs", "devices", "logits", "targets", "masks", "options")
        rows = [header, ("---",) * len(header)]
        rows += [(name, *_cells(support)) for name, support in self._rows.items()]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def backends() -> BackendTable:
    """The backends that can be asked for besides "auto", and what each of them takes.

    "auto" takes the first that can do what is asked. A backend whose `missing` is not None cannot
    run on this machine.

    Example:
        >>> backends()["reference"].label_smoothing
        True
        >>> "reference" in [name for name, row in backends().items() if row.missing is None]
        True
    """
    return BackendTable({name: backend.support for name, backend in BACKENDS.items()})


def choose_backend(requested: str, request: Request) -> str:
    """The backend that runs: a function of its arguments and of what is installed.

    Args:
        requested: A name from `backends()`, or "auto" for the first that supports the request.
        request: What is asked of it.

    Raises:
        ValueError: If the name is unknown, or the backend cannot do what is asked.

    Example:
        >>> choose_backend("reference", Request("cpu", torch.float64, "softmax"))
        'reference'
    """
    if requested == "auto":
        return next(
            name for name, backend in BACKENDS.items() if backend.support.refusal(request) is None
        )
    if requested not in BACKENDS:
        raise ValueError(
            f"backend must be auto or one of {', '.join(BACKENDS)}: got {requested!r}."
        )
    refusal = BACKENDS[requested].support.refusal(request)
    if refusal is not None:
        raise ValueError(f"backend {requested} cannot run: {refusal} Use backend='auto'.")
    return requested


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_recent(device: torch.device) -> bool:
    """What `Request` calls so. Where a tensor is on a device, asking starts nothing."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def passed_over(request: Request) -> str | None:
    """Why "auto" passes over the backend that is made for a device, as a sentence.

    None where it does not, and where no backend is made for that device.
    """
    for name, backend in BACKENDS.items():
        support = backend.support
        if support.devices is not None and request.device_type in support.devices:
            refusal = support.refusal(request)
            return None if refusal is None else f"backend {name} cannot run: {refusal}"
    return None


def _cells(support: Support) -> tuple[str, ...]:
    options = ["gamma per class"] if support.class_gamma else []
    options += ["label smoothing"] if support.label_smoothing else []
    options += ["minimum overlap"] if "minimum" in support.overlaps else []
    return (
        support.how,
        support.needs,
        "any" if support.devices is None else ", ".join(support.devices),
        "any" if support.dtypes is None else ", ".join(map(_plain, support.dtypes)),
        ", ".join(support.targets),
        ", ".join(support.masks),
        ", ".join(options),
    )


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(words: Iterable[str]) -> str:
    return " or ".join(words)
