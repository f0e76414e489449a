"""Predicted class indices to a label file on the grid of the image they were predicted from."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends

from segfocal.data.nifti import write_label
from segfocal.data.nifti_header import case_stem
from segfocal.errors import UserError
from segfocal.files import make_writable
from segfocal.labels import LabelScheme

_logger = logging.getLogger(__name__)


class SaveLabeld(MapTransform):
    """Writes class indices `(1, X, Y, Z)` as `CASE.nii.gz`, by the values of the label scheme.

    Shape, affine, both forms with their codes and units are those of the image file to the bit, and
    the type is the smallest integer that holds the values: the file that `segfocal-predict` writes.
    A file of that name is written over. The data are handed on unchanged, with the path under
    `saved`.

    Args:
        keys: Keys of the class indices; they lie on the grid of the image file.
        scheme: What the class indices mean.
        output_dir: Folder for the files, made where it is missing.
        source_key: Key of the image, a MetaTensor whose `filename_or_obj` is the image file.
        channel_dim: Axis of the channels in a 4-D image file; None is the fourth.
        synthetic: Stamp the files as made from the phantom; one whose image is stamped always is.
        allow_missing_keys: Pass over a missing key.

    Raises:
        UserError: On call, if the file would be written over the image, or the folder cannot be
            written to.
        ValueError: On call, if the class indices have another shape than the image file.
    """

    backend = (TransformBackends.NUMPY,)

    def __init__(
        self,
        keys: KeysCollection,
        scheme: LabelScheme,
        output_dir: str | Path,
        *,
        source_key: str = "image",
        channel_dim: int | None = None,
        synthetic: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scheme = scheme
        self.output_dir = Path(output_dir)
        self.source_key = source_key
        self.channel_dim = channel_dim
        self.synthetic = synthetic

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the file."""
        out = dict(data)
        for key in self.key_iterator(out):
            source = Path(out[self.source_key].meta["filename_or_obj"])
            path = self.output_dir / f"{out.get('case_id', case_stem(source))}.nii.gz"
            if path.exists() and path.samefile(source):
                raise UserError(f"{path} is the image itself. Set another output_dir.")
            classes = out[key]
            plain = classes.as_tensor() if isinstance(classes, MetaTensor) else classes
            values = self.scheme.decode(np.asarray(plain).astype(np.uint8)[0])
            make_writable(self.output_dir)
            write_label(
                path,
                values,
                like=source,
                channel_dim=self.channel_dim,
                synthetic=self.synthetic,
            )
            _logger.info("%s", path)
            out["saved"] = path
        return out
