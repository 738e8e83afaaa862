"""JWST files as its pipeline writes them: by stdatamodels, with a gwcs of polynomial distortion in the ASDF extension
and its SIP approximation in the header. The sky is painted by the gwcs, which therefore is the truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy import coordinates
from astropy import units as u
from astropy.modeling import models

from levelmatch_core.simulate.program import SimulatedProgram, generator, shots
from levelmatch_core.simulate.sky import make_sky

QUADRATIC = 4.0
"""Pixels by which the distortion moves a corner."""


class Painted:
    """What the simulated sky asks of a WCS, answered by a gwcs."""

    def __init__(self, gwcs, plain):
        self.gwcs, self.plain = gwcs, plain

    def all_pix2world(self, x, y, _origin):
        return self.gwcs(x, y, with_bounding_box=False)

    def wcs_world2pix(self, ra, dec, origin):
        return self.plain.wcs_world2pix(ra, dec, origin)


def gwcs_of(plain, shape, amplitude=QUADRATIC):
    """Return a gwcs: polynomial distortion about the centre, then the plain WCS's matrix and tangent plane."""
    from gwcs import WCS
    from gwcs import coordinate_frames as frames

    ny, nx = shape
    centre = plain.wcs.crpix - 1
    half = max(nx, ny) / 2
    bend = amplitude / half**2
    shift = models.Shift(-centre[0]) & models.Shift(-centre[1])
    polynomial = models.Mapping((0, 1, 0, 1)) | (
        models.Polynomial2D(3, c1_0=1, c2_0=bend, c1_1=-0.5 * bend, c0_3=0.1 * bend / half)
        & models.Polynomial2D(3, c0_1=1, c1_1=0.7 * bend, c0_2=-0.6 * bend, c3_0=0.1 * bend / half)
    )
    # the way back is a fit, good to some hundredths of a pixel, as in the pipeline's own files
    y, x = np.mgrid[-half:half:21j, -half:half:21j]
    there = polynomial(x, y)
    fit = lambda target: _fitted(*there, target)  # noqa: E731 - used twice, here
    polynomial.inverse = models.Mapping((0, 1, 0, 1)) | (fit(x) & fit(y))
    matrix = plain.pixel_scale_matrix
    sky = (
        models.AffineTransformation2D(matrix)
        | models.Pix2Sky_TAN()
        | models.RotateNative2Celestial(plain.wcs.crval[0], plain.wcs.crval[1], 180.0)
    )
    found = WCS(
        [
            (frames.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix)), shift | polynomial | sky),
            (frames.CelestialFrame(reference_frame=coordinates.ICRS(), name="world"), None),
        ]
    )
    found.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return found


def _fitted(x, y, target):
    terms = [(i, j) for i in range(4) for j in range(4 - i)]
    matrix = np.stack([(x**i * y**j).ravel() for i, j in terms], axis=1)
    scale = np.abs(matrix).max(axis=0)
    solved = np.linalg.lstsq(matrix / scale, target.ravel(), rcond=None)[0] / scale
    return models.Polynomial2D(3, **{f"c{i}_{j}": value for (i, j), value in zip(terms, solved, strict=True)})


def write_webb(
    folder: Path,
    program: SimulatedProgram,
    *,
    shift: Sequence[float] = (0.0, 0.0),
    suffix: str = "cal",
    background: dict | None = None,
) -> dict[str, float]:
    """Write a program's exposures as stdatamodels does, and return each file's true level.

    `shift` (pixels) moves what the header says, and not the gwcs: as where astrometry was mended in one of them only.
    """
    from stdatamodels.jwst import datamodels

    folder.mkdir(parents=True, exist_ok=True)
    sky = make_sky(program)
    levels = {}
    for shot in shots(program):
        gwcs = gwcs_of(shot.wcs, shot.shape)
        rng = generator(program.seed, "webb", shot.file)
        level = float(program.level_sd * generator(program.seed, "tile", shot.tile).standard_normal())
        level += float(program.dither_level_sd * rng.standard_normal())
        data = sky.on(Painted(gwcs, shot.wcs), shot.shape) + level + program.noise * rng.standard_normal(shot.shape)
        quality = np.zeros(shot.shape, np.uint32)
        quality[rng.random(shot.shape) < 0.01] = 1
        data[quality > 0] = 1e5
        model = datamodels.ImageModel(data=data.astype("f4"), dq=quality)
        model.err = np.full(shot.shape, program.noise, "f4")
        for name in ("var_poisson", "var_rnoise", "var_flat"):
            setattr(model, name, np.full(shot.shape, program.noise**2 / 3, "f4"))
        name = shot.file.replace("_cal", f"_{suffix}")
        _fill(model, shot, name)
        model.meta.wcs = gwcs
        header = gwcs.to_fits_sip(max_pix_error=0.01, max_inv_pix_error=0.01, degree=3, projection="TAN")
        _fill_wcs(model, header, shift)
        for key, value in (background or {}).items():
            setattr(model.meta.background, key, value)
        model.save(folder / name)
        levels[name] = level
    return levels


def _fill(model, shot, name):
    meta = model.meta
    meta.telescope, meta.filename = "JWST", name
    meta.instrument.name, meta.instrument.detector = "MIRI", "MIRIMAGE"
    meta.instrument.filter = "F770W"
    meta.exposure.type = "MIR_IMAGE"
    meta.observation.program_number, meta.observation.observation_number = shot.file[2:7], shot.file[7:10]
    meta.observation.visit_number = shot.file[10:13]
    meta.observation.date, meta.observation.time = "2024-01-01", "00:00:00.000"
    meta.bunit_data, meta.bunit_err = "MJy/sr", "MJy/sr"
    meta.subarray.name, meta.subarray.xstart, meta.subarray.ystart = "FULL", 1, 1
    meta.subarray.ysize, meta.subarray.xsize = shot.shape
    meta.exposure.exposure_time = meta.exposure.effective_exposure_time = 100.0
    meta.exposure.start_time, meta.exposure.end_time = 60310.0, 60310.001
    meta.photometry.pixelarea_steradians, meta.photometry.pixelarea_arcsecsq = 2.86e-13, 0.0121
    meta.cal_step.assign_wcs = "COMPLETE"


def _fill_wcs(model, header, shift):
    """Put the header's approximation where the pipeline puts it: into meta.wcsinfo."""
    info = model.meta.wcsinfo
    ra, dec = model.meta.wcs(*(size / 2 for size in model.data.shape[::-1]))
    info.ra_ref, info.dec_ref, info.v3yangle, info.vparity, info.roll_ref = float(ra), float(dec), 0.0, -1, 0.0
    corners = " ".join(f"{value:.9f}" for value in np.asarray(model.meta.wcs.footprint()).ravel())
    info.s_region = f"POLYGON ICRS  {corners}"
    cards = {name.lower(): value for name, value in header.items() if not name.startswith("NAXIS")}
    cards["crpix1"] += shift[0]
    cards["crpix2"] += shift[1]
    info.instance.update(cards)
