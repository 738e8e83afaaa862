"""Whose zero a component has: its true reference's, or that of a tile that stands in for one that is missing.

Levels are relative to a reference tile. Where the tile that held the zero of the finished solution, or the one that the
user names, is broken or still being written, another one has to serve meanwhile; the same holds for the parts of a
component that hung together by the missing tile, and for a choice that was made while a tile was missing. Such a
reference is provisional: it is named with a question mark, and the zero goes back once nothing is missing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from levelmatch_core.errors import DuplicateExposureError
from levelmatch_core.images.exposure import Exposure, Failure
from levelmatch_core.images.fields import MOSAIC


@dataclass(frozen=True)
class KnownZero:
    """The zero of a component of the finished solution."""

    reference: str
    """The tile that truly holds it, never one that stood in."""
    exposures: frozenset[str]
    """Names of the component's exposures."""


@dataclass(frozen=True)
class Zeros:
    """What is known of the zeros of a field before it is solved."""

    known: tuple[KnownZero, ...] = ()
    """Of the finished solution."""
    lost: tuple[Failure, ...] = ()
    """What was left out before the match, failed or pending, and may be of this field."""
    present: frozenset[str] = frozenset()
    """Tiles (and groups of tiles) of all exposures that came in, in whatever field."""
    named: str | None = None
    """The tile that the user names."""

    @property
    def preferred(self) -> tuple[str, ...]:
        """The true references of the finished solution: kept where they are there."""
        return tuple(dict.fromkeys(zero.reference for zero in self.known))

    @property
    def missing(self) -> frozenset[str]:
        """Tiles (and groups of tiles) of which nothing came in."""
        return frozenset(name for failure in self.lost for name in names_lost(failure)) - self.present

    def stands_for(
        self, exposures: Collection[str], tiles: Collection[str], gone: Collection[str] = frozenset()
    ) -> str | None:
        """Return the tile for which the reference of a component stands in.

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
        The missing reference; '' where it cannot be told which tile would be it; None where the reference is true.
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

        What is left without others to match with has no reference of its own making: its zero is not forgotten so.
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
    """Return the tile that lacks what failed, and the groups that this tile would be in."""
    return failure.tiles or (failure.name,)


def lacking(left_out: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return what the products lack, of all that was left out: what failed and what is pending.

    The products of a run, or of a field, are **partial** if this is not empty. A copy that was left out for its twin
    is nothing that they lack; nor is an exposure that is untied, which is in the products at a level of its own.
    """
    return tuple(one for one in left_out if one.error != DuplicateExposureError.__name__)
