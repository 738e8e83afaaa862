"""Numerics and files of levelmatch: plain Python, independent of the workflow engine and the tracker.

``from levelmatch_core import match_levels, MatchSettings`` is all that most users need. The names of the package are
imported when they are first used, so that importing the package itself is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levelmatch_core.library import match_levels
    from levelmatch_core.match_result import LevelMatch
    from levelmatch_core.pjpipe_step import LevelMatchStep
    from levelmatch_core.settings import MatchSettings

__all__ = ["LevelMatch", "LevelMatchStep", "MatchSettings", "__version__", "match_levels"]

__version__: str

_HOMES = {
    "LevelMatch": "match_result",
    "LevelMatchStep": "pjpipe_step",
    "MatchSettings": "settings",
    "match_levels": "library",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any object of the module
    if name == "__version__":
        from levelmatch_core.process.versions import levelmatch_version  # noqa: PLC0415 - as all names here

        return levelmatch_version()
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
