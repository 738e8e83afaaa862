"""Sets of settings by name: those of the step that levelmatch succeeds, and those that serve most skies best."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Preset = Literal["pjpipe", "best"]

BEST: Mapping[str, Any] = MappingProxyType(
    {
        # bilinear interpolation blurs by an amount that depends on the sub-pixel phase; sharp skies make levels of that
        "reproject_func": "spline",
        # what two point-spread functions leave in a difference, and small errors of registration, is fitted and removed
        "match_psf": True,
        # stacks by inverse variance without cosmic rays: a noisy exposure costs itself
        "stack_method": "robust",
        # Huber's mean where it agrees with the median, the median elsewhere
        "statistic": "adaptive",
        # each pair by the inverse variance of its difference: corners weigh what they know, and need no rejection
        "weight_method": "error",
        "min_linear_frac": 0.0,
    }
)
"""What `levelmatch run`, `match_levels` and the sample programs take unless told otherwise."""

PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType({"pjpipe": MappingProxyType({}), "best": BEST})
"""Preset -> the settings in which it differs from the defaults, which are those of pjpipe's LevelMatchStep."""
