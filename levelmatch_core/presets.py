"""Sets of settings by name: those of the step that levelmatch succeeds, and those that serve most skies best."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Preset = Literal["pjpipe", "best"]

BEST: Mapping[str, Any] = MappingProxyType(
    {
        # sources bias medians where two images see them differently: they are masked in measuring
        "do_sigma_clip": True,
        # each pair by the inverse variance of its difference: corners weigh what they know, and need no rejection
        "weight_method": "error",
        "min_linear_frac": 0.0,
        "min_area_percent": 0.0,
        # over bright nebula pixels scatter more than elsewhere, which is no reason to lose the pair
        "rms_sig_limit": 1e6,
    }
)
"""What `levelmatch run`, `match_levels` and the sample programs take unless told otherwise."""

PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType({"pjpipe": MappingProxyType({}), "best": BEST})
"""Preset -> the settings in which it differs from the defaults, which are those of pjpipe's LevelMatchStep."""
