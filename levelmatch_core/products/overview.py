"""A wide field on one map: coarse images made from those of its patches, their table, and its members side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import KDTree

from levelmatch_core.files.ecsv import write_ecsv
from levelmatch_core.images.fits_headers import MATCHED_CARD, quiet
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.matching.corrections import FieldMatch, StageMatch
from levelmatch_core.matching.model.facing import spread_out
from levelmatch_core.matching.results import WeakMode
from levelmatch_core.products.blocks import block_mean
from levelmatch_core.products.level_error import IMAGE
from levelmatch_core.sky.grid import Grid

ALL_SKY = 70.0
"""Fields that reach farther than this from their middle (degrees) are shown on a map of the whole sky."""

ALL_SKY_STEP = 0.25
"""Pixels of such a map at its centre (degrees)."""

SIDE = 1000
"""Pixels along the side of the map of a smaller field."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OverviewSky:
    """A map that shows a whole wide field: Mollweide's for the whole sky, else an equal-area zenithal one."""

    wcs: WCS
    shape: tuple[int, int]
    vectors: Floats
    """(ny, nx, 3) directions of the pixels, NaN beside the sky."""

    @classmethod
    def of(cls, grid: Grid, mosaics: Iterable[Path]) -> Self:
        """Return the map of a field.

        Parameters
        ----------
        grid
            A grid near its middle.
        mosaics
            The mosaics of its patches.
        """
        middle = unit_vectors([(grid.ra, grid.dec)])[0]
        corners = np.concatenate([_corners(path) for path in mosaics])
        radius = float(np.degrees(np.arccos(np.clip(corners @ middle, -1.0, 1.0))).max())
        wcs = WCS(naxis=2)
        if radius > ALL_SKY:
            step = ALL_SKY_STEP
            nx = math.ceil(math.degrees(4 * math.sqrt(2)) / step)
            ny = math.ceil(nx / 2)
            wcs.wcs.ctype, wcs.wcs.crval = ["RA---MOL", "DEC--MOL"], [0.0, 0.0]
        else:
            across = 2 * math.degrees(2 * math.sin(math.radians(radius) / 2))
            step, nx, ny = across / SIDE, SIDE, SIDE
            wcs.wcs.ctype, wcs.wcs.crval = ["RA---ZEA", "DEC--ZEA"], [grid.ra, grid.dec]
        wcs.wcs.cunit, wcs.wcs.radesys = ["deg", "deg"], "ICRS"
        wcs.wcs.cdelt, wcs.wcs.crpix = [-step, step], [(nx + 1) / 2, (ny + 1) / 2]
        wcs.wcs.set()
        y, x = np.indices((ny, nx), dtype=float)
        with quiet(), np.errstate(invalid="ignore"):
            ra, dec = wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
        return cls(wcs, (ny, nx), unit_vectors(np.stack([ra, dec], axis=-1)).reshape(ny, nx, 3))

    @cached_property
    def _tree(self) -> tuple[KDTree, NDArray[np.int64]]:
        """The directions of the pixels that lie on the sky, and the numbers of these pixels."""
        flat = self.vectors.reshape(-1, 3)
        on_sky = np.flatnonzero(np.isfinite(flat).all(axis=1))
        return KDTree(flat[on_sky], balanced_tree=False, compact_nodes=False), on_sky

    @property
    def step(self) -> float:
        """Size of a pixel at the centre, arcsec."""
        return float(self.wcs.wcs.cdelt[1]) * 3600.0

    def places_on(self, grid: Grid, x0: float, y0: float, step: float, shape: tuple[int, int]) -> tuple[Any, Any]:
        """Return the pixels of the map that lie on an image, and the pixels of the image nearest to them.

        Parameters
        ----------
        grid, x0, y0, step
            Grid of the image, position of its first pixel on it, and grid pixels from one pixel to the next.
        shape
            Its rows and columns.
        """
        middle = unit_vectors([(grid.ra, grid.dec)])[0]
        edges = x0 + step * np.array([-0.5, shape[1] - 0.5]), y0 + step * np.array([-0.5, shape[0] - 0.5])
        corners = unit_vectors(grid.to_sky(*(axis.ravel() for axis in np.meshgrid(*edges))).T)
        reach = float(np.linalg.norm(corners - middle, axis=1).max()) + 1e-9
        tree, on_sky = self._tree
        pixels = on_sky[np.sort(np.array(tree.query_ball_point(middle, reach), dtype=np.int64))]
        rows, columns = np.divmod(pixels, self.shape[1])
        vectors = self.vectors[rows, columns]
        ra = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0]))
        dec = np.degrees(np.arcsin(np.clip(vectors[:, 2], -1.0, 1.0)))
        x, y = grid.to_pixel(ra, dec)
        column, row = np.rint((x - x0) / step), np.rint((y - y0) / step)
        inside = (column >= 0) & (row >= 0) & (column < shape[1]) & (row < shape[0])
        return (rows[inside], columns[inside]), (row[inside].astype(int), column[inside].astype(int))


def write_overview_mosaic(path: Path, sky: OverviewSky, mosaics: Mapping[str, Path], unit: str) -> None:
    """Write the mosaic of a whole wide field; the same mosaics of patches give the same bytes.

    HDUs: primary; SCI, BEFORE and COVERAGE as in the mosaics of the patches, whose pixels are averaged. Where patches
    overlap, their means are weighted by coverage.
    """
    total = {name: np.zeros(sky.shape) for name in ("SCI", "BEFORE", "COVERAGE")}
    weight = np.zeros(sky.shape)
    for file in mosaics.values():
        with fits.open(file, mode="readonly", memmap=True) as hdus:
            grid, x0, y0 = _place_of(hdus["SCI"].header)
            step = max(1, int(sky.step / grid.scale))
            images = {name: block_mean(hdus[name].data, step) for name in total}
        shape = images["SCI"].shape
        there, here = sky.places_on(grid, x0 + (step - 1) / 2, y0 + (step - 1) / 2, step, shape)
        found = {name: image[here] for name, image in images.items()}
        share = np.where(np.isfinite(found["SCI"]), found["COVERAGE"], 0.0)
        weight[there] += share
        for name, image in total.items():
            image[there] += share * np.where(share > 0, found[name], 0.0)
    images = {
        name: np.divide(one, weight, out=np.full(sky.shape, np.nan), where=weight > 0) for name, one in total.items()
    }
    _write(path, sky, images, unit, ("mosaic", "levelmatch: made of matched exposures"))


def write_overview_error(
    path: Path, sky: OverviewSky, maps: Mapping[str, Path], unit: str, modes: Sequence[WeakMode] = ()
) -> None:
    """Write the error map of a whole wide field; where patches overlap, the mean of theirs.

    The cards LVLMODE1, LVLMODE2, ... are the 1 sigma of the weakest modes, the patterns of which overlaps see least: on
    the largest scales these errors are common to many pixels, and do not average out.
    """
    total, count = np.zeros(sky.shape), np.zeros(sky.shape)
    for file in maps.values():
        levels, grid, (x0, y0), step = read_level_error(file)
        there, here = sky.places_on(grid, x0, y0, step, (levels.shape[0], levels.shape[1]))
        found = levels[here]
        total[there] += np.where(np.isfinite(found), found, 0.0)
        count[there] += np.isfinite(found)
    image = np.divide(total, count, out=np.full(sky.shape, np.nan), where=count > 0)
    cards = {
        f"LVLMODE{number}": (mode.sigma, f"1 sigma (rms) of weak mode {number}")
        for number, mode in enumerate(modes, start=1)
    }
    _write(path, sky, {IMAGE: image}, unit, ("level error", "levelmatch: 1 sigma of a mosaic's level"), cards)


def read_level_error(path: Path) -> tuple[Floats, Grid, tuple[float, float], float]:
    """Return a map of errors of a grid, the grid, the place of its first point on it, and the step, grid pixels."""
    with fits.open(path, mode="readonly", memmap=False) as hdus:
        header, levels = hdus[IMAGE].header, hdus[IMAGE].data.astype(float)
    step = float(header["LVLSTEP"])
    angle = math.degrees(math.atan2(header["PC2_1"], header["PC1_1"]))
    scale = float(header["CDELT2"]) * 3600.0 / step
    grid = Grid(ra=header["CRVAL1"], dec=header["CRVAL2"], angle=angle, scale=scale)
    return levels, grid, ((1.0 - header["CRPIX1"]) * step, (1.0 - header["CRPIX2"]) * step), step


def write_patches(
    path: Path,
    patches: Mapping[str, tuple[str, Grid, int]],
    mosaics: Mapping[str, Path],
    level_errors: Mapping[str, Path],
    unit: str,
) -> None:
    """Write the table of the patches of a wide field.

    Parameters
    ----------
    path
        The file.
    patches
        Patch -> its place, grid, and number of exposures.
    mosaics, level_errors
        The files of each place that has them.
    unit
        Of the data.
    """
    rows = []
    for name, (place, grid, exposures) in sorted(patches.items()):
        median = largest = math.nan
        if place in level_errors:
            levels = read_level_error(level_errors[place])[0]
            seen = levels[np.isfinite(levels)]
            median, largest = (float(np.median(seen)), float(seen.max())) if seen.size else (math.nan, math.nan)
        files = [found[place].name if place in found else "" for found in (mosaics, level_errors)]
        rows.append((name, grid.ra, grid.dec, grid.scale, exposures, *files, median, largest))
    names = ("patch", "ra", "dec", "scale", "exposures", "mosaic", "level_error", "sigma_median", "sigma_largest")
    table = Table(rows=rows, names=names)
    table.meta.update(table="levelmatch patches", unit=unit, columns="ra, dec: tangent point, degrees; scale: arcsec")
    write_ecsv(path, table)


def on_one_map(match: FieldMatch) -> FieldMatch:
    """Return a wide field with the outlines of its members side by side on one map, for drawings; others unchanged."""
    if not match.patches:
        return match
    return match.model_copy(update={"stages": tuple(_on_one_map(stage, match.grid.scale) for stage in match.stages)})


def _on_one_map(stage: StageMatch, scale: float) -> StageMatch:
    centres = np.array([member.cutout.centre for member in stage.members])
    moved = spread_out(centres, [member.grid for member in stage.members], scale)
    members = []
    for member, (x, y) in zip(stage.members, (moved - centres).tolist(), strict=True):
        cutout = member.cutout
        place = {"x0": cutout.x0 + round(x), "y0": cutout.y0 + round(y)}
        outline = tuple((a + round(x), b + round(y)) for a, b in cutout.outline)
        members.append(member.model_copy(update={"cutout": cutout.model_copy(update={**place, "outline": outline})}))
    return stage.model_copy(update={"members": tuple(members)})


def _corners(path: Path) -> Floats:
    with fits.open(path, mode="readonly", memmap=True) as hdus:
        grid, x0, y0 = _place_of(hdus["SCI"].header)
        ny, nx = hdus["SCI"].shape
    x, y = np.array([0.0, nx, nx, 0.0]) + x0 - 0.5, np.array([0.0, 0.0, ny, ny]) + y0 - 0.5
    return unit_vectors(grid.to_sky(x, y).T)


def _place_of(header: fits.Header) -> tuple[Grid, float, float]:
    """Return the grid of a mosaic, and the place of its first pixel on it."""
    return Grid.from_header_cards(header), 1.0 - header["CRPIX1"], 1.0 - header["CRPIX2"]


def _write(  # noqa: PLR0917 - private
    path: Path,
    sky: OverviewSky,
    images: Mapping[str, Floats],
    unit: str,
    card: tuple[str, str],
    cards: Mapping[str, tuple[float, str]] = MappingProxyType({}),
) -> None:
    """Write images of the map, without its empty margins."""
    seen = np.isfinite(next(iter(images.values())))
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else np.s_[:, :]
    primary = fits.PrimaryHDU()
    primary.header[MATCHED_CARD] = card
    header = sky.wcs[part].to_header()
    hdus = [primary]
    for name, image in images.items():
        counts = name == "COVERAGE"
        values = np.ceil(np.nan_to_num(image[part])).astype(np.int32) if counts else image[part].astype(np.float32)
        hdus.append(fits.ImageHDU(values, header, name=name))
        if unit and not counts:
            hdus[-1].header["BUNIT"] = unit
        hdus[-1].header.update(cards)
    fits.HDUList(hdus).writeto(path)
