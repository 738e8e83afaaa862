"""The grid of a field: an unbounded tangent plane on which every cutout has an integer offset.

The grid is chosen such that a single exposure does not change it: position angle and scale are rounded medians, and the
tangent point is moved to the nearest point of a fixed lattice on the sky. A growing field keeps its grid as long as
:func:`serves` is true.
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Self

import numpy as np
import shapely
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import Field as Described

from levelmatch_core.errors import FieldTooWideError
from levelmatch_core.images.exposure import Exposure, Field
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.records import Record

MAX_WIDTH = 10.0
"""Largest width of a field on one tangent plane (degrees): pixels at the edge of a wider one would be stretched by more
than one per cent."""

MAX_DISTANCE = 6.0
"""An existing grid is kept while no part of the field is farther from its tangent point than this (degrees)."""

MAX_SCALE_RATIO = 1.2
"""An existing grid is kept while the median pixel scale differs from its own by less than this factor."""

LATTICE = 0.5
"""Spacing of the lattice of tangent points (degrees)."""

ANGLE_STEP = 5.0
"""Position angles are rounded to multiples of this (degrees)."""


Floats = NDArray[np.float64]


class Grid(Record):
    """An unbounded TAN grid of square pixels, with pixel (0, 0) centred on the tangent point."""

    ra: float = Described(description="right ascension of the tangent point, ICRS, degrees")
    dec: float = Described(description="declination of the tangent point, ICRS, degrees")
    angle: float = Described(description="position angle of the +y axis at the tangent point, degrees east of north")
    scale: float = Described(description="pixel size at the tangent point, arcsec", gt=0)

    @property
    def pixel_area(self) -> float:
        """Area of a pixel at the tangent point, arcsec2: the nominal pixel area of data that are matched per area."""
        return self.scale**2

    def wcs(self, x0: int = 0, y0: int = 0) -> WCS:
        """Return the WCS of the cutout whose first pixel is grid pixel (x0, y0).

        It is a new object each time, since wcslib's structures must not be shared between threads.
        """
        wcs = WCS(naxis=2)
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.crval = [self.ra, self.dec]
        wcs.wcs.crpix = [1.0 - x0, 1.0 - y0]
        wcs.wcs.cdelt = [-self.scale / 3600.0, self.scale / 3600.0]
        wcs.wcs.pc = [[cosine, -sine], [sine, cosine]]
        wcs.wcs.set()
        return wcs

    def to_sky(self, x: Floats, y: Floats) -> Floats:
        """Return (2, ...) right ascension and declination, ICRS degrees, of grid positions, as from :meth:`wcs`.

        The gnomonic projection (Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3) in terms of vectors. Unlike
        wcslib's structures it needs no set-up, and can be used by several threads.
        """
        cosine, sine, step = self._turn
        plane = np.stack([step * (sine * y - cosine * x), step * (sine * x + cosine * y), np.ones(np.shape(x))])
        px, py, pz = np.einsum("ij,i...->j...", _basis_at(self.ra, self.dec), plane)
        return np.stack([np.degrees(np.arctan2(py, px)) % 360.0, np.degrees(np.arctan2(pz, np.hypot(px, py)))])

    def to_pixel(self, ra: Floats, dec: Floats) -> Floats:
        """Return (2, ...) x and y of sky positions in ICRS degrees; NaN outside the hemisphere."""
        cosine, sine, step = self._turn
        ra, dec = np.radians(ra), np.radians(dec)
        across = np.cos(dec)
        vectors = np.stack([across * np.cos(ra), across * np.sin(ra), np.sin(dec)])
        xi, eta, depth = np.einsum("ij,j...->i...", _basis_at(self.ra, self.dec), vectors)
        depth = np.where(depth > 0.0, depth, np.nan) * step
        xi, eta = xi / depth, eta / depth
        return np.stack([sine * eta - cosine * xi, sine * xi + cosine * eta])

    @property
    def _turn(self) -> tuple[float, float, float]:
        """Cosine and sine of the angle, and the pixel size in radians."""
        # exactly at the north pole the default of LONPOLE is 0 instead of 180 degrees, which rotates the plane by 180
        # degrees
        angle = math.radians(self.angle + (180.0 if self.dec >= 90.0 else 0.0))
        return math.cos(angle), math.sin(angle), math.radians(self.scale / 3600.0)

    def header_cards(self, x0: int = 0, y0: int = 0) -> dict[str, Any]:
        """Return the full WCS as FITS cards, with the four numbers that :meth:`from_header_cards` reads."""
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        return {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "RADESYS": "ICRS",
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CRPIX1": 1.0 - x0,
            "CRPIX2": 1.0 - y0,
            "CDELT1": -self.scale / 3600.0,
            "CDELT2": self.scale / 3600.0,
            "PC1_1": cosine,
            "PC1_2": -sine,
            "PC2_1": sine,
            "PC2_2": cosine,
            "LVLANGLE": self.angle,
            "LVLSCALE": self.scale,
        }

    @classmethod
    def from_header_cards(cls, cards: Mapping[str, Any]) -> Self:
        """Return the grid, exact to the last digit, from the cards that :meth:`header_cards` returned."""
        return cls(
            ra=float(cards["CRVAL1"]),
            dec=float(cards["CRVAL2"]),
            angle=float(cards["LVLANGLE"]),
            scale=float(cards["LVLSCALE"]),
        )


def choose_grid(field: Field) -> Grid:
    """Choose the grid of a field.

    Parameters
    ----------
    field
        With at least one exposure, which has footprint, scale and angle.

    Returns
    -------
    Grid
        Angle: the median of the exposures' position angles, transported to the tangent point along great circles,
        modulo 90 degrees and rounded to 5 degrees, in [-45, 45). Scale: the median pixel scale, with 3 significant
        digits. Tangent point: the lattice point nearest to the median of the exposures' directions. The order of the
        exposures does not matter.

    Raises
    ------
    FieldTooWideError
        If two points of the field are more than 10 degrees apart.
    """
    centres = [centre_of(exposure) for exposure in field.exposures]
    width = width_of(field)
    if not width <= MAX_WIDTH:
        found = f"{width:.1f} degrees wide" if math.isfinite(width) else "spread over more than one hemisphere"
        message = (
            f"{field.title}: {len(field.exposures)} exposures are {found}, more than the {MAX_WIDTH:.0f} degrees "
            f"that fit on one tangent plane: {_way_out(field)}"
        )
        raise FieldTooWideError(message)
    ra, dec = snap(_median_direction(centres))
    basis = _tangent_basis(unit_vectors([(ra, dec)])[0])
    angles = [_angle_at(basis, centre, one.angle) for centre, one in zip(centres, field.exposures, strict=True)]
    return Grid(ra=ra, dec=dec, angle=_rounded_angle(angles), scale=rounded_scale(field))


def width_of(field: Field) -> float:
    """Return the largest distance (degrees) between two points of a field; infinite beyond a hemisphere."""
    corners = np.concatenate([unit_vectors(exposure.footprint) for exposure in field.exposures])
    return _width(corners, _median_direction([centre_of(exposure) for exposure in field.exposures]))


def _way_out(field: Field) -> str:
    """Return a hint for a field that is too wide: using fewer files helps only if each image is small."""
    widths = {}
    for exposure in field.exposures:
        corners = unit_vectors(exposure.footprint)
        widths[exposure.name] = float(_separation(corners, centre_of(exposure)).max()) * 2.0
    widest = max(widths, key=lambda name: widths[name])
    if widths[widest] > MAX_WIDTH / 2:
        return (
            f"{widest} alone spans {widths[widest]:.1f} degrees; check the pixel scale of its WCS, or divide the "
            f"images into smaller ones"
        )
    return "match the field in parts, with fewer files at a time"


def serves(grid: Grid, field: Field) -> bool:
    """Return whether an existing grid can be kept for this field.

    It is kept while all footprints lie within 6 degrees of its tangent point and the median pixel scale within 20 %.
    """
    corners = np.concatenate([unit_vectors(exposure.footprint) for exposure in field.exposures])
    tangent = unit_vectors([(grid.ra, grid.dec)])[0]
    return bool(np.all(_separation(corners, tangent) <= MAX_DISTANCE)) and keeps_scale(grid, field)


def keeps_scale(grid: Grid, field: Field) -> bool:
    """Return whether the median pixel scale of a field is within 20 % of that of an existing grid."""
    return 1.0 / MAX_SCALE_RATIO < rounded_scale(field) / grid.scale < MAX_SCALE_RATIO


def _separation(vectors: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles (degrees) between unit vectors and a centre, accurate for small and large angles."""
    chord = np.linalg.norm(vectors - centre, axis=1)
    return np.degrees(2.0 * np.arcsin(np.minimum(chord / 2.0, 1.0)))


def _normalised(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else np.array([0.0, 0.0, 1.0])


def centre_of(exposure: Exposure) -> NDArray[np.float64]:
    """Return the unit vector of the middle of an exposure's corners."""
    return _normalised(unit_vectors(exposure.footprint).mean(axis=0))


def _median_direction(directions: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    return _normalised(np.median(np.stack(list(directions)), axis=0))


def _tangent_basis(tangent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit vectors east, north and outward at a point, as rows; at a pole those of right ascension 0."""
    x, y, z = tangent
    horizontal = math.hypot(x, y)
    # below 1e-12 the point is the pole (cos 90 degrees is 6e-17 in doubles)
    east = np.array([-y, x, 0.0]) / horizontal if horizontal > 1e-12 else np.array([0.0, 1.0, 0.0])
    ex, ey, _ = east
    return np.array([east, (-z * ey, z * ex, x * ey - y * ex), tangent])


@lru_cache(maxsize=64)
def _basis_at(ra: float, dec: float) -> NDArray[np.float64]:
    basis = _tangent_basis(unit_vectors([(ra, dec)])[0])
    basis.flags.writeable = False
    return basis


def _width(corners: NDArray[np.float64], centre: NDArray[np.float64]) -> float:
    """Return the largest distance (degrees) between two points; infinite if they extend over more than a hemisphere."""
    radius = float(_separation(corners, centre).max())
    if 2.0 * radius <= MAX_WIDTH:
        return 2.0 * radius
    if radius >= 80.0:
        return math.inf
    plane = corners @ _tangent_basis(centre).T
    hull = shapely.convex_hull(shapely.multipoints(plane[:, :2] / plane[:, 2:]))
    edge = shapely.get_coordinates(hull)
    directions = np.column_stack([edge, np.ones(len(edge))]) @ _tangent_basis(centre)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return max(float(_separation(directions, one).max()) for one in directions)


def snap(direction: NDArray[np.float64]) -> tuple[float, float]:
    """Return RA and Dec of the nearest lattice point, in rows of constant declination with even steps."""
    dec = LATTICE * round(math.degrees(math.atan2(direction[2], math.hypot(direction[0], direction[1]))) / LATTICE)
    points = max(1, round(360.0 * math.cos(math.radians(dec)) / LATTICE))
    ra = math.degrees(math.atan2(direction[1], direction[0])) % 360.0
    return (round(ra * points / 360.0) % points) * 360.0 / points, dec


def _angle_at(basis: NDArray[np.float64], centre: NDArray[np.float64], angle: float) -> float:
    """Return the angle (degrees, east of north at the tangent point) of a direction elsewhere, on the tangent plane.

    This is the derivative of the gnomonic projection (xi, eta) = (v.east, v.north) / v.outward along the direction.
    Near a pole, position angles rotate with right ascension; on the tangent plane they do not.
    """
    east, north, _ = _tangent_basis(centre)
    along = math.cos(math.radians(angle)) * north + math.sin(math.radians(angle)) * east
    xi, eta, depth = basis @ centre
    dxi, deta, ddepth = basis @ along
    return math.degrees(math.atan2(dxi * depth - xi * ddepth, deta * depth - eta * ddepth))


def _rounded_angle(angles: Iterable[float]) -> float:
    """Return the circular median modulo 90, rounded to 5 degrees, in [-45, 45)."""
    turned = [math.radians(4.0 * angle) for angle in angles]
    mean = math.degrees(math.atan2(math.fsum(map(math.sin, turned)), math.fsum(map(math.cos, turned)))) / 4.0
    deviations = [(math.degrees(angle) / 4.0 - mean + 45.0) % 90.0 - 45.0 for angle in turned]
    # nine digits, so that rounding errors do not decide ties
    median = round(mean + float(np.median(deviations)), 9)
    return float((ANGLE_STEP * round(median / ANGLE_STEP) + 45.0) % 90.0 - 45.0)


def rounded_scale(field: Field) -> float:
    """Return the median pixel scale, with 3 significant digits."""
    return float(f"{np.median([exposure.scale for exposure in field.exposures]):.3g}")
