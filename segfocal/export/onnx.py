"""The network alone as an ONNX file that says what it takes and gives, checked beside the network.

Weights, and what was known of the training, stand in the file. Preparation, windows, activation and
decision are the caller's: the file's property `segfocal` tells them as JSON (`TrainedModel.facts`).
"""

from __future__ import annotations

import json
import logging
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from segfocal._version import __version__
from segfocal.errors import RunFailedError, UserError, one_line
from segfocal.export.model import TrainedModel
from segfocal.files import atomic_write

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "image", "logits"
PROPERTY = "segfocal"
"""Name of the metadata property that holds the facts as JSON."""

_TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit (at least 1). Six of MONAI's nets
with random weights were within 3e-6; weights that are off by a thousandth are beyond it."""

_AXES = ("r", "a", "s")

_COARSE = (16, 32)
"""Strides that the networks of this field come to, where a network's own divisor will not do."""

_FATAL = 4
"""ONNX Runtime's number for saying nothing but what ends the process."""

_logger = logging.getLogger(__name__)

Steps = tuple[int | None, ...]
"""For each axis what sizes are a multiple of; None where only the patch's size will do."""

Run = Callable[[torch.Tensor], torch.Tensor]
"""Images to logits."""


class Exported(NamedTuple):
    """A network as ONNX, and as the graph of torch's from which that was made."""

    proto: onnx.ModelProto
    graph: Run


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


def write_onnx(path: Path, model: TrainedModel, *, fixed_size: bool = False) -> Written:
    """Writes `path`, complete and checked, or not at all.

    The batch may be of any size, and so may the volume along each axis where the network allows it,
    in multiples of the network's divisor.

    Args:
        path: The file, in a folder that is made where it is missing.
        model: What to write.
        fixed_size: Write it for the size of the patch alone, which is tried last otherwise.

    Raises:
        UserError: If the network cannot be expressed in ONNX, or takes more than the 2 GB that one
            file may have.
        RunFailedError: If ONNX Runtime computes something else from the file than the network does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    *tried_first, patch_alone = _steps(model)
    for steps in () if fixed_size else tried_first:
        try:
            return _write(path, model, steps)
        except (UserError, RunFailedError) as error:
            _logger.info("not with sizes in steps of %s: %s", steps, error)
    return _write(path, model, patch_alone)


def _steps(model: TrainedModel) -> list[Steps]:
    """In which steps sizes may be free, the best first; at the end not at all.

    A network that takes any size by padding inside (BasicUNet) becomes a graph that is right for
    multiples of its strides alone: those are tried after what it takes itself.
    """
    found = [model.divisors]
    for coarse in _COARSE:
        steps = [divisor and math.lcm(divisor, coarse) for divisor in model.divisors]
        if all(
            step is None or size % step == 0
            for size, step in zip(model.patch_size, steps, strict=True)
        ):
            found.append(tuple(steps))
    fixed: Steps = (None,) * len(model.divisors)
    return [*dict.fromkeys(steps for steps in found if any(steps)), fixed]


def _write(path: Path, model: TrainedModel, steps: Steps) -> Written:
    import onnx

    exported = _export(model, steps)
    _describe(exported.proto, model)
    with atomic_write(path) as stream:
        stream.write(exported.proto.SerializeToString())
        stream.flush()
        try:
            onnx.checker.check_model(stream.name, full_check=True)
        except onnx.checker.ValidationError as error:
            raise RunFailedError(f"the ONNX file is not valid: {error}") from error
        run = _session(Path(stream.name))
        difference = _largest_difference(run or exported.graph, model, steps)
    if run is None:
        told = "onnx.checker; not run: onnxruntime is not installed. torch's graph of it was run"
        return Written(_sizes_text(model, steps), None, told)
    told = f"onnxruntime beside the network: logits differ by {difference:.1e} at most"
    return Written(
        _sizes_text(model, steps),
        difference,
        f"onnx.checker; {told}, over two batches of random numbers",
    )


def _export(model: TrainedModel, steps: Steps) -> Exported:
    """The network as ONNX.

    Raises:
        UserError: If torch cannot express it.
    """
    sizes: list[int] = []
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    for axis, (patch, step) in enumerate(zip(model.patch_size, steps, strict=True)):
        # A size that is the step itself would be taken for a constant.
        sizes.append(patch if step is None else max(patch, 2 * step))
        if step is not None:
            dim = torch.export.Dim(_AXES[axis], min=1)
            free[axis + 2] = dim if step == 1 else step * dim
    example = torch.zeros(2, len(model.checkpoint.channels), *sizes)
    try:
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
    except Exception as error:
        reason = textwrap.shorten(str(error.__cause__ or error), 160, placeholder=" ...")
        raise UserError(
            f"network: torch cannot express {model.config.network.name} in ONNX ({reason}). Use "
            f"--format bundle."
        ) from error
    assert program is not None
    assert program.exported_program is not None
    return Exported(program.model_proto, program.exported_program.module())


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


def _session(path: Path) -> Run | None:
    """The file under ONNX Runtime; None where that is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _largest_difference(run: Run, model: TrainedModel, steps: Steps) -> float:
    """Of the logits that the file and the network compute from two random batches.

    One is a window; the other two of them, longer by a step on each axis that is free.

    Raises:
        RunFailedError: If it is beyond the tolerance.
    """
    longer = [size + (step or 0) for size, step in zip(model.patch_size, steps, strict=True)]
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, size in ((1, model.patch_size), (2, longer)):
        shape = (batch, len(model.checkpoint.channels), *size)
        images = torch.randn(shape, generator=generator)
        with torch.no_grad():
            expected = model.network(images)
            try:
                got = run(images)
            except Exception as error:
                raise _differs(shape, one_line(error)) from error
        if got.shape != expected.shape:
            raise _differs(shape, f"shape {tuple(got.shape)}")
        difference = float((got - expected).abs().max())
        most = _TOLERANCE * max(float(expected.abs().max()), 1.0)
        if not difference <= most:  # NaN too
            raise _differs(shape, f"{difference:.1e} apart, expected at most {most:.1e}")
        largest = max(largest, difference)
    return largest


def _differs(shape: Sequence[int], what: str) -> RunFailedError:
    told = textwrap.shorten(what, 160, placeholder=" ...")
    return RunFailedError(
        f"the ONNX file computes something else than the network: logits for "
        f"{'x'.join(map(str, shape))}: {told}. It was not kept; use --format bundle."
    )


def _sizes_text(model: TrainedModel, steps: Steps) -> str:
    sizes = [str(patch) for patch in model.patch_size]
    for number, step in enumerate(steps):
        if step is not None:
            sizes[number] = _AXES[number] if step == 1 else f"{step}*{_AXES[number]}"
    text = (
        f"{INPUT} (batch, {len(model.checkpoint.channels)}, {', '.join(sizes)}) to {OUTPUT} "
        f"(batch, {model.scheme.num_outputs}, {', '.join(sizes)})"
    )
    if steps == model.divisors:
        return text
    if not any(steps):
        return f"{text}, the patch's alone"
    own = ", ".join("none" if divisor is None else str(divisor) for divisor in model.divisors)
    return f"{text}; the network itself takes steps of {own}, which ONNX could not express"


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
