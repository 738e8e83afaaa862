"""A WCS of any kind as FITS's TAN-SIP: polynomials fitted to a lattice of points, and tried between them.

SIP: Shupe et al. 2005, ASP Conf. Ser. 347, 491. The tangent point is the position of the middle pixel, so that the
linear part and the polynomials follow from one linear least-squares fit of the plane's coordinates.
"""

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import NoWcsError
from levelmatch_core.images.fits_headers import quiet
from levelmatch_core.images.wcs.transforms import AnyWcs, Floats, sky_transforms

DEGREE = 5
"""Degree of the polynomials."""

LARGEST_ERROR = 0.02
"""Largest error, pixels: beyond it levels would feel the misplacement."""

_LATTICE = 24
"""Points along each side."""


def sip_header(wcs: AnyWcs, shape: tuple[int, int]) -> fits.Header:
    """Return a celestial WCS as the cards of a TAN-SIP.

    Parameters
    ----------
    wcs
        FITS with any distortions, or of APE 14, such as gwcs.
    shape
        Rows, columns of the image.

    Raises
    ------
    NoWcsError
        If it is not celestial, gives no position to a pixel, or is too far from polynomials.
    """
    to_sky, _ = sky_transforms(wcs)
    along, up = (np.linspace(0.0, size - 1.0, _LATTICE) for size in (shape[1], shape[0]))
    middle = np.array([(shape[1] - 1) // 2, (shape[0] - 1) // 2], dtype=float)
    points = _lattice(along, up)
    sky, centre = to_sky(*points), to_sky(*middle[:, None])[:, 0]
    if not (np.all(np.isfinite(sky)) and np.all(np.isfinite(centre))):
        message = "its WCS gives no position to some pixels; expected one for each"
        raise NoWcsError(message)
    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.crval = ["RA---TAN", "DEC--TAN"], centre
    plane.wcs.cdelt, plane.wcs.crpix = [1.0, 1.0], [1.0, 1.0]
    half = max(shape) / 2
    u, v = (points - middle[:, None]) / half
    powers = [(p, q) for p in range(DEGREE + 1) for q in range(DEGREE + 1 - p)]
    terms = np.stack([u**p * v**q for p, q in powers], axis=1)
    with quiet():
        xi = np.stack(plane.wcs_world2pix(*sky, 0), axis=1)
        found = np.linalg.lstsq(terms, xi, rcond=None)[0]
        fitted = WCS(_header(dict(zip(powers, found, strict=True)), half, centre, middle))
        between = _lattice((along[1:] + along[:-1]) / 2, (up[1:] + up[:-1]) / 2)
        apart = np.stack(plane.wcs_world2pix(*to_sky(*between), 0)) - np.stack(
            plane.wcs_world2pix(*fitted.all_pix2world(*between, 0), 0)
        )
    scale = np.sqrt(abs(np.linalg.det(fitted.wcs.cd)))
    error = float(np.max(np.hypot(*apart)) / scale)
    if not error <= LARGEST_ERROR:
        message = (
            f"its WCS, a {type(getattr(wcs, 'low_level_wcs', wcs)).__name__}, is up to {error:.2g} pixels off as SIP "
            f"polynomials, expected {LARGEST_ERROR}; give the file that it came with (wcs_source = 'gwcs')"
        )
        raise NoWcsError(message)
    return fitted.to_header(relax=True)


def _lattice(x: Floats, y: Floats) -> Floats:
    """Return (2, N) all points of two axes."""
    return np.array([one.ravel() for one in np.meshgrid(x, y)])


def _header(found: dict[tuple[int, int], Floats], half: float, centre: Floats, middle: Floats) -> fits.Header:
    """Return the cards of polynomials (degrees on the tangent plane) in units of `half` an image."""
    linear = np.stack([found[1, 0], found[0, 1]], axis=1) / half
    inverse = np.linalg.inv(linear)
    moved = inverse @ found[0, 0]  # what is left at the middle: a tiny part of a pixel
    header = fits.Header()
    for axis, name in enumerate(("RA---TAN-SIP", "DEC--TAN-SIP")):
        header[f"CTYPE{axis + 1}"], header[f"CUNIT{axis + 1}"] = name, "deg"
        header[f"CRVAL{axis + 1}"], header[f"CRPIX{axis + 1}"] = (
            float(centre[axis]),
            float(middle[axis] - moved[axis]) + 1,
        )
        for other in range(2):
            header[f"CD{axis + 1}_{other + 1}"] = float(linear[axis, other])
    header["RADESYS"] = "ICRS"
    for row, letter in enumerate("AB"):
        header[f"{letter}_ORDER"] = DEGREE
        for (p, q), value in found.items():
            if p + q >= 2:
                header[f"{letter}_{p}_{q}"] = float((inverse @ value)[row]) / half ** (p + q)
    return header
