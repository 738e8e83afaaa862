"""Pairs as matrices: the matrices of a solution, and matching from matrices of differences alone."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, Member, PairFit, Solution
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord, StoredArray
from levelmatch_core.sky.plane import Plane

DENSE_MEMBERS = 2000
"""Largest number of members for which N x N matrices are made."""

_T = TypeVar("_T", bound=np.generic)
Matrix = NDArray[np.float64] | NDArray[np.integer]


class DeltaMatrices(NamedTuple):
    """The arguments of the step's `find_optimum_deltas`; entry [j, i] describes data_j - data_i."""

    delta_mat: NDArray[np.float64]
    """(N, N), or (N, N, 3) with [a, b, c] for planes; antisymmetric; 0 where there is no pair."""
    npix_mat: NDArray[np.int64]
    """(N, N) pixels valid in both."""
    rms_mat: NDArray[np.float64]
    """(N, N) scatter about the fit, data unit."""
    lin_size_mat: NDArray[np.int64]
    """(N, N) 1 where the overlap reaches min_linear_frac along an axis."""
    valid_mat: NDArray[np.int64]
    """(N, N) 1 where there is a pair."""


def solve_matrices(
    delta: NDArray[np.float64],
    numbers: tuple[Matrix, Matrix, Matrix, Matrix],
    reference: int | None,
    settings: MatchSettings,
) -> NDArray[np.float64]:
    """Return the corrections that make all deltas vanish together, for each coefficient separately.

    The iterative solver takes planes as wholes, and the overlaps as squares of their number of pixels.

    Parameters
    ----------
    delta
        (N, N, k); delta[j, i] describes data_j - data_i, [c] or [a, b, c]; the lower triangle is read.
    numbers
        (N, N) each: number of pixels, rms, whether the overlap is long enough, whether there is a pair.
    reference
        The member with correction 0; None to make the mean 0.
    settings
        Rejection, weights and solver.

    Returns
    -------
    ndarray
        (N, k), to be subtracted; 0 for a member without a usable pair.
    """
    npix, rms, linear, valid = numbers
    names = [f"{index:06d}" for index in range(len(delta))]
    members = [_nominal(name) for name in names]
    gauge = Gauge.MEAN if reference is None else Gauge.REFERENCE
    named = None if reference is None else names[reference]
    chosen = settings.model_copy(update={"reference": named, "fit_type_dithers": "level"})
    if settings.solver == "iterative" and delta.shape[2] == 3:
        fits = [
            _square_fit(_nominal_fit((names[i], names[j]), 0.0, npix[j, i], rms[j, i], linear[j, i]), delta[j, i])
            for i, j in zip(*np.triu_indices(len(delta), 1), strict=True)
            if valid[j, i]
        ]
        planes = chosen.model_copy(update={"fit_type_dithers": "level+slope"})
        solution = match("dithers", "matrices", members, fits, gauge, planes)
        moved = [result.plane.about(0.0, 0.0) for result in solution.members]
        return np.array([[plane.slope_x, plane.slope_y, plane.level] for plane in moved])
    columns = []
    for coefficient in range(delta.shape[2]):
        fits = [
            _nominal_fit((names[i], names[j]), delta[j, i, coefficient], npix[j, i], rms[j, i], linear[j, i])
            for i, j in zip(*np.triu_indices(len(delta), 1), strict=True)
            if valid[j, i]
        ]
        solution = match("dithers", "matrices", members, fits, gauge, chosen)
        columns.append([result.plane.level for result in solution.members])
    return np.array(columns).T


_NOWHERE: Mapping[str, object] = {
    "array": StoredArray(file="matrix.npy", sha256="0" * 64),
    "x0": 0,
    "y0": 0,
    "shape": (1, 1),
    "has_variance": False,
    "n_valid": 1,
    "noise_gain": 1.0,
    "axis_angle": 0.0,
    "extent": (1.0, 1.0),
    "outline": (),
}


def _nominal(name: str) -> Member:
    """Return a member with only a name."""
    cutout = CutoutRecord.model_validate({"name": name, **_NOWHERE})
    return Member(name=name, exposures=(name,), cutout=cutout, tile=name, groups={})


def _nominal_fit(pair: tuple[str, str], delta: float, npix: int, rms: float, linear: int) -> PairFit:
    n = int(npix)
    return PairFit(
        first=pair[0],
        second=pair[1],
        npix=n,
        n_used=n,
        plane=Plane(level=float(delta)),
        moments=(float(n), 0, 0, 0, 0, 0, 0, 0, 0),
        rms=float(rms),
        stderr=float(rms) / max(n, 1) ** 0.5,
        correlation=1.0,
        extent=(1.0, 1.0),
        linear=(1.0, 1.0) if linear else (0.0, 0.0),
        converged=True,
    )


def _square_fit(fit: PairFit, coefficients: NDArray[np.float64]) -> PairFit:
    """Return a fit as a plane [a, b, c] over a square of its number of pixels about the reference point."""
    a, b, c = coefficients.tolist()
    n = float(fit.n_used)
    spread = n * max(n, 1.0) / 12
    return fit.model_copy(
        update={
            "plane": Plane(level=c, slope_x=a, slope_y=b),
            "moments": (n, 0.0, 0.0, 0.0, spread, 0.0, 0.0, 0.0, spread),
        }
    )


# -- of a solution -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PairMatrices:
    """The pairs of a solution: N x N matrices, or columns with one entry per pair, if `first` and `second` are set.

    Entries of a matrix without a pair are 0, and False in `valid`.
    """

    names: tuple[str, ...]
    """Names of the members, sorted: the order of rows and columns."""
    delta: NDArray[np.float64]
    """(N, N, k) delta[j, i] describes data_j - data_i (level at the overlap's centroid, slopes); antisymmetric. Or
    (K, k) second - first."""
    npix: NDArray[np.int64]
    """(N, N) or (K,) pixels valid in both."""
    rms: NDArray[np.float64]
    """(N, N) or (K,) scatter about the fit, data unit."""
    linear: NDArray[np.float64]
    """(N, N, 2) or (K, 2) overlap as a fraction of the members' extents, along the first's detector axes."""
    valid: NDArray[np.bool_]
    """(N, N) or (K,) whether the pair was used."""
    first: NDArray[np.int64] | None = None
    """(K,) index of the first member; None for matrices."""
    second: NDArray[np.int64] | None = None
    """(K,) index of the second member; None for matrices."""

    def __post_init__(self) -> None:
        for value in self.arrays().values():
            value.flags.writeable = False

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}

    @classmethod
    def columns_of(cls, solution: Solution) -> "PairMatrices":
        """Return the pairs of a solution as columns."""
        names = tuple(member.name for member in solution.members)
        index = {name: i for i, name in enumerate(names)}
        k = 1 if solution.fit_type == "level" else 3
        fits = [pair.fit for pair in solution.pairs]
        delta = [(fit.plane.level, fit.plane.slope_x, fit.plane.slope_y)[:k] for fit in fits]
        return cls(
            names=names,
            delta=np.array(delta, dtype=np.float64).reshape(-1, k),
            npix=np.array([fit.npix for fit in fits], dtype=np.int64),
            rms=np.array([fit.rms for fit in fits], dtype=np.float64),
            linear=np.array([fit.linear for fit in fits], dtype=np.float64).reshape(-1, 2),
            valid=np.array([pair.rejected is None for pair in solution.pairs], dtype=np.bool_),
            first=np.array([index[fit.first] for fit in fits], dtype=np.int64),
            second=np.array([index[fit.second] for fit in fits], dtype=np.int64),
        )

    @classmethod
    def of(cls, solution: Solution) -> "PairMatrices":
        """Return the N x N matrices of a solution, or its columns above 2,000 members."""
        columns = cls.columns_of(solution)
        return columns if len(columns.names) > DENSE_MEMBERS else columns.squared()

    def squared(self) -> "PairMatrices":
        """Return columns as N x N matrices."""
        n, i, j = len(self.names), self.first, self.second

        def square(values: NDArray[_T], turned: NDArray[_T] | None = None) -> NDArray[_T]:
            matrix = np.zeros((n, n, *values.shape[1:]), dtype=values.dtype)
            matrix[j, i], matrix[i, j] = values, values if turned is None else turned
            return matrix

        return replace(
            self,
            delta=square(self.delta, -self.delta),
            npix=square(self.npix),
            rms=square(self.rms),
            linear=square(self.linear),
            valid=square(self.valid),
            first=None,
            second=None,
        )
