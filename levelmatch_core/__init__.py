"""Numerics and files of levelmatch: plain Python that knows neither the workflow engine nor the tracker.

``from levelmatch_core import match_levels, MatchSettings`` is all that most need; what is named here is imported when
it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levelmatch_core.library import LevelMatch, match_levels
    from levelmatch_core.pjpipe_step import LevelMatchStep
    from levelmatch_core.settings import MatchSettings

__all__ = ["LevelMatch", "LevelMatchStep", "MatchSettings", "match_levels"]

_HOMES = {
    "LevelMatch": "library",
    "LevelMatchStep": "pjpipe_step",
    "MatchSettings": "settings",
    "match_levels": "library",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
