"""A synthetic brain-tumour data set in MSD layout: `write_phantom`. Not clinical evidence."""

from segfocal.data.phantom.dataset import write_phantom
from segfocal.data.phantom.stamp import STAMP

__all__ = ["STAMP", "write_phantom"]
