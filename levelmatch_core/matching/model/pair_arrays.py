"""The measured pairs of a group as arrays, with one entry per pair."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.results import PairFit

Array = NDArray[np.float64]

_COLUMNS = 20


@dataclass(frozen=True)
class PairArrays:
    """The measurements of K pairs: the fields of :class:`~levelmatch_core.matching.results.PairFit` as arrays."""

    n_used: Array
    """(K,) pixels that remain after clipping."""
    rms: Array
    """(K,) scatter about the fit, data unit."""
    stderr: Array
    """(K,) 1 sigma of the level at the centroid, data unit."""
    structure: Array
    """(K,) 1 sigma of the level's error in addition to pixel noise, data unit."""
    correlation: Array
    """(K,) pixels per statistically independent pixel."""
    shared: Array
    """(K,) part of the variance that is shared with other pairs over the same pixels."""
    planes: Array
    """(K, 3) level at the centroid, data unit, and slopes along x and y, data unit per grid pixel."""
    centroids: Array
    """(K, 2) centroid x, y of the pixels used, grid pixels."""
    moments: Array
    """(K, 3, 3) mean over the pixels used of the outer product of [1, x - x0, y - y0] with itself, grid pixels."""

    def __post_init__(self) -> None:
        for field in fields(self):
            getattr(self, field.name).flags.writeable = False

    @classmethod
    def of(cls, fits: Sequence[PairFit]) -> "PairArrays":
        """Return the arrays of the given pairs, in the given order."""

        def row(fit: PairFit) -> tuple[float, ...]:
            plane = fit.plane
            own = fit.n_used, fit.rms, fit.stderr, fit.structure, fit.correlation, fit.shared
            return (*own, plane.level, plane.slope_x, plane.slope_y, plane.x0, plane.y0, *fit.moments)

        flat = np.fromiter(chain.from_iterable(map(row, fits)), dtype=float, count=_COLUMNS * len(fits))
        table = flat.reshape(-1, _COLUMNS)
        n_used, rms, stderr, structure, correlation, shared = table[:, :6].T.copy()
        moments = table[:, 11:].reshape(-1, 3, 3) / n_used[:, None, None]
        return cls(
            *(n_used, rms, stderr, structure, correlation, shared),
            *(table[:, 6:9].copy(), table[:, 9:11].copy(), np.asarray(moments)),
        )

    def at(self, where: Sequence[int]) -> "PairArrays":
        """Return the arrays of a selection of the pairs."""
        chosen = list(where)
        return PairArrays(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def plane_rms(self, planes: Array) -> Array:
        """Return (K,) the rms of planes (K, 3) about the centroids over the pixels that the fits used, data unit."""
        return np.asarray(np.sqrt(np.maximum(0.0, np.einsum("ka,kab,kb->k", planes, self.moments, planes))))
