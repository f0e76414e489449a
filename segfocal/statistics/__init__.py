"""Voxel counts of a data set and the class weights that follow from them. numpy only."""

from segfocal.statistics.class_alpha import ClassAlpha, class_alpha, region_alpha
from segfocal.statistics.class_histogram import class_histogram
from segfocal.statistics.class_weights import SCHEMES, class_weights, compute_class_weights
from segfocal.statistics.voxel_counts import VoxelCounts

__all__ = [
    "SCHEMES",
    "ClassAlpha",
    "VoxelCounts",
    "class_alpha",
    "class_histogram",
    "class_weights",
    "compute_class_weights",
    "region_alpha",
]
