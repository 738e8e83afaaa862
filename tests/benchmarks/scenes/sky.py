"""A sky that is evaluated exactly where an exposure's pixels lie: no map, no interpolation.

Stars are Gaussian PSFs integrated over the pixel; nebulae are the exponential of a sum of plane waves, through the same
PSF (on the exposure's own pixels, which sample it; a pixel's own size is left out). Units MJy/sr,
pixels of 0.11 arcsec.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import erf

Array = NDArray[np.float64]

REACH = 7
"""Half the side of a star's stamp, pixels."""
HALO = 6.0
"""1 sigma of the PSF's wide part, pixels."""


@dataclass(frozen=True)
class Sky:
    """What is seen, in pixels of a plane about the field's middle."""

    stars: Array
    """(n, 3) x, y and flux."""
    waves: Array
    """(m, 4) wave numbers in x and y, amplitude and phase."""
    brightness: float
    """Of the nebula, where its waves are 0."""
    base: float = 5.0

    @classmethod
    def of(
        cls,
        rng: np.random.Generator,
        side: float,
        *,
        stars: int = 0,
        slope: float = 0.8,
        brightest: float = 3e3,
        brightness: float = 0.5,
        contrast: float = 0.8,
        finest: float = 12.0,
    ) -> "Sky":
        """Draw a sky.

        Parameters
        ----------
        rng
            Random numbers.
        side
            Side of the field, pixels.
        stars, slope, brightest
            How many, the slope of the power law of their peaks, and the brightest.
        brightness, contrast, finest
            Nebula: its typical brightness, 1 sigma of its logarithm, and its shortest wave, pixels.
        """
        peaks = np.minimum(3 * (rng.pareto(slope, stars) + 0.05), brightest)
        places = rng.uniform(-side / 2, side / 2, (stars, 2))
        length = np.exp(rng.uniform(np.log(finest), np.log(side), 120))
        angle, phase = rng.uniform(0, 2 * np.pi, (2, 120))
        amplitude = length**0.75
        amplitude *= contrast * np.sqrt(2) / np.sqrt(np.sum(amplitude**2))
        k = 2 * np.pi / length
        waves = np.stack([k * np.cos(angle), k * np.sin(angle), amplitude, phase], axis=1)
        return cls(np.column_stack([places, peaks * 2 * np.pi * 1.02**2]), waves, brightness)

    def seen(self, x: Array, y: Array, angle: float, width: float, halo: float) -> Array:
        """Return the mean over each pixel.

        Parameters
        ----------
        x, y
            (ny, nx) places of the pixels' centres on the plane.
        angle
            By which the exposure is turned, radians.
        width, halo
            1 sigma of the PSF, pixels, and the part of the light in its wide wings.
        """
        image = np.full(x.shape, self.base)
        if self.brightness:
            image += self._nebula(x, y, ((width, 1 - halo), (HALO, halo)))
        ny, nx = x.shape
        dx, dy = self.stars[:, 0] - x[0, 0], self.stars[:, 1] - y[0, 0]
        columns, rows = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        for sigma, part, reach in ((width, 1 - halo, REACH), (HALO, halo, 3 * REACH)):
            if part == 0:
                continue
            near = (abs(columns - nx / 2) < nx / 2 + reach + 1) & (abs(rows - ny / 2) < ny / 2 + reach + 1)
            stars = zip(*_shares(columns[near], sigma, reach), *_shares(rows[near], sigma, reach), strict=True)
            for flux, (left, across, bottom, up) in zip(self.stars[near, 2], stars, strict=True):
                a, b = max(left, 0), max(bottom, 0)
                c, d = min(left + 2 * reach + 1, nx), min(bottom + 2 * reach + 1, ny)
                if c > a and d > b:
                    image[b:d, a:c] += part * flux * up[b - bottom : d - bottom, None] * across[a - left : c - left]
        return image

    def _nebula(self, x: Array, y: Array, psf: tuple[tuple[float, float], ...]) -> Array:
        """Return the nebula through a PSF that is a sum of Gaussians: their 1 sigma and shares."""
        rim = 3 * REACH
        row, column = np.mgrid[-rim : x.shape[0] + rim, -rim : x.shape[1] + rim].astype(float)
        across, up = (
            axis[0, 0] + column * (axis[0, 1] - axis[0, 0]) + row * (axis[1, 0] - axis[0, 0]) for axis in (x, y)
        )
        exponent = np.zeros(row.shape)
        for kx, ky, amplitude, phase in self.waves:
            exponent += amplitude * np.cos(kx * across + ky * up + phase)
        light = self.brightness * np.exp(exponent)
        seen = sum(share * gaussian_filter(light, sigma) for sigma, share in psf if share)
        return np.asarray(seen)[rim:-rim, rim:-rim]


def _shares(centres: Array, sigma: float, reach: int) -> tuple[list[int], Array]:
    """Return the first of the pixels of each Gaussian in a row, and (n, 2 reach + 1) the part of it in each pixel."""
    first = np.round(centres).astype(int) - reach
    edges = (first[:, None] + np.arange(2 * reach + 2) - 0.5 - centres[:, None]) / (np.sqrt(2) * sigma)
    found: Array = 0.5 * np.diff(erf(edges), axis=1)
    return first.tolist(), found
