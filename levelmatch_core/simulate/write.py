"""Simulation of a program's exposures, and writing of the FITS files."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.simulate.program import (
    LYOT_COLUMNS,
    LYOT_FIRST_ROW,
    ProgramLayout,
    Shot,
    SimulatedProgram,
    generator,
    program_layout,
    shots,
)
from levelmatch_core.simulate.sky import Sky, make_sky
from levelmatch_core.simulate.survey import SkySurvey, SurveySky, survey_file, survey_shots
from levelmatch_core.simulate.truth import TrueExposure, Truth
from levelmatch_core.sky.plane import Plane

DO_NOT_USE = 1 << 0
NON_SCIENCE = 1 << 9
REFERENCE_PIXEL = 1 << 31
"""Bits of the JWST pipeline's DQ flags (its reference table 'DQ flags'); the last needs all 32 bits."""

_WILD = (1e6, -1e5, np.nan)
_BLANK_COLUMNS = 4  # on each side: exact zeros, like a detector's reference pixels
_VIGNETTED_ROWS = 6  # at the bottom: flagged NON_SCIENCE only, with a glow that must not be used
_GLOW = 1e3
_LYOT_FRAME = 4  # pixels on either side of the window's border


def simulate(folder: Path, program: SimulatedProgram) -> Truth:
    """Write a program's exposures and `truth.json`.

    Parameters
    ----------
    folder
        Created if it does not exist; must be empty.
    program
        The program to simulate. The same program gives the same bytes.

    Returns
    -------
    The truth, as returned by :meth:`Truth.load` for the folder.

    Raises
    ------
    OutputFolderError
        If the folder is not empty, or cannot be created.
    """
    _make_empty(folder)
    sky = make_sky(program)
    exposures: list[TrueExposure] = []
    for shot in shots(program):
        parts = _true_exposures(program, shot)
        _hdus(program, shot, parts, sky).writeto(folder / shot.file)
        exposures.extend(parts)
    truth = Truth(program=program, exposures=tuple(sorted(exposures, key=lambda each: each.name)))
    truth.save(folder)
    return truth


def simulate_survey(folder: Path, survey: SkySurvey) -> Truth:
    """Write the exposures of a survey and `truth.json`.

    Parameters
    ----------
    folder
        Created if it does not exist; must be empty.
    survey
        The survey to simulate. The same survey gives the same bytes.

    Returns
    -------
    The truth, as returned by :meth:`Truth.load` for the folder.

    Raises
    ------
    OutputFolderError
        If the folder is not empty, or cannot be created.
    """
    _make_empty(folder)
    sky = SurveySky(survey)
    exposures = []
    for shot in survey_shots(survey):
        survey_file(survey, shot, sky).writeto(folder / shot.file)
        name, tile, shape = shot.file, shot.file.removesuffix(".fits"), (survey.size, survey.size)
        exposures.append(
            TrueExposure(name=name, file=name, tile=tile, detector="", shape=shape, window=None, plane=shot.plane)
        )
    truth = Truth(program=survey, exposures=tuple(exposures))
    truth.save(folder)
    return truth


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holds = next(folder.iterdir(), None)
    except OSError as error:
        message = f"{folder}: cannot be created for the simulated files ({error}); choose another folder"
        raise OutputFolderError(message) from error
    if holds is not None:
        message = f"{folder}: contains {holds.name}, expected an empty folder; choose another folder, or empty it"
        raise OutputFolderError(message)


# -- truth -------------------------------------------------------------------------------------------------------------
def _true_exposures(program: SimulatedProgram, shot: Shot) -> tuple[TrueExposure, ...]:
    """Return the sum of planes added to each part of an exposure: of its tile, of its chip or window, and its own."""
    ny, nx = shot.shape
    centre = ((nx - 1) / 2, (ny - 1) / 2)
    tile = _plane(program, program.level_sd, program.slope, centre, "tile", shot.tile_index)
    many_chips = len(program_layout(program).chips) > 1
    exposures = []
    for suffix, window in shot.windows.items():
        own = _plane(program, program.dither_level_sd, program.dither_slope, centre, "exposure", shot.file, suffix)
        plane = tile + own
        if many_chips or (window is not None and window.inside):
            middle = centre
            if window is not None:
                middle = (sum(window.columns) - 1) / 2, (sum(window.rows) - 1) / 2
            part = _plane(program, program.part_level_sd, program.dither_slope, middle, "part", shot.tile, suffix)
            plane = plane + part
        exposures.append(
            TrueExposure(
                name=shot.file + suffix,
                file=shot.file,
                tile=shot.tile,
                detector=shot.detector,
                shape=shot.shape,
                window=window,
                plane=plane,
            )
        )
    return tuple(exposures)


def _plane(
    program: SimulatedProgram, level_sd: float, slope: float, centre: tuple[float, float], *purpose: object
) -> Plane:
    rng = generator(program.seed, "plane", *purpose)
    level, slope_x, slope_y = (float(value) for value in rng.standard_normal(3))
    steepness = slope / program.size if program.planes else 0.0
    return Plane(
        level=level_sd * level,
        slope_x=steepness * slope_x,
        slope_y=steepness * slope_y,
        x0=centre[0],
        y0=centre[1],
    )


# -- pixels ------------------------------------------------------------------------------------------------------------
def _hdus(program: SimulatedProgram, shot: Shot, parts: tuple[TrueExposure, ...], sky: Sky) -> fits.HDUList:
    layout = program_layout(program)
    image = sky.on(shot.wcs, shot.shape)
    rows, columns = np.indices(shot.shape, sparse=True)
    for part in parts:
        image += np.where(inside(part), part.plane(columns, rows), 0.0)
    image += program.noise * generator(program.seed, "noise", shot.file).standard_normal(shot.shape)
    dq = _flaws(program, shot, image, layout)
    header = shot.wcs.to_header(relax=True)
    header["BUNIT"] = (layout.unit, "unit of the data")
    primary = fits.PrimaryHDU()
    _fill_primary(primary.header, program, layout, shot)
    data = image.astype(program.dtype)
    if not layout.jwst:
        primary.header.update(header)
        primary.data = data
        return fits.HDUList([primary])
    hdus = [primary, fits.ImageHDU(data, header, name="SCI")]
    if program.errors:
        hdus += [_error_hdu("ERR", data, program.noise, layout.unit)]
    hdus += [fits.ImageHDU(dq, name="DQ")]
    if program.errors:
        # Arbitrary fractions of the variance, which add up to the square of ERR.
        shares = {"VAR_POISSON": 0.39, "VAR_RNOISE": 0.6, "VAR_FLAT": 0.01}
        hdus += [
            _error_hdu(name, data, share * program.noise**2, f"({layout.unit})2") for name, share in shares.items()
        ]
    hdus += [_foreign_hdu(program, shot)]
    return fits.HDUList(hdus)


def inside(part: TrueExposure) -> NDArray[np.bool_]:
    """Return a mask of the pixels of the image that belong to an exposure."""
    if part.window is None:
        return np.ones(part.shape, dtype=bool)
    mask = np.zeros(part.shape, dtype=bool)
    mask[slice(*part.window.rows), slice(*part.window.columns)] = True
    return mask if part.window.inside else ~mask


def _flaws(
    program: SimulatedProgram, shot: Shot, image: NDArray[np.float64], layout: ProgramLayout
) -> NDArray[np.uint32]:
    """Insert bad pixels in place, and return the DQ array that flags them. Images without DQ get NaN only."""
    rng = generator(program.seed, "flaws", shot.file)
    bad = rng.random(shot.shape) < program.bad_pixel_fraction
    dq = np.zeros(shot.shape, dtype=np.uint32)
    if not layout.jwst:
        image[bad] = np.nan
        return dq
    image[bad] = rng.choice(_WILD, np.count_nonzero(bad))
    dq[bad] |= DO_NOT_USE
    image[:_VIGNETTED_ROWS] += _GLOW
    dq[:_VIGNETTED_ROWS] |= NON_SCIENCE
    for window in shot.windows.values():
        if window is not None:
            inner = np.zeros(shot.shape, dtype=bool)
            outer = inner.copy()
            inner[LYOT_FIRST_ROW + _LYOT_FRAME :, : LYOT_COLUMNS - _LYOT_FRAME] = True
            outer[LYOT_FIRST_ROW - _LYOT_FRAME :, : LYOT_COLUMNS + _LYOT_FRAME] = True
            dq[outer & ~inner] |= NON_SCIENCE
    for edge in (slice(0, _BLANK_COLUMNS), slice(-_BLANK_COLUMNS, None)):
        image[:, edge] = 0.0
        dq[:, edge] |= NON_SCIENCE | REFERENCE_PIXEL
    return dq


# -- files -------------------------------------------------------------------------------------------------------------
def _fill_primary(header: fits.Header, program: SimulatedProgram, layout: ProgramLayout, shot: Shot) -> None:
    for keyword, value in layout.cards.items():
        header[keyword] = value
    if shot.detector:
        header["DETECTOR"] = shot.detector
        header["FILENAME"] = shot.file
    header["ORIGIN"] = ("levelmatch simulate", "not a real observation")
    if program.background_times:
        # The last tile but one is closest in time to its backgrounds, before or after.
        n_tiles = program.tiles[0] * program.tiles[1]
        nearest = max(n_tiles - 2, 0)
        header["DT_BGR"] = (round(0.02 * (nearest - shot.tile_index) - 0.003, 6), "[d] time since the backgrounds")


def _error_hdu(name: str, data: NDArray[np.floating], value: float, unit: str) -> fits.ImageHDU:
    hdu = fits.ImageHDU(np.where(np.isnan(data), np.nan, value).astype(np.float32), name=name)
    hdu.header["BUNIT"] = unit
    return hdu


def _foreign_hdu(program: SimulatedProgram, shot: Shot) -> fits.BinTableHDU:
    """Return a table of bytes like the metadata of JWST files, which has to be preserved in copies of the file."""
    content = generator(program.seed, "foreign", shot.file).bytes(1000)
    column = fits.Column(name="ASDF_METADATA", format="1000B", array=np.frombuffer(content, np.uint8)[None, :])
    return fits.BinTableHDU.from_columns([column], name="ASDF")
