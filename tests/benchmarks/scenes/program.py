"""Observing programs over hard skies, as files, with the truth kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from tests.benchmarks.scenes.sky import Sky

Array = NDArray[np.float64]

SCALE = 0.11 / 3600
MIDDLE = (274.7, -13.8)


@dataclass(frozen=True)
class Scene:
    """What is seen, and what goes wrong."""

    sky: dict[str, Any] = field(default_factory=dict)
    """Arguments of :meth:`Sky.of`."""
    widths: tuple[float, ...] = (1.0,)
    """1 sigma of the PSF, pixels, of tile after tile."""
    halo: float = 0.0
    moved: float = 0.0
    """1 sigma of the error of each exposure's place, pixels."""
    hits: float = 0.0
    """Part of the pixels that cosmic rays hit."""
    saturated: float = np.inf
    gain: float = 0.0
    """1 sigma of the error of each exposure's gain."""
    noisy: int | None = None
    """An exposure of a hundred times the noise."""
    moving: float = 0.0
    """Brightness of a soft thing that moves by 6 pixels from exposure to exposure through the middle tile."""
    flat: float = 0.0
    """Error of the flat field, the same in all exposures."""
    glow: float = 0.0
    """Brightness of a glow in a corner of the detector, the same in all exposures."""
    tiles: tuple[int, int] = (3, 3)
    """Columns and rows of tiles."""
    dithers: int = 4
    overlap: float = 0.15


@dataclass(frozen=True)
class Truth:
    """One exposure as it is."""

    name: str
    level: float
    tile: int
    noise: Array
    """(ny, nx) noise and level alone, NaN where the file has it or a cosmic ray struck: what an oracle sees."""
    wcs: WCS


def write(scene: Scene, folder: Path, seed: int, *, size: int = 256) -> list[Truth]:
    """Write a mosaic of tiles, each with its dithers, and return the truth."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    (columns, rows), dithers = scene.tiles, scene.dithers
    step, spread = (1 - scene.overlap) * size, 10.0 if dithers > 1 else 1.0
    sky = Sky.of(rng, max(scene.tiles) * step + size, **scene.sky)
    turn = np.deg2rad(25.0)
    row, column = np.indices((size, size)).astype(float) - (size - 1) / 2
    found = []
    for tile in range(columns * rows):
        common = rng.normal(0, 1.0)
        for dither in range(dithers):
            number = tile * dithers + dither
            ox = (tile % columns - (columns - 1) / 2) * step + rng.uniform(-spread, spread)
            oy = (tile // columns - (rows - 1) / 2) * step + rng.uniform(-spread, spread)
            angle = turn + np.deg2rad(rng.normal(0, 0.05))
            x = ox * np.cos(turn) - oy * np.sin(turn) + column * np.cos(angle) - row * np.sin(angle)
            y = ox * np.sin(turn) + oy * np.cos(turn) + column * np.sin(angle) + row * np.cos(angle)
            wrong = rng.normal(0, scene.moved, 2) if scene.moved else np.zeros(2)
            width = scene.widths[tile % len(scene.widths)]
            clean = sky.seen(x + wrong[0], y + wrong[1], angle, width, scene.halo)
            if scene.moving:
                at = 6.0 * (number - columns * rows * dithers / 2)
                clean += scene.moving * np.exp(-((x - at) ** 2 + (y - 20) ** 2) / (2 * 15.0**2))
            sigma = np.sqrt(0.05**2 + clean / 600)
            noise = rng.normal(size=clean.shape) * sigma * (100 if number == scene.noisy else 1)
            level = common + rng.normal(0, 0.1)
            data = clean * (1 + rng.normal(0, scene.gain)) + noise + level
            if scene.flat or scene.glow:
                data += _detector(clean, 2 * column / size, 2 * row / size, scene)
            bad = (rng.random(clean.shape) < 0.002) | (clean > scene.saturated)
            oracle = np.where(bad, np.nan, noise + level)
            if scene.hits:
                hit = rng.random(clean.shape) < scene.hits
                hit |= np.roll(hit, 1, axis=0) & (rng.random(clean.shape) < 0.5)
                data[hit] += 2 * rng.pareto(1.0, int(hit.sum())) + 0.5
                oracle[hit] = np.nan
            data[bad] = np.nan
            wcs = _wcs(x[0, 0], y[0, 0], angle, size)
            name = f"jw02107{tile + 1:03d}001_02101_{dither + 1:05d}_mirimage_cal.fits"
            _write(folder / name, data, np.where(bad, np.nan, sigma), wcs, number)
            found.append(Truth(name, level, tile, oracle, wcs))
    return found


def _detector(clean: Array, u: Array, v: Array, scene: Scene) -> Array:
    """Return what a flat field and a glow add; u and v are -1 to 1 over the detector."""
    flat = 0.7 * u - 0.5 * v + 0.4 * u * v + 0.3 * np.sin(5 * u)
    return np.asarray(scene.flat * clean * flat + scene.glow * np.exp(-((u - 0.9) ** 2 + (v - 0.8) ** 2) / 0.35))


def _wcs(x: float, y: float, angle: float, size: int) -> WCS:
    """Return the WCS of an exposure of which the first pixel is at (x, y) of the plane."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], ["deg", "deg"], MIDDLE
    cosine, sine = np.cos(angle), np.sin(angle)
    wcs.wcs.crpix = [1 - (x * cosine + y * sine), 1 - (y * cosine - x * sine)]
    wcs.wcs.cd = SCALE * np.array([[-cosine, sine], [sine, cosine]])
    wcs.wcs.set()
    del size
    return wcs


def _write(path: Path, data: Array, error: Array, wcs: WCS, number: int) -> None:
    """Write an image as the pipeline of JWST has it."""
    first = fits.PrimaryHDU()
    first.header.update(
        TELESCOP="JWST", INSTRUME="MIRI", DETECTOR="MIRIMAGE", FILTER="F770W", EXP_TYPE="MIR_IMAGE", SUBARRAY="FULL"
    )
    first.header["FILENAME"], first.header["EXPSTART"] = path.name, 60000 + 0.01 * number
    header = wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    planes = [
        fits.ImageHDU(data.astype(np.float32), header, name="SCI"),
        fits.ImageHDU(error.astype(np.float32), fits.Header({"BUNIT": "MJy/sr"}), name="ERR"),
        fits.ImageHDU(np.isnan(data).astype(np.uint32), name="DQ"),
    ]
    fits.HDUList([first, *planes]).writeto(path)


SCENES = {
    "plain": Scene(),
    "sharp nebula": Scene({"brightness": 8.0, "contrast": 1.5, "finest": 5.0}),
    "undersampled crowd": Scene({"stars": 60000}, (0.47,), 0.03),
    "crowd, a PSF a tile": Scene({"stars": 60000}, (0.47, 0.6, 0.53), 0.03),
    "nebula, a PSF a tile": Scene({"brightness": 8.0, "contrast": 1.5, "finest": 5.0, "stars": 4000}, (1.0, 1.3, 1.15)),
    "misregistered": Scene({"stars": 20000, "brightness": 4.0, "contrast": 1.3}, moved=0.15),
    "saturated": Scene({"stars": 3000, "slope": 0.6, "brightest": 3e4}, halo=0.08, saturated=300),
    "cosmic rays": Scene(hits=0.02),
    "one noisy": Scene(noisy=14),
    "gain 0.5 %": Scene({"brightness": 4.0, "contrast": 1.3}, gain=0.005),
    "crowd, gain 0.3 %": Scene({"stars": 60000}, (0.47,), 0.03, gain=0.003),
    "moving": Scene(moving=5.0),
    "flat 1 % and glow": Scene(flat=0.01, glow=0.15),
    "strip over a nebula": Scene(
        {"brightness": 4.0, "contrast": 1.3, "stars": 4000}, tiles=(12, 1), dithers=1, overlap=0.1
    ),
    "thin overlaps": Scene(dithers=1, overlap=0.03),
}
