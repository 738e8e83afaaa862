"""The simulated sky: a nebula and stars as a smooth function of (RA, Dec), which can be evaluated exactly anywhere.

The nebula is a cubic spline of a coarse map on a tangent plane. Since the spline *is* the sky, there is no resampling
between the truth and an exposure. The map is smoothed to several exposure pixels, which keeps the error of bilinear
resampling far below the noise.
"""

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import ndimage

from levelmatch_core.simulate.program import SimulatedProgram, field_extent, generator, program_layout, tangent_wcs

Array = NDArray[np.float64]

_SPACING = 6.0  # exposure pixels per map pixel
_LARGEST_MAP = 1536  # map pixels per side; wider fields get a coarser map
_SMALLEST_MAP = 256  # smaller fields show a part of it instead of a compressed nebula
_SMOOTH = 1.6  # map pixels: 1 sigma of the last smoothing
_CORE = 1.3  # exposure pixels: 1 sigma of the PSF's core, well sampled
_HALO = 4.0  # and of its halo
_HALO_PART = 0.03
_PEDESTAL = 0.15  # darkest sky, in units of the nebula's range


@dataclass(frozen=True)
class Sky:
    """Brightness on the sky, in the data's unit."""

    wcs: WCS
    """WCS of the coarse map."""
    coefficients: Array
    """(ny, nx), cubic spline coefficients of the nebula."""
    spacing: float
    """Exposure pixels per map pixel."""
    stars: Array
    """(n, 3): x, y on the map, and the peak in the data's unit."""

    def on(self, wcs: WCS, shape: tuple[int, int]) -> Array:
        """Return the sky at the centres of an exposure's pixels.

        Parameters
        ----------
        wcs
            WCS of the exposure.
        shape
            Its rows, columns.

        Returns
        -------
        (ny, nx) array, the data's unit.
        """
        rows, columns = np.indices(shape, dtype=float)
        ra, dec = wcs.all_pix2world(columns.ravel(), rows.ravel(), 0)
        x, y = (axis.reshape(shape) for axis in self.wcs.wcs_world2pix(ra, dec, 0))
        sky: Array = ndimage.map_coordinates(self.coefficients, (y, x), order=3, mode="nearest", prefilter=False)
        self._add_stars(sky, wcs, x, y)
        return sky

    def _add_stars(self, sky: Array, wcs: WCS, x: Array, y: Array) -> None:
        reach = 6 * _HALO
        ra, dec = self.wcs.wcs_pix2world(self.stars[:, 0], self.stars[:, 1], 0)
        # Accurate up to the distortion of a few pixels, for which the stamps leave room.
        columns, rows = (np.rint(axis).astype(int) for axis in wcs.wcs_world2pix(ra, dec, 0))
        side = int(reach) + 8
        for (star_x, star_y, peak), column, row in zip(self.stars, columns, rows, strict=True):
            stamp = (slice(max(row - side, 0), max(row + side, 0)), slice(max(column - side, 0), max(column + side, 0)))
            r2 = ((x[stamp] - star_x) ** 2 + (y[stamp] - star_y) ** 2) * self.spacing**2
            psf = np.exp(-r2 / (2 * _CORE**2)) + _HALO_PART * np.exp(-r2 / (2 * _HALO**2))
            sky[stamp] += np.where(r2 < reach**2, peak * psf, 0.0)


def make_sky(program: SimulatedProgram) -> Sky:
    """Return the sky of a program, which depends on its seed and extent only."""
    width, height = field_extent(program)
    spacing = max(_SPACING, max(width, height) / _LARGEST_MAP)
    shape = (int(height / spacing) + 8, int(width / spacing) + 8)
    wcs = tangent_wcs(program.centre, shape, spacing * program_layout(program).scale, program.angle)
    rng = generator(program.seed, "nebula")
    nebula = program.nebula * (_nebula(shape, rng) + _PEDESTAL)
    return Sky(
        wcs=wcs,
        coefficients=ndimage.spline_filter(nebula, order=3, mode="nearest"),
        spacing=spacing,
        stars=_stars(program, shape, generator(program.seed, "stars")),
    )


def _stars(program: SimulatedProgram, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    x = rng.uniform(0, shape[1] - 1, program.stars)
    y = rng.uniform(0, shape[0] - 1, program.stars)
    peak = np.minimum(rng.pareto(0.9, program.stars) + 0.3, 120.0) * 8.0
    return np.column_stack([x, y, peak])


def _nebula(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return a nebula with filaments and dark lanes, from about 0 to 1 (1st to 99th percentile), never negative."""
    square = (max(*shape, _SMALLEST_MAP),) * 2
    rows, columns = np.indices(square, dtype=float)
    bend = 0.035 * square[0]
    # Distorting the coordinates turns round clouds into elongated ones.
    rows = rows + bend * _turbulence(square, 3.6, rng)
    columns = columns + bend * _turbulence(square, 3.6, rng)

    def swept(index: float) -> Array:
        bent: Array = ndimage.map_coordinates(
            _turbulence(square, index, rng), (rows, columns), order=1, mode="grid-wrap"
        )
        return bent

    body = np.exp(0.75 * swept(3.4))
    filaments = sum(
        weight * np.exp(-((swept(index) / width) ** 2))
        for weight, index, width in ((1.0, 3.2, 0.12), (0.8, 3.0, 0.10), (0.5, 2.8, 0.08))
    )
    lanes = np.exp(-((swept(3.2) / 0.13) ** 2)) * np.clip(0.5 + 0.5 * swept(3.6), 0.0, 1.0)
    light = body * (0.7 + 0.9 * filaments) * np.exp(-0.8 * lanes)
    light = ndimage.gaussian_filter(light, _SMOOTH, mode="wrap")
    low, high = np.percentile(light, (1, 99))
    scaled = (light - low) / (high - low)
    # A soft lower and upper limit: smooth everywhere, and positive.
    floored = np.logaddexp(0.0, 20.0 * scaled) / 20.0
    capped = floored / (1 + np.maximum(floored - 1.0, 0.0) ** 3 / 8)
    row, column = ((whole - part) // 2 for whole, part in zip(square, shape, strict=True))
    return np.asarray(capped[row : row + shape[0], column : column + shape[1]])


def _turbulence(shape: tuple[int, int], index: float, rng: np.random.Generator) -> Array:
    """Return a periodic Gaussian random field of power spectrum k^-index, mean 0 and variance 1."""
    ky = np.fft.fftfreq(shape[0])[:, None] * shape[0]
    kx = np.fft.rfftfreq(shape[1])[None, :] * shape[1]
    k = np.hypot(ky, kx)
    # Flat below three waves per field, so that no single cloud fills it.
    amplitude = (k**2 + 3.0**2) ** (-index / 4)
    amplitude[0, 0] = 0.0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
    return np.asarray(field / field.std())
