"""The peers on tiles in memory, or on our pair fits: the plane that each subtracts from every tile.

Montage works on files: the tiles are written with a WCS that only shifts pixels, so that nothing is resampled, as it is
for us; `mOverlaps`, `mDiffFitExec`, `mBgModel`. reproject: what `reproject_and_coadd(match_background=True)` calls, on
arrays. stcal: `skymatch(skymethod="match")` of `SkyImage` objects. Each is given its best: Montage as many iterations
as it can use, stcal the statistic that comes out best. A peer that solves for levels alone has slopes 0.
"""

import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from levelmatch_core.matching.results import PairFit
from levelmatch_core.sky.cutouts import Cutout

Array = NDArray[np.float64]

SCALE = 0.1 / 3600
"""Degrees a pixel: wide strips stay near their tangent point."""
PATIENT = 1_000_000
"""Iterations for which Montage's planes have settled."""


def there(package: str) -> bool:
    """Return whether a peer is installed."""
    return find_spec(package) is not None


class Montage:
    """Montage on one set of tiles."""

    def __init__(self, tiles: Sequence[Cutout], k: int, folder: Path) -> None:
        self._main = import_module("MontagePy.main")
        self._tiles, self._k, self._folder = tiles, k, folder
        self._at = np.array([(tile.record.x0, tile.record.y0) for tile in tiles], dtype=float)
        self._size = tiles[0].record.shape[0]
        # positions on Montage's plane are pixels from the tangent point, the first pixel's number being 1
        self._tangent = (self._at.min(axis=0) + self._at.max(axis=0) + self._size) / 2

    def measured(self) -> "Montage":
        """Let Montage measure the differences of the tiles' pixels."""
        (self._folder / "tiles").mkdir()
        (self._folder / "differences").mkdir()
        for tile, at in zip(self._tiles, self._at, strict=True):
            wcs = WCS(naxis=2)
            wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [180.0, 0.0]
            wcs.wcs.cdelt, wcs.wcs.crpix = [-SCALE, SCALE], self._tangent - at
            image = fits.PrimaryHDU(tile.data.astype(np.float32), wcs.to_header())
            image.writeto(self._folder / "tiles" / f"{tile.record.name}.fits")
        self._do("mImgtbl", self._path("tiles"), self._path("images.tbl"))
        self._do("mMakeHdr", self._path("images.tbl"), self._path("field.hdr"))
        self._do("mOverlaps", self._path("images.tbl"), self._path("overlaps.tbl"))
        names = ("tiles", "overlaps.tbl", "field.hdr", "differences", "fits.tbl")
        self._do("mDiffFitExec", *map(self._path, names), levelOnly=self._k == 1, noAreas=True)
        return self

    def given(self, pairs: Sequence[PairFit]) -> "Montage":
        """Give Montage's model our pair fits."""
        number = {tile.record.name: i for i, tile in enumerate(self._tiles)}
        rows = ["|  cntr|naxis1|naxis2|        crpix1|        crpix2|   fname|"]
        rows += [
            f" {i:6d} {self._size:6d} {self._size:6d} {x:14.4f} {y:14.4f} {tile.record.name:>8}"
            for i, (tile, (x, y)) in enumerate(zip(self._tiles, self._tangent - self._at, strict=True))
        ]
        (self._folder / "images.tbl").write_text("\n".join(rows) + "\n")
        columns = ("plus", "minus", "a", "b", "c", "crpix1", "crpix2", "xmin", "xmax", "ymin", "ymax", "xcenter")
        columns += ("ycenter", "npixel", "rms", "boxx", "boxy", "boxwidth", "boxheight", "boxang")
        rows = ["".join(f"|{name:>18}" for name in columns) + "|"]
        for fit in pairs:
            x, y = np.array([fit.plane.x0, fit.plane.y0]) + 1 - self._tangent
            plane = fit.plane.about(*(self._tangent - 1).tolist())
            variance = np.array([fit.moments[4], fit.moments[8]]) / fit.n_used
            width, height = np.sqrt(12 * variance)
            values = (number[fit.first], number[fit.second], -plane.slope_x, -plane.slope_y, -plane.level, 0.0, 0.0)
            values += (x - width / 2, x + width / 2, y - height / 2, y + height / 2, x, y, fit.n_used, fit.rms)
            rows.append("".join(f" {value:18.11g}" for value in (*values, x, y, width, height, 0.0)) + " ")
        (self._folder / "fits.tbl").write_text("\n".join(rows) + "\n")
        return self

    def corrections(self, **options: object) -> Array:
        """Return (N, 3) what its model subtracts: level at the tiles' centres, slopes to their edges."""
        names = map(self._path, ("images.tbl", "fits.tbl", "corrections.tbl"))
        self._do("mBgModel", *names, noslope=self._k == 1, **options)
        found = np.zeros((len(self._tiles), 3))
        order = self._order()
        for line in (self._folder / "corrections.tbl").read_text().splitlines():
            if not line.startswith("|"):
                number, *plane = line.split()
                found[order[int(number)]] = [float(value) for value in plane[:3]]
        centre = self._at + (self._size + 1) / 2 - self._tangent
        level = found[:, 2] + np.sum(found[:, :2] * centre, axis=1)
        return np.column_stack([level, found[:, :2] * (self._size / 2)])

    def _order(self) -> dict[int, int]:
        """Return which of our tiles Montage's numbers are."""
        index = {tile.record.name: i for i, tile in enumerate(self._tiles)}
        lines = (self._folder / "images.tbl").read_text().splitlines()
        words = [line.split() for line in lines if not line.startswith(("|", "\\"))]
        return {int(row[0]): index[Path(row[-1]).stem] for row in words}

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    def _do(self, program: str, *arguments: object, **options: object) -> None:
        done = getattr(self._main, program)(*arguments, **options)
        if done["status"] != "0":
            message = f"{program}: {done}"
            raise RuntimeError(message)


def montage(tiles: Sequence[Cutout], k: int, pairs: Sequence[PairFit] | None, **options: object) -> Array:
    """Return what Montage subtracts, from the tiles' pixels or from our pair fits."""
    with tempfile.TemporaryDirectory(prefix="levelmatch-montage-") as place:
        run = Montage(tiles, k, Path(place))
        return (run.measured() if pairs is None else run.given(pairs)).corrections(**options)


def reproject(tiles: Sequence[Cutout], pairs: Sequence[PairFit] | None) -> Array:
    """Return what reproject subtracts, from the tiles' pixels or from our pair fits."""
    background = import_module("reproject.mosaicking._background")
    if pairs is None:
        subset = import_module("reproject.mosaicking._subset_array").ReprojectedArraySubset
        arrays = []
        for tile in tiles:
            record = tile.record
            bounds = [(record.y0, record.y0 + record.shape[0]), (record.x0, record.x0 + record.shape[1])]
            arrays.append(subset(np.asarray(tile.data), np.ones(record.shape, dtype=bool), bounds))
        offsets = background.determine_offset_matrix(arrays)
    else:
        offsets = _matrix(tiles, pairs, np.nan)
    np.random.seed(0)  # noqa: NPY002 - it shuffles by the global generator
    return _flat(background.solve_corrections_sgd(offsets))


def stcal(tiles: Sequence[Cutout], pairs: Sequence[PairFit] | None, statistic: str = "mean") -> Array:
    """Return what stcal's skymatch subtracts, from the tiles' pixels or from our pair fits."""
    matching = import_module("stcal.skymatch.skymatch")
    if pairs is not None:
        offsets, weights = _matrix(tiles, pairs, 0.0), _matrix(tiles, pairs, 0.0, pixels=True)
        own = matching._overlap_matrix
        matching._overlap_matrix = lambda *_, **__: (np.tril(offsets), weights)
        try:
            return _flat(-np.asarray(matching._find_optimum_sky_deltas(list(range(len(tiles)))), dtype=float))
        finally:
            matching._overlap_matrix = own
    package = import_module("stcal.skymatch")
    statistics = import_module("stcal.skymatch.skystatistics").SkyStats(skystat=statistic)
    images = []
    for tile in tiles:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [180.0, 0.0]
        wcs.wcs.cdelt, wcs.wcs.crpix = [-SCALE, SCALE], [-tile.record.x0, -tile.record.y0]
        mask = np.isfinite(tile.data)
        there_and_back = _map(wcs.all_pix2world), _map(wcs.all_world2pix)
        data = np.where(mask, tile.data, 0.0)
        images.append(package.SkyImage(data, mask, *there_and_back, statistics, sky_id=tile.record.name))
    package.skymatch(images, skymethod="match", match_down=True)
    return _flat(np.array([image.sky for image in images]))


def _map(transform: Callable[[Any, Any, int], Any]) -> Callable[..., Any]:
    return lambda first, second, **_: transform(first, second, 0)


def _matrix(tiles: Sequence[Cutout], pairs: Sequence[PairFit], empty: float, *, pixels: bool = False) -> Array:
    """Return (N, N) row minus column of our fits, or their pixels."""
    number = {tile.record.name: i for i, tile in enumerate(tiles)}
    offsets = np.full((len(tiles), len(tiles)), empty)
    for fit in pairs:
        first, second = number[fit.first], number[fit.second]
        there, back = (fit.n_used, fit.n_used) if pixels else (fit.plane.level, -fit.plane.level)
        offsets[second, first], offsets[first, second] = there, back
    return offsets


def _flat(levels: Array) -> Array:
    return np.column_stack([levels, np.zeros((len(levels), 2))])
