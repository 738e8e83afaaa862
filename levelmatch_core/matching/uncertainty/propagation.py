"""Propagation of the exposures' noise through all stages to the errors of the total corrections.

The corrections of a stage are a linear function of the errors of its pairs, and these of the exposures' noise and of
the errors of earlier stages (see `exposure_noise`, and section 9 of matching/MODEL.md). The error of an exposure's
total correction is therefore a linear function of one set of independent sources, and its variance is the sum of the
squared coefficients. Stages share noise and pass on errors, so that their uncertainties do not add in quadrature.

Small fields are propagated exactly, source by source. For large ones the errors are sampled: each seeded draw of white
noise gives one possible error of all corrections together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import csr_array

from levelmatch_core.matching.linear.normal_equations import NormalEquations
from levelmatch_core.matching.model.problem import Array, SlopePrior
from levelmatch_core.matching.uncertainty.component import prior_factor, to_gauge
from levelmatch_core.matching.uncertainty.exposure_noise import PairErrors, pair_errors
from levelmatch_core.matching.uncertainty.pair_noise import design
from levelmatch_core.matching.uncertainty.scene import Exposures, MatchedGroup

EXACT = 600
"""Largest number of coefficients of all exposures that is propagated exactly."""
DRAWS, FEWEST_DRAWS = 400, 50
"""Number of draws for larger fields: errors are known to 3.5 % up to `FULL_DRAWS` coefficients, to 10 % at worst."""
FULL_DRAWS = 25_000
"""Number of coefficients up to which all draws are made; above, their number decreases at constant cost, down to
`FEWEST_DRAWS`."""
AT_ONCE = 50
"""Number of errors propagated together, which limits the memory."""


@dataclass(frozen=True)
class Solved:
    """A solved component."""

    group: MatchedGroup
    prior: SlopePrior | None = None


@dataclass(frozen=True)
class _Part:
    """A component with the linear maps from the noise to its corrections."""

    solved: Solved
    errors: PairErrors
    equations: NormalEquations
    weighted: csr_array
    """(N k, K k) from y of the pairs to the right-hand side of the normal equations."""
    pulled: csr_array | None
    """(R, N k) response of the right-hand side to true slopes, which the prior shrinks to 0."""

    @classmethod
    def of(cls, solved: Solved, errors: PairErrors) -> "_Part":
        problem, prior = solved.group.problem, solved.prior
        return cls(
            solved=solved,
            errors=errors,
            equations=NormalEquations(problem, prior.sd if prior else None),
            weighted=csr_array(design(problem).T * np.repeat(problem.weights, problem.k)),
            pulled=None if prior is None else prior_factor(problem, prior),
        )

    @property
    def slopes(self) -> int:
        """Number of sources that are true slopes."""
        return 0 if self.pulled is None else int(self.pulled.shape[0])

    def corrections(self, noise: Array, slopes: Array, before: Array) -> Array:
        """Return (N, k, M) the errors of the members' corrections.

        Parameters
        ----------
        noise
            (R, M) noise of the sources, common to all components.
        slopes
            (S, M) true slopes of this component.
        before
            (3 E, M) errors of the exposures' corrections in earlier stages.
        """
        problem = self.solved.group.problem
        right = self.weighted @ (self.errors.noise @ noise + self.errors.carried @ before)
        if self.pulled is not None:
            right = right + self.pulled.T @ slopes
        found = to_gauge(problem, self.equations.apply_inverse(right))
        return found.reshape(len(problem.names), problem.k, -1)


def total_errors(stages: Sequence[Sequence[Solved]], exposures: Exposures, *, seed: int = 0) -> Iterator[Array]:
    """Yield (E, 3, M) errors of the exposures' total corrections, whose squares add up to the variances.

    Level at the exposure's centre, and slopes per grid pixel, relative to the gauge of the exposure's component.

    Parameters
    ----------
    stages
        The components of each stage, in the order in which they were solved.
    exposures
        All exposures in them.
    seed
        Seed of the random draws.
    """
    errors = iter(pair_errors([part.group for stage in stages for part in stage], exposures))
    parts = [[_Part.of(solved, next(errors)) for solved in stage] for stage in stages]
    every = [part for stage in parts for part in stage]
    noise = every[0].errors.noise.shape[1]
    ends = np.cumsum([noise, *(part.slopes for part in every)]).tolist()
    for drawn in _sources(ends[-1], 3 * len(exposures.sigma), seed):
        total = np.zeros((len(exposures.sigma), 3, drawn.shape[1]))
        number = 0
        for stage in parts:
            before = total.reshape(-1, drawn.shape[1]).copy()
            for part in stage:
                slopes = drawn[ends[number] : ends[number + 1]]
                _add(total, part.solved.group, part.corrections(drawn[:noise], slopes, before), exposures)
                number += 1
        yield total


def _sources(count: int, coefficients: int, seed: int) -> Iterator[Array]:
    """Yield (R, M) unit vectors for the single sources, or draws of all sources."""
    if coefficients <= EXACT:
        for start in range(0, count, AT_ONCE):
            yield np.eye(count, min(AT_ONCE, count - start), -start)
        return
    draws = int(np.clip(DRAWS * FULL_DRAWS // coefficients, FEWEST_DRAWS, DRAWS))
    random = np.random.default_rng(seed)
    for start in range(0, draws, AT_ONCE):
        yield random.standard_normal((count, min(AT_ONCE, draws - start))) / np.sqrt(draws)


def _add(total: Array, group: MatchedGroup, corrections: Array, exposures: Exposures) -> None:
    """Add the errors of the members' corrections to those of their exposures."""
    problem = group.problem
    member = np.repeat(np.arange(len(group.parts)), [len(part) for part in group.parts])
    exposure = np.array([one for part in group.parts for one in part], dtype=np.int64)
    total[exposure, 0] += corrections[member, 0]
    if problem.k == 3:
        slopes = corrections[member, 1:] / problem.scale
        there = exposures.centres[exposure] - problem.centres[member]
        total[exposure, 0] += np.einsum("na,nam->nm", there, slopes)
        total[exposure, 1:] += slopes


@dataclass(frozen=True)
class Lattice:
    """A regular lattice of points on a field's grid."""

    x0: float
    """Grid column of the first point."""
    y0: float
    """Grid row of the first point."""
    step: float
    """Grid pixels between neighbouring points."""
    shape: tuple[int, int]
    """Rows, columns."""


def mosaic_levels(exposures: Exposures, lattice: Lattice) -> csr_array:
    """Return (P, 3 E) the map from the exposures' planes to the mosaic's level, their mean, at each lattice point.

    The points are sorted by rows of the lattice. A point that no exposure covers has an empty row.

    Parameters
    ----------
    exposures
        Their planes are the level at the centre, and slopes per grid pixel.
    lattice
        The points.
    """
    y, x = np.indices(lattice.shape).reshape(2, -1) * lattice.step + [[lattice.y0], [lattice.x0]]
    one, point = shapely.STRtree(shapely.points(x, y)).query(exposures.outlines, predicate="contains")
    weight = 1.0 / np.bincount(point, minlength=len(x))[point]
    along, up = x[point] - exposures.centres[one, 0], y[point] - exposures.centres[one, 1]
    values = np.stack([weight, weight * along, weight * up], axis=1)
    columns = 3 * one[:, None] + np.arange(3)
    rows = np.broadcast_to(point[:, None], columns.shape)
    entries = (values.ravel(), (rows.ravel(), columns.ravel()))
    return csr_array(entries, shape=(len(x), 3 * len(exposures.sigma)))
