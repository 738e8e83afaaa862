"""Lists of names in messages: the first few, and how many more there are."""

from collections.abc import Sequence

MOST = 10
"""Names of files, tiles or exposures that a message shows."""


def some_of(names: Sequence[str], most: int = MOST, *, between: str = ", ", where: str = "") -> str:
    """Return the first names, and the number of further ones.

    Parameters
    ----------
    names
        In the order in which they are shown.
    most
        Number of names that are shown.
    between
        What stands between them.
    where
        What has all of them, if anything has.
    """
    more = len(names) - most
    if more <= 0:
        return between.join(names)
    return f"{between.join(names[:most])} and {more} more{f', in {where}' if where else ''}"
