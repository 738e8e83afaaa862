"""Extents of overlaps, relative to those of their members."""

import math

from levelmatch_core.sky.cutouts import CutoutRecord


def relative_extents(extent: tuple[float, float], first: CutoutRecord, second: CutoutRecord) -> tuple[float, float]:
    """Return `extent` as the larger fraction of either member's own extent, on the first member's two axes.

    The second member's rectangle is projected onto the first's axes, as the overlap itself is measured.
    """
    turn = second.axis_angle - first.axis_angle
    cosine, sine = abs(math.cos(turn)), abs(math.sin(turn))
    along, across = second.extent
    projected = (along * cosine + across * sine, along * sine + across * cosine)
    one, other = (
        float(min(1.0, size / max(1.0, min(own, theirs))))
        for size, own, theirs in zip(extent, first.extent, projected, strict=True)
    )
    return one, other
