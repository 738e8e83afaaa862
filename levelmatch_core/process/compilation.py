"""Compilation of kernels, also where compiled code cannot be kept: an installation that only root may write to."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba

from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:  # noqa: ANN401 - numba's
    """Decorate like :func:`numba.njit`; a function whose compiled code cannot be kept is compiled by every process."""

    def decorate(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - numba's
        try:
            return numba.njit(no_cfunc_wrapper=True, **options)(function)
        except RuntimeError:  # numba finds no folder that may be written to
            if not options.get("cache"):
                raise
            _warn_once()
            return numba.njit(no_cfunc_wrapper=True, **{**options, "cache": False})(function)

    return decorate


@cache
def _warn_once() -> None:
    logger.warning(
        "compiled code can be kept neither beside the installed modules nor in the user's cache folder: every process "
        "compiles it anew, which takes up to a minute; set NUMBA_CACHE_DIR to a folder of your own"
    )
