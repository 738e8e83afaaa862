"""The interface of the step that levelmatch succeeds: thin wrappers of the core for scripts that call it.

Signs are the same everywhere: a correction is subtracted (corrected = data - correction), and a delta of (first,
second) describes second - first. Coefficients of planes are in the order of the original step, [a, b, c] of a (x -
ref_x) + b (y - ref_y) + c, and come with a :class:`Frame`, which says on which pixels and about which point.

Corrections that a step finds are kept in it, and everything that it measures afterwards is measured on corrected
pixels, as with the corrected files of the original step; :meth:`LevelMatchStep.apply` writes them.
"""

from levelmatch_core.pjpipe_step.results import (
    Corrections,
    DitherDeltas,
    FieldDeltas,
    Frame,
    LevelDelta,
    ReprojectedImage,
)
from levelmatch_core.pjpipe_step.step import LevelMatchStep

__all__ = ["Corrections", "DitherDeltas", "FieldDeltas", "Frame", "LevelDelta", "LevelMatchStep", "ReprojectedImage"]
