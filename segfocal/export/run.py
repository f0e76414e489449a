"""A run folder to a MONAI bundle or an ONNX file: what segfocal-export runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import UserError
from segfocal.files import check_checkpoint_path, make_writable
from segfocal.imports import without_collections

if TYPE_CHECKING:
    from segfocal.export.model import TrainedModel

Format = Literal["bundle", "onnx"]
_DEFAULT_NAMES: dict[Format, str] = {"bundle": "bundle", "onnx": "model.onnx"}
_MOST_NAMES = 8
"""Outputs that are named on the terminal; of more the number is told."""

Say = Callable[[str], None]
"""Takes one line."""


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of segfocal-export.

    Attributes:
        format: `bundle` or `onnx`.
        run: Folder of a run; its best.pt is exported.
        checkpoint: Another checkpoint to export in its place.
        fixed_size: ONNX: for windows of the patch's size alone.
        out: Folder of the bundle, or the ONNX file; None is `bundle` or `model.onnx` in the run's
            folder.
    """

    format: Format
    run: Path | None = None
    checkpoint: Path | None = None
    out: Path | None = None
    fixed_size: bool = False


def export(request: ExportRequest, say: Say) -> dict[str, Any]:
    """Writes the bundle or the file, complete or not at all.

    Args:
        request: What to do.
        say: Gets lines for the user.

    Returns:
        What was written, as plain values.

    Raises:
        UserError: For a run or checkpoint that is not there or damaged, an output that exists, a
            network that cannot be built here, a package that is missing.
        RunFailedError: If the file that was written computes something else than the network.
    """
    checkpoint, run = _source(request)
    out = _target(request, run)
    if request.format == "onnx":
        _require_onnx()
    elif request.fixed_size:
        raise UserError("--fixed-size is for --format onnx. Leave it out: a bundle needs none.")
    with without_collections():
        from segfocal.export.model import load_model
    model = load_model(checkpoint, run)
    make_writable(out.parent)
    told: dict[str, Any]
    if request.format == "bundle":
        from segfocal.export.bundle import write_bundle

        write_bundle(out, model)
        told = {}
        say(f"bundle {out}: {_described(model)}")
        place = shlex.quote(str(out))
        say(f"run it: cd {place} && python -m monai.bundle run \\")
        say("        --config_file configs/inference.json --bundle_root . \\")
        say("        --dataset_dir IMAGES --output_dir LABELS")
    else:
        from segfocal.export.onnx import write_onnx

        written = write_onnx(out, model, fixed_size=request.fixed_size)
        told = {"sizes": written.sizes_text, "largest_difference": written.largest_difference}
        say(f"onnx   {out}: {_described(model)}")
        say(f"sizes  {written.sizes_text}")
        say(f"check  {written.check_text}")
    if model.notice:
        say(f"Trained on a {STAMP}")
    return {
        "format": request.format,
        "path": str(out),
        "checkpoint": str(checkpoint),
        **model.facts(),
        **told,
    }


def _described(model: TrainedModel) -> str:
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    names = model.scheme.output_names
    outputs = ",".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} classes"
    return (
        f"{model.config.network.name}, {parameters:,} parameters, {model.file} of epoch "
        f"{model.checkpoint.progress['epoch']}; {','.join(model.checkpoint.channels)} to {outputs}"
    )


def _source(request: ExportRequest) -> tuple[Path, Path]:
    """The checkpoint to export and the folder of its run."""
    if request.checkpoint is not None:
        check_checkpoint_path("--ckpt", request.checkpoint)
        return request.checkpoint, request.run or request.checkpoint.resolve().parent
    run = request.run
    if run is None:
        raise UserError("--run is missing: the folder of a run. Or pass --ckpt RUN/best.pt.")
    if run.is_file():
        raise UserError(f"--run {run} is a file; it must be the folder of a run. Or pass --ckpt.")
    if not run.is_dir():
        raise UserError(f"--run {run} does not exist. Pass the folder that segfocal-train made.")
    if not (run / "best.pt").is_file():
        if (run / "last.pt").is_file():
            raise UserError(
                f"--run {run} holds no best.pt: it was never validated. Pass --ckpt "
                f"{run / 'last.pt'} for the weights of its last epoch."
            )
        what = "has no checkpoint yet" if (run / "config.yaml").is_file() else "is no run's folder"
        raise UserError(f"--run {run} {what}: there is no best.pt. A run writes it when it saves.")
    return run / "best.pt", run


def _target(request: ExportRequest, run: Path) -> Path:
    out = request.out or run / _DEFAULT_NAMES[request.format]
    if request.format == "onnx" and out.suffix != ".onnx":
        raise UserError(f"--out {out}: expected a file name that ends in .onnx.")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists already. Remove it, or pass --out for another place.")
    return out


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}. Install: pip install 'segfocal[onnx]'"
        )
