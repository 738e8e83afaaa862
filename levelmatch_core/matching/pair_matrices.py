"""Matching where only matrices of differences are known: no pixels, no places, no overlap geometry."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, Member, PairFit
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord, StoredArray
from levelmatch_core.sky.plane import Plane

Matrix = NDArray[np.float64] | NDArray[np.integer]


def solve_matrices(
    delta: NDArray[np.float64],
    numbers: tuple[Matrix, Matrix, Matrix, Matrix],
    reference: int | None,
    settings: MatchSettings,
) -> NDArray[np.float64]:
    """Return the corrections that make all deltas vanish together, each coefficient by itself.

    Parameters
    ----------
    delta
        (N, N, k); delta[j, i] describes data_j - data_i; the lower triangle is read.
    numbers
        (N, N) each: pixels, rms, whether the overlap is long enough, whether there is a pair.
    reference
        The member with correction 0; None makes the mean 0.
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
    """Return a member of which only the name is known."""
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
