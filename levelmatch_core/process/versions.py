"""The versions of what computes the results; nothing here imports any of it."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("numpy", "scipy", "astropy", "reproject", "photutils")
"""Libraries whose versions can change the results."""


@cache
def levelmatch_version() -> str:
    """Return the version of levelmatch; 'unknown' if it is not installed."""
    try:
        return version("levelmatch")
    except PackageNotFoundError:
        return "unknown"


def versions_of_libraries() -> dict[str, str]:
    """Return the versions of the libraries, by name."""
    return {name: version(name) for name in LIBRARIES}
