"""A MONAI bundle: a folder that `python -m monai.bundle run` takes."""

from __future__ import annotations

from pathlib import Path

from segfocal.checkpoint import save_tensors
from segfocal.export.bundle_config import inference_config
from segfocal.export.bundle_metadata import bundle_metadata
from segfocal.export.bundle_readme import bundle_readme
from segfocal.export.model import TrainedModel
from segfocal.files import atomic_folder, write_json

_LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(message)s
"""


def write_bundle(path: Path, model: TrainedModel) -> None:
    """Writes the folder, complete or not at all.

    It holds configs/metadata.json, configs/inference.json, configs/logging.conf, models/model.pt (a
    plain state dict) and docs/README.md. No path of the training machine and no case is named.

    Args:
        path: The folder; there is nothing yet.
        model: What to write.

    Raises:
        UserError: If a name or a setting would mean something to MONAI's parser.
        OSError: If the folder cannot be written.
    """
    metadata, inference = bundle_metadata(model), inference_config(model)
    with atomic_folder(path) as folder:
        for name in ("configs", "models", "docs"):
            (folder / name).mkdir()
        write_json(folder / "configs" / "metadata.json", metadata)
        write_json(folder / "configs" / "inference.json", inference)
        (folder / "configs" / "logging.conf").write_text(_LOGGING)
        (folder / "docs" / "README.md").write_text(bundle_readme(model), encoding="utf-8")
        with (folder / "models" / "model.pt").open("wb") as stream:
            save_tensors(model.checkpoint.model, stream)
