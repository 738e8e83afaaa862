"""Uncertainties of the total corrections of all exposures of a field, and of the mosaic's level."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from levelmatch_core.images.given import Given
from levelmatch_core.matching.corrections import Sigma, StageMatch
from levelmatch_core.matching.model.assembly import assemble
from levelmatch_core.matching.model.constraints import constraints_of
from levelmatch_core.matching.model.frames import seen_between
from levelmatch_core.matching.model.problem import Array, SlopePrior
from levelmatch_core.matching.pairs import outlines
from levelmatch_core.matching.results import Gauge
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.matching.uncertainty.pair_noise import block_diagonal, pixel_variances
from levelmatch_core.matching.uncertainty.propagation import Lattice, Solved, mosaic_levels, total_errors
from levelmatch_core.matching.uncertainty.scene import Exposures, MatchedGroup
from levelmatch_core.process.blas_threads import one_blas_thread
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import ONE

POINTS_ALONG = 96
"""Number of points of the error map along the longer side of the mosaic."""
AT_ONCE = 1024
"""Number of points whose errors are computed together: in memory that the system need not give out anew each time."""


@dataclass(frozen=True)
class TotalErrors:
    """1-sigma errors of all corrections of a field, relative to the gauges of their components."""

    sigmas: Mapping[str, Sigma]
    """For each exposure in a solve: its level at the centre of its cutout, and its slopes."""
    maps: Mapping[str, tuple[Lattice, Array]]
    """Patch -> points of the error map, and (ny, nx) 1 sigma of the mosaic's level there, data unit; NaN where there is
    no exposure."""


@one_blas_thread()
def field_errors(
    stages: Sequence[StageMatch],
    cutouts: Mapping[str, CutoutRecord],
    settings: MatchSettings,
    given: Given,
    patches: Mapping[str, Mapping[str, CutoutRecord]] | None = None,
) -> TotalErrors | None:
    """Return the errors of the total corrections of a field; None if nothing was solved.

    Parameters
    ----------
    stages
        All stages, in the order in which they were solved.
    cutouts
        The cutout of each exposure.
    settings
        The settings that the stages were solved with.
    given
        The user's constraints.
    patches
        The cutouts on each patch of a wide field, of which each has a map; None: all are on one grid.
    """
    names, _, solved, exposures = _noise_of(stages, cutouts, settings, given)
    if not any(solved):
        return None
    # a survey image is not part of the mosaic
    grids = {member.patch: member.grid for stage in stages for member in stage.members}
    shown = {ONE: cutouts} if patches is None else patches
    maps = {patch: _Map.of(names, found, exposures, grids.get(patch)) for patch, found in shown.items()}
    squares = np.zeros((len(names), 3))
    for errors in total_errors(solved, exposures, seed=settings.seed):
        squares += np.einsum("nam,nam->na", errors, errors)
        for one in maps.values():
            one.add(errors)
    concerned = {one for stage in solved for part in stage for exposures_in in part.group.parts for one in exposures_in}
    sigmas = np.sqrt(squares).tolist()
    return TotalErrors(
        sigmas={names[one]: (sigmas[one][0], sigmas[one][1], sigmas[one][2]) for one in sorted(concerned)},
        maps={patch: (one.lattice, one.sigma) for patch, one in maps.items()},
    )


@dataclass(frozen=True)
class _Map:
    """The squared errors of the mosaic's level on one grid, summed over sources."""

    lattice: Lattice
    kept: list[int]
    """The exposures on the grid."""
    to_levels: tuple[csr_array, ...]
    """From planes to levels, each of as many points as are computed together."""
    squares: Array

    @classmethod
    def of(
        cls, names: Sequence[str], cutouts: Mapping[str, CutoutRecord], exposures: Exposures, grid: Grid | None
    ) -> "_Map":
        """Return the empty map of cutouts on one grid; None is that of all exposures."""
        kept = [place for place, name in enumerate(names) if name in cutouts]
        records = [cutouts[names[place]] for place in kept]
        centres = np.array([record.centre for record in records])
        lattice = _lattice(records)
        to_levels = mosaic_levels(Exposures(outlines(records), centres, np.ones(len(kept))), lattice)
        if grid is not None:
            to_levels = csr_array(to_levels @ _from_homes(kept, records, exposures, grid))
        count = to_levels.shape[0]
        parts = tuple(to_levels[start : start + AT_ONCE] for start in range(0, count, AT_ONCE))
        return cls(lattice, kept, parts, np.zeros(count))

    def add(self, errors: Array) -> None:
        """Add sources, given the errors (E, 3, M) that they cause."""
        planes = errors[self.kept].reshape(3 * len(self.kept), -1)
        for number, part in enumerate(self.to_levels):
            self.squares[number * AT_ONCE : (number + 1) * AT_ONCE] += np.sum((part @ planes) ** 2, axis=1)

    @property
    def sigma(self) -> Array:
        """(ny, nx) 1 sigma."""
        sigma = np.sqrt(self.squares)
        sigma[np.concatenate([np.diff(part.indptr) for part in self.to_levels]) == 0] = np.nan
        return sigma.reshape(self.lattice.shape)


def _from_homes(kept: Sequence[int], records: Sequence[CutoutRecord], exposures: Exposures, grid: Grid) -> csr_array:
    """Return (3 E, 3 E) the map from planes of exposures on the grids of their homes to planes on one grid."""
    blocks = np.broadcast_to(np.eye(3), (len(kept), 3, 3)).copy()
    for number, (one, record) in enumerate(zip(kept, records, strict=True)):
        home = exposures.grids[one]
        if home is not None and home != grid:
            spread = np.diag(np.square(record.shape[::-1]) / 12.0)
            place, turn = seen_between(grid, home, np.array([record.centre]), spread[None])
            blocks[number, 0, 1:], blocks[number, 1:, 1:] = place[0] - exposures.centres[one], turn[0]
    return block_diagonal(blocks)


@one_blas_thread()
def level_covariance(
    stages: Sequence[StageMatch], cutouts: Mapping[str, CutoutRecord], settings: MatchSettings, given: Given
) -> tuple[tuple[str, ...], Array]:
    """Return the exposures of a field, sorted, and (E, E) the covariance of their total levels.

    Parameters
    ----------
    stages, cutouts, settings, given
        As for :func:`field_errors`.
    """
    names, _, solved, exposures = _noise_of(stages, cutouts, settings, given)
    covariance = np.zeros((len(names), len(names)))
    if any(solved):
        for errors in total_errors(solved, exposures, seed=settings.seed):
            covariance += errors[:, 0] @ errors[:, 0].T
    kept = [place for place, name in enumerate(names) if name in cutouts]
    return tuple(names[place] for place in kept), covariance[np.ix_(kept, kept)]


def _noise_of(
    stages: Sequence[StageMatch], cutouts: Mapping[str, CutoutRecord], settings: MatchSettings, given: Given
) -> tuple[list[str], list[CutoutRecord], list[list[Solved]], Exposures]:
    """Return the names and cutouts of all exposures, the components of each stage, and what noise they have."""
    members = {member.name: member for stage in stages for member in stage.members}
    names = sorted({name for member in members.values() for name in member.exposures})
    number = {name: place for place, name in enumerate(names)}
    records = [cutouts.get(name) or members[name].cutout for name in names]
    solved = [_solved(stage, number, settings, given) for stage in stages]
    grids = {name: member.grid for member in members.values() for name in member.exposures}
    exposures = Exposures(
        grids=[grids[name] for name in names],
        outlines=outlines(records),
        centres=np.array([record.centre for record in records]),
        sigma=_pixel_noise(solved, len(names)),
    )
    return names, records, solved, exposures


def _solved(stage: StageMatch, number: Mapping[str, int], settings: MatchSettings, given: Given) -> list[Solved]:
    """Return the components of a stage as they were solved."""
    by_name = {member.name: member for member in stage.members}
    gauge = next(one.gauge for one in STAGES if one.name == stage.stage)
    parts = []
    for solution in stage.solutions:
        mine = [by_name[result.name] for result in solution.members]
        known = constraints_of(mine, given, with_levels=gauge is Gauge.REFERENCE)
        used: list[list[int]] = [[] for _ in solution.components]
        where = {result.name: result.component for result in solution.members}
        for place, pair in enumerate(solution.pairs):
            if pair.rejected is None:
                used[where[pair.fit.first]].append(place)
        for component, pairs in zip(solution.components, used, strict=True):
            inside = [by_name[name] for name in component.members]
            if len(inside) == 1 or not (pairs or known.ties):
                continue
            fits = [solution.pairs[place].fit for place in pairs]
            problem = assemble(
                inside, fits, solution.fit_type, component.gauge_condition, settings, known
            ).whole.problem
            if component.excess_scatter and settings.weight_method == "error":
                problem = problem.evened(component.excess_scatter)
            inner = [tuple(number[name] for name in member.exposures) for member in inside]
            grounded = [()] * (len(problem.names) - len(inside))
            weights = [member.weights or (1.0,) * len(member.exposures) for member in inside]
            group = MatchedGroup(problem, (*inner, *grounded), component.excess_scatter, (*weights, *grounded))
            parts.append(Solved(group, SlopePrior(*component.slope_prior) if component.slope_prior else None))
    return parts


def _pixel_noise(solved: Sequence[Sequence[Solved]], count: int) -> Array:
    """Return (E,) the scatter of each exposure's pixels, from the first stage in which it is a member by itself."""
    sigma = np.zeros(count)
    for stage in solved:
        for part in stage:
            variances = pixel_variances(part.group.problem)
            for inner, variance in zip(part.group.parts, variances.tolist(), strict=True):
                if len(inner) == 1 and not sigma[inner[0]]:
                    sigma[inner[0]] = math.sqrt(variance)
    known = sigma[sigma > 0]
    return np.where(sigma > 0, sigma, float(np.median(known)) if len(known) else 1.0)


def _lattice(records: Sequence[CutoutRecord]) -> Lattice:
    """Return a lattice of points over the mosaic, each at the centre of a square."""
    low = np.min([(record.x0, record.y0) for record in records], axis=0)
    high = np.max([(record.x0 + record.shape[1], record.y0 + record.shape[0]) for record in records], axis=0)
    step = max(1, -(-int((high - low).max()) // POINTS_ALONG))
    nx, ny = (-(-int(size) // step) for size in high - low)
    first = low - 0.5 + step / 2
    return Lattice(x0=float(first[0]), y0=float(first[1]), step=float(step), shape=(ny, nx))
