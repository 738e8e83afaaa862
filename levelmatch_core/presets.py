"""Named sets of settings: those of the step that levelmatch succeeds, and those that are best for most skies."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Preset = Literal["pjpipe", "best"]

BEST: Mapping[str, Any] = MappingProxyType(
    {
        # bilinear interpolation blurs by an amount that depends on the sub-pixel phase, which biases levels in sharp
        # skies
        "reproject_func": "spline",
        # residuals of different point-spread functions, and of small registration errors, are fitted and removed
        "match_psf": True,
        # stacks with inverse-variance weights and without cosmic rays: noisy exposures do not affect the others
        "stack_method": "robust",
        # nearly the mean where all pairs agree that there is only noise, Huber's mean where it agrees with the median,
        # the median elsewhere
        "statistic": "adaptive",
        # pairs have the inverse variance of their difference as weights, what they show beyond noise included: small
        # overlaps need no rejection, and light that one exposure alone sees counts little
        "weight_method": "error",
        "min_linear_frac": 0.0,
    }
)
"""The default of `levelmatch run`, `match_levels` and the sample programs."""

PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType({"pjpipe": MappingProxyType({}), "best": BEST})
"""Preset -> the settings in which it differs from the defaults, which are those of pjpipe's LevelMatchStep."""
