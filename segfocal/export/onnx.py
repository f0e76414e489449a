"""The network alone as an ONNX file that says what it takes and gives, checked beside the network.

Weights, and what was known of the training, stand in the file. Preparation, windows, activation and
decision are the caller's: the file's property `segfocal` tells them as JSON (`TrainedModel.facts`).
"""

from __future__ import annotations

import json
import logging
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segfocal._version import __version__
from segfocal.errors import RunFailedError, UserError
from segfocal.export.model import TrainedModel
from segfocal.files import atomic_write

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "image", "logits"
PROPERTY = "segfocal"
"""Name of the metadata property that holds the facts as JSON."""

_TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit (at least 1). Seven networks of
MONAI's with random weights were within 3e-6; a wrong layer is off by more than a tenth."""

_AXES = ("r", "a", "s")


@dataclass(frozen=True)
class Written:
    """How a file was written and what the check said.

    Attributes:
        sizes_text: Which sizes of input it takes.
        largest_difference: Of any logit beside the network's; None where it was not run.
        check_text: A line about that.
    """

    sizes_text: str
    largest_difference: float | None
    check_text: str


def write_onnx(path: Path, model: TrainedModel) -> Written:
    """Writes `path`, complete and checked, or not at all.

    The batch may be of any size, and so may the volume along each axis where the network allows it,
    in multiples of the network's divisor.

    Args:
        path: The file, in a folder that is made where it is missing.
        model: What to write.

    Raises:
        UserError: If the network cannot be expressed in ONNX, or takes more than the 2 GB that one
            file may have.
        RunFailedError: If ONNX Runtime computes something else from the file than the network does.
    """
    import onnx

    proto, is_dynamic = _exported(model)
    _describe(proto, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write(proto.SerializeToString())
        stream.flush()
        onnx.checker.check_model(stream.name, full_check=True)
        difference = _largest_difference(Path(stream.name), model, is_dynamic=is_dynamic)
    return Written(
        _sizes_text(model, is_dynamic=is_dynamic),
        difference,
        "onnx.checker; not run beside the network: onnxruntime is not installed"
        if difference is None
        else f"onnx.checker; onnxruntime beside the network: logits differ by {difference:.1e} "
        f"at most, over two batches of random numbers",
    )


def _exported(model: TrainedModel) -> tuple[onnx.ModelProto, bool]:
    """The network as ONNX, and whether it takes other sizes than the patch's."""
    divisors = model.divisors
    if any(divisors):
        try:
            return _export(model, divisors), True
        except Exception as error:  # noqa: BLE001 - whatever the exporter cannot do, it raises as it likes
            logging.getLogger(__name__).info("no export with free sizes: %s", error)
    try:
        return _export(model, (None,) * len(divisors)), False
    except Exception as error:
        reason = textwrap.shorten(str(error.__cause__ or error), 160, placeholder=" ...")
        raise UserError(
            f"network: torch cannot express {model.config.network.name} in ONNX ({reason}). Use "
            f"--format bundle."
        ) from error


def _export(model: TrainedModel, divisors: Sequence[int | None]) -> onnx.ModelProto:
    sizes: list[int] = []
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    for axis, (patch, divisor) in enumerate(zip(model.patch_size, divisors, strict=True)):
        # A size that is the divisor itself would be taken for a constant.
        sizes.append(patch if divisor is None else max(patch, 2 * divisor))
        if divisor is not None:
            dim = torch.export.Dim(_AXES[axis], min=1)
            free[axis + 2] = dim if divisor == 1 else divisor * dim
    example = torch.zeros(2, len(model.checkpoint.channels), *sizes)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model.network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _describe(proto: onnx.ModelProto, model: TrainedModel) -> None:
    """Puts the facts into the file."""
    import onnx

    properties = {PROPERTY: json.dumps(model.facts(), ensure_ascii=False, allow_nan=False)}
    if model.notice:
        properties["notice"] = model.notice
    onnx.helper.set_model_props(proto, properties)
    proto.producer_name, proto.producer_version = "segfocal", __version__
    outputs = ", ".join(model.scheme.output_names)
    proto.doc_string = (
        f"{model.notice + '. ' if model.notice else ''}Logits of {outputs} from prepared windows "
        f"of {', '.join(model.checkpoint.channels)}; the property {PROPERTY} says how to prepare "
        f"them. Not a medical device; not for clinical use."
    )


def _largest_difference(path: Path, model: TrainedModel, *, is_dynamic: bool) -> float | None:
    """Of the logits that ONNX Runtime and the network compute from two random batches.

    Raises:
        RunFailedError: If it is beyond the tolerance.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, size in _checked_sizes(model, is_dynamic=is_dynamic):
        shape = (batch, len(model.checkpoint.channels), *size)
        images = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            expected = model.network(images)
        (got,) = session.run([OUTPUT], {INPUT: images.numpy()})
        same_shape = got.shape == tuple(expected.shape)
        difference = (torch.from_numpy(got) - expected).abs() if same_shape else None
        scale = max(float(expected.abs().max()), 1.0)
        # Written so that NaN fails too.
        if difference is None or not float(difference.max()) <= _TOLERANCE * scale:
            found = f"shape {got.shape}" if difference is None else f"{float(difference.max()):.1e}"
            raise RunFailedError(
                f"the ONNX file computes something else than the network: logits for "
                f"{'x'.join(map(str, shape))} differ by {found}, expected at most "
                f"{_TOLERANCE * scale:.1e}. It was not kept; use --format bundle."
            )
        largest = max(largest, float(difference.max()))
    return largest


def _checked_sizes(
    model: TrainedModel, *, is_dynamic: bool
) -> list[tuple[int, tuple[int, int, int]]]:
    """Two batches: a window, and where sizes are free two volumes of another size on each axis."""
    patch = model.patch_size
    if not is_dynamic:
        return [(1, patch), (2, patch)]
    others = [
        size if divisor is None else divisor * (axis + 2 + (size == divisor * (axis + 2)))
        for axis, (size, divisor) in enumerate(zip(patch, model.divisors, strict=True))
    ]
    return [(1, patch), (2, (others[0], others[1], others[2]))]


def _sizes_text(model: TrainedModel, *, is_dynamic: bool) -> str:
    sizes = [str(patch) for patch in model.patch_size]
    for number, divisor in enumerate(model.divisors if is_dynamic else ()):
        if divisor is not None:
            sizes[number] = _AXES[number] if divisor == 1 else f"{divisor}*{_AXES[number]}"
    channels = len(model.checkpoint.channels)
    outputs = model.scheme.num_outputs
    return (
        f"{INPUT} (batch, {channels}, {', '.join(sizes)}) to {OUTPUT} "
        f"(batch, {outputs}, {', '.join(sizes)})"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of optional packages and of its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
