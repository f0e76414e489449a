"""Numbers only: logits and labels to sums per sample and class. See README.md beside this file."""

from segfocal.ops.backend_choice import backends
from segfocal.ops.class_sums import ClassSums, class_sums
from segfocal.ops.voxel_focal import voxel_focal

__all__ = ["ClassSums", "backends", "class_sums", "voxel_focal"]
