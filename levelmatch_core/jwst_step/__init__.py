"""levelmatch as a step of JWST's pipeline: `strun levelmatch_core.jwst_step.LevelMatchStep asn.json`.

It needs stpipe and stdatamodels (the extra `jwst`); jwst itself opens associations as its ModelLibrary.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levelmatch_core.jwst_step.step import LevelMatchStep

__all__ = ["LevelMatchStep", "get_steps"]


def get_steps() -> list[tuple[str, str, bool]]:
    """Return the steps for stpipe's list: class, alias, whether it is a pipeline. Imports neither of them."""
    return [(f"{__name__}.LevelMatchStep", "level_match", False)]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the class
    if name != "LevelMatchStep":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    try:
        return import_module(f"{__name__}.step").LevelMatchStep
    except ModuleNotFoundError as error:
        if error.name not in {"stpipe", "stdatamodels", "asdf", "gwcs"}:
            raise
        message = f"the step of JWST's pipeline needs {error.name}: pip install 'levelmatch[jwst]'"
        raise ImportError(message) from error
