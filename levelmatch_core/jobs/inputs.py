"""The job that fails for the files of a tile that could not be read, so that an engine shows the failure as one."""

from collections.abc import Sequence
from typing import NoReturn

from levelmatch_core.errors import LostInputError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.inventory import INVENTORY
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings
from levelmatch_core.text.naming import some_of

MOST_TILES = 100
"""Largest number of tiles with a job each; further tiles share one."""


class LostInputsJob(Job):
    """Report the files of a tile that the inventory left out."""

    step = INVENTORY
    gives = Record

    failures: tuple[Failure, ...]

    def run(self, workspace: Workspace) -> NoReturn:  # noqa: ARG002 - all jobs have the same call
        """Fail, with the reasons.

        Raises
        ------
        LostInputError
            Always.
        """
        told = [f"{one.name} is left out: {one.why}" for one in self.failures]
        raise LostInputError(some_of(told, between="; ", where="run.json"))


def lost_inputs(failures: Sequence[Failure], settings: MatchSettings) -> list[LostInputsJob]:
    """Return the jobs that report the failures of an inventory: one per tile, sorted."""
    tiles: dict[str, list[Failure]] = {}
    for failure in failures:
        tiles.setdefault(failure.tile or failure.name, []).append(failure)
    named = sorted(tiles)
    groups = {tile: tiles[tile] for tile in named[:MOST_TILES]}
    if rest := [failure for tile in named[MOST_TILES:] for failure in tiles[tile]]:
        groups[f"{len(named) - MOST_TILES} more tiles"] = rest
    return [
        LostInputsJob(
            label=tile,
            exposures=tuple(failure.name for failure in lost),
            settings=settings,
            failures=tuple(lost),
        )
        for tile, lost in groups.items()
    ]
