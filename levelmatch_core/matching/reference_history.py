"""The reference of a component over several runs: its true reference, or one that replaces a missing tile.

Levels are relative to a reference tile. If the reference of the finished solution, or the one named by the user, is
damaged or still being written, another one replaces it meanwhile. The same applies to parts of a component that were
only connected by the missing tile, and to a choice that was made while a tile was missing. Such a reference is
provisional: it is marked with a question mark, and the true reference is used again when nothing is missing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from levelmatch_core.errors import DuplicateExposureError
from levelmatch_core.images.exposure import Exposure, Failure
from levelmatch_core.images.fields import MOSAIC


@dataclass(frozen=True)
class KnownZero:
    """The reference of a component of the finished solution."""

    reference: str
    """The true reference, never a provisional one."""
    exposures: frozenset[str]
    """Names of the component's exposures."""


@dataclass(frozen=True)
class Zeros:
    """The previous references of a field, and what is missing, before it is solved."""

    known: tuple[KnownZero, ...] = ()
    """The references of the finished solution."""
    lost: tuple[Failure, ...] = ()
    """Files that were left out before the match, failed or pending, and may belong to this field."""
    present: frozenset[str] = frozenset()
    """Tiles (and groups of tiles) of all input exposures, in any field."""
    named: str | None = None
    """The tile named by the user."""

    @property
    def preferred(self) -> tuple[str, ...]:
        """The true references of the finished solution, which are kept if they still exist."""
        return tuple(dict.fromkeys(zero.reference for zero in self.known))

    @property
    def missing(self) -> frozenset[str]:
        """Tiles (and groups of tiles) without any input exposure."""
        return frozenset(name for failure in self.lost for name in names_lost(failure)) - self.present

    def stands_for(
        self, exposures: Collection[str], tiles: Collection[str], gone: Collection[str] = frozenset()
    ) -> str | None:
        """Return the missing tile that the reference of a component replaces.

        Parameters
        ----------
        exposures
            Names of the component's exposures.
        tiles
            Names of its tiles, groups of tiles, and members.
        gone
            Tiles that were lost during the match.

        Returns
        -------
        The missing reference; '' if it is not known; None if the reference is the true one.
        """
        missing = self.missing | frozenset(gone)
        if not missing:
            return None
        shared = {zero: len(zero.exposures.intersection(exposures)) for zero in self.known}
        own = sorted((zero for zero in self.known if shared[zero]), key=lambda zero: (-shared[zero], zero.reference))
        if self.named is not None:
            if self.named in tiles:
                return None
            if self.named in missing and (not own or any(zero.reference == self.named for zero in own)):
                return self.named
        if any(zero.reference in tiles for zero in self.known):
            return None
        known = missing | self.present
        return next((zero.reference for zero in own if zero.reference in known), "")

    def own(self, tiles: Collection[str], gone: Collection[str] = frozenset()) -> str:
        """Return which of a component's tiles is a true reference, as long as something is missing; '' if none is.

        A tile without others to match with gets no reference in the solve; this keeps its reference for later runs.
        """
        if not self.missing and not gone:
            return ""
        named = (self.named,) if self.named is not None else ()
        return next((name for name in (*named, *self.preferred) if name in tiles), "")


def names_of(exposures: Iterable[Exposure]) -> frozenset[str]:
    """Return the tiles of exposures, and the groups of tiles in which they are matched before the mosaic."""
    tiles = {exposure.tile for exposure in exposures}
    groups = (exposure.groups.items() for exposure in exposures)
    return frozenset(tiles.union(group for pairs in groups for stage, group in pairs if stage != MOSAIC))


def names_lost(failure: Failure) -> tuple[str, ...]:
    """Return the tile of what failed, and the groups that this tile belongs to."""
    return failure.tiles or (failure.name,)


def lacking(left_out: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return which of the files that were left out are missing in the products: failed and pending ones.

    The products of a run, or of a field, are **partial** if this is not empty. A duplicate of another file is not
    missing, nor is an untied exposure, which is in the products with an arbitrary level.
    """
    return tuple(one for one in left_out if one.error != DuplicateExposureError.__name__)
