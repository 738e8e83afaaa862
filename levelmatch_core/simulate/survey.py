"""A simulated survey of the whole sky with known levels: exposures in a spiral from pole to pole, a nebula, noise.

All numbers of an exposure depend on the seed and on its number only. The sky is a smooth function of the direction,
which is evaluated at every pixel, so that no resampling is part of the truth.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import Field as Described
from pydantic import ValidationError

from levelmatch_core.errors import UsageError
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.records import Record
from levelmatch_core.simulate.program import generator, tangent_wcs
from levelmatch_core.sky.plane import Plane

Array = NDArray[np.float64]

SPHERE = 360.0**2 / math.pi
"""Area of the sky, square degrees."""

GOLDEN_ANGLE = 180.0 * (3.0 - math.sqrt(5.0))
"""Degrees in right ascension from one exposure to the next: their spiral then covers the sphere evenly."""

POLE = (266.4, -28.9)
"""RA and Dec (degrees) of a pole of the great circle along which the nebula lies."""

WAVES = 24
"""Number of plane waves that make the nebula uneven."""


class SkySurvey(Record):
    """A simulated survey of the whole sky. Levels and noise are in the data's unit."""

    kind: Literal["survey"] = "survey"
    exposures: int = Described(default=5000, ge=12, le=99999, description="number of exposures that cover the sky")
    first: int | None = Described(
        default=None, ge=1, description="how many are made, from the south pole on; None: all of them"
    )
    size: int = Described(default=128, ge=32, description="rows and columns of an image")
    coverage: float = Described(default=1.5, gt=1, le=10, description="area of all exposures over that of the sky")
    seed: int = Described(default=0, ge=0)
    noise: float = Described(default=0.1, ge=0, description="1 sigma of the white noise")
    level_sd: float = Described(default=10.0, ge=0, description="1 sigma of the levels")
    slope_sd: float = Described(
        default=0.0, ge=0, description="1 sigma of the slopes along rows and columns, from the middle to the edge"
    )
    nebula: float = Described(default=20.0, ge=0, description="brightness of the nebula at its ridge")
    turn: float = Described(default=5.0, ge=0, description="1 sigma of the position angles about north, degrees")

    @classmethod
    def of(cls, **options: object) -> Self:
        """Return the survey with a user's options.

        Raises
        ------
        UsageError
            If an option is unknown, has the wrong type, or is out of range.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
            message = f"simulated survey: {'; '.join(lines)}"
            raise UsageError(message) from error

    @property
    def width(self) -> float:
        """Side of an exposure, degrees."""
        return math.sqrt(self.coverage * SPHERE / self.exposures)

    @property
    def made(self) -> int:
        """Number of exposures that are made."""
        return self.exposures if self.first is None else min(self.first, self.exposures)


@dataclass(frozen=True)
class SurveyShot:
    """One exposure of a survey."""

    number: int
    file: str
    wcs: WCS
    plane: Plane
    """What is added to its sky."""


def survey_shots(survey: SkySurvey) -> Iterator[SurveyShot]:
    """Yield the exposures of a survey, from the south pole on."""
    scale = 3600.0 * survey.width / survey.size
    middle = (survey.size - 1) / 2
    for number in range(survey.made):
        dec = math.degrees(math.asin((2 * number + 1) / survey.exposures - 1.0))
        ra = number * GOLDEN_ANGLE % 360.0
        draw = generator(survey.seed, "survey", number).standard_normal(4)
        wcs = tangent_wcs((ra, dec), (survey.size, survey.size), scale, survey.turn * float(draw[0]))
        slopes = (draw[2:] * survey.slope_sd / (survey.size / 2)).tolist()
        plane = Plane(
            level=survey.level_sd * float(draw[1]), slope_x=slopes[0], slope_y=slopes[1], x0=middle, y0=middle
        )
        yield SurveyShot(number, f"sky_{number + 1:05d}.fits", wcs, plane)


@dataclass(frozen=True)
class SurveySky:
    """The sky of a survey, without stars."""

    survey: SkySurvey

    @cached_property
    def _waves(self) -> tuple[Array, Array, Array]:
        draw = generator(self.survey.seed, "waves")
        directions = draw.standard_normal((WAVES, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # wavelengths from 60 degrees to three exposures
        shortest = math.radians(3 * self.survey.width)
        lengths = np.geomspace(1.0, min(shortest, 1.0), WAVES)
        return directions * (2 * math.pi / lengths)[:, None], draw.uniform(0, 2 * math.pi, WAVES), lengths

    def on(self, wcs: WCS, shape: tuple[int, int]) -> Array:
        """Return the sky at the centres of an image's pixels, data unit."""
        rows, columns = np.indices(shape, dtype=float)
        ra, dec = wcs.wcs_pix2world(columns.ravel(), rows.ravel(), 0)
        vectors = unit_vectors(np.stack([ra, dec], axis=-1))
        height = vectors @ unit_vectors([POLE])[0]
        wide = math.sin(math.radians(max(8.0, 2 * self.survey.width)))
        vector, phase, amplitude = self._waves
        uneven = np.zeros(len(vectors))
        for one in range(WAVES):
            uneven += amplitude[one] * np.sin(vectors @ vector[one] + phase[one])
        uneven /= math.sqrt(float(np.sum(amplitude**2)) / 2)
        sky = self.survey.nebula * np.exp(-((height / wide) ** 2) / 2) * np.exp(0.3 * uneven) + uneven
        return np.asarray(sky.reshape(shape))


def survey_file(survey: SkySurvey, shot: SurveyShot, sky: SurveySky) -> fits.HDUList:
    """Return the file of an exposure."""
    shape = (survey.size, survey.size)
    y, x = np.indices(shape, dtype=float)
    image = sky.on(shot.wcs, shape) + shot.plane(x, y)
    image += survey.noise * generator(survey.seed, "survey noise", shot.number).standard_normal(shape)
    primary = fits.PrimaryHDU(image.astype(np.float32), shot.wcs.to_header())
    primary.header["BUNIT"] = ("MJy/sr", "unit of the data")
    primary.header["FILTER"] = "k"
    primary.header["ORIGIN"] = ("levelmatch simulate", "not a real observation")
    return fits.HDUList([primary])
