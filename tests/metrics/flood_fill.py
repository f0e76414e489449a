"""Connected components in plain Python: what the metrics' own are held against."""

import itertools

import numpy as np


def flood_fill(mask):
    """Components as sets of voxels; neighbours differ by at most 1 along every axis."""
    left, parts = {tuple(v) for v in np.argwhere(mask)}, []
    while left:
        part, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            part.add(voxel)
            for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
                near = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if near in left:
                    left.remove(near)
                    border.append(near)
        parts.append(part)
    return parts
