"""A small solved field, made by hand, and files to correct."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.images.exposure import Exposure, Field, Inventory, Window
from levelmatch_core.matching.corrections import Correction, FieldMatch, StageMatch, Status
from levelmatch_core.matching.results import (
    Component,
    Convergence,
    Member,
    MemberResult,
    PairFit,
    PairResult,
    Rejection,
    Solution,
    SolveStatus,
)
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord, StoredArray
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane
from tests.exposures import exposure

GRID = Grid(ra=83.5, dec=-5.5, angle=30.0, scale=0.11)
UNIT = "MJy/sr"


def turned_wcs(shape: tuple[int, int], angle: float, centre: tuple[float, float] = (83.51, -5.49)) -> WCS:
    wcs = WCS(naxis=2)
    turn = np.radians(angle)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cd = 0.1 / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.set()
    return wcs


def make_exposure(path: Path = Path("a.fits"), **changes: Any) -> Exposure:
    values: dict[str, Any] = {
        "shape": (40, 60),
        "detector": "det",
        "tile": "t1",
        "band": "f770w",
        "unit": UNIT,
        "groups": {"dithers": "t1", "mosaic_tiles": "f"},
        "footprint": ((83.5, -5.5), (83.5, -5.4), (83.4, -5.4)),
        "scale": 0.1,
    }
    return exposure(path, **(values | changes))


def make_correction(exposure: Exposure, plane: Plane | None = None, **changes: Any) -> Correction:
    plane = plane or Plane(level=1.25)
    values: dict[str, Any] = {
        "exposure": exposure,
        "field": "f770w",
        "status": Status.MATCHED,
        "component": 1,
        "reference": "t1",
        "stages": {"mosaic_tiles": plane},
        "plane": plane,
        "sigma": (0.01, 1e-5, 2e-5),
        "local_sky": 0.5,
    }
    return Correction(**(values | changes))


def cutout(name: str, x0: int, y0: int, shape: tuple[int, int] = (100, 120)) -> CutoutRecord:
    x1, y1 = x0 + shape[1], y0 + shape[0]
    return CutoutRecord(
        name=name,
        array=StoredArray(file=f"{name}.npy", sha256="0" * 64),
        x0=x0,
        y0=y0,
        shape=shape,
        has_variance=True,
        n_valid=shape[0] * shape[1],
        noise_gain=0.5,
        axis_angle=0.1,
        extent=(float(shape[1]), float(shape[0])),
        outline=((x0, y0), (x1, y0), (x1, y1), (x0, y1)),
    )


def make_match(
    columns: int = 3, rows: int = 2, *, planes: bool = False, reject: int = 1, history: bool = False
) -> FieldMatch:
    """Return a field of columns x rows tiles, one exposure each, neighbours paired; the first pairs are rejected."""
    rng = np.random.default_rng(5)
    names = [f"jw01234{n:03d}001_02101_00001_mirimage_cal.fits" for n in range(columns * rows)]
    cutouts = {
        name: cutout(name, 2000 + 100 * (n % columns), 3000 + 85 * (n // columns)) for n, name in enumerate(names)
    }
    levels = rng.normal(0, 10, len(names))
    slope = rng.normal(0, 0.01, (len(names), 2)) if planes else np.zeros((len(names), 2))
    fit_type = "level+slope" if planes else "level"
    members, results, exposures, corrections = [], [], [], []
    for n, name in enumerate(names):
        x0, y0 = cutouts[name].centre
        plane = Plane(level=levels[n] - levels[0], slope_x=slope[n, 0], slope_y=slope[n, 1], x0=x0, y0=y0)
        groups = {"dithers": name[:-5], "mosaic_tiles": "f770w"}
        members.append(Member(name=name, exposures=(name,), cutout=cutouts[name], tile=name[:-5], groups=groups))
        results.append(MemberResult(name=name, component=0, plane=plane, sigma=(0.001, 1e-6, 2e-6)))
        exposures.append(make_exposure(Path(name), tile=name[:-5], groups=groups))
        status = Status.MATCHED if n else Status.REFERENCE
        corrections.append(make_correction(exposures[-1], plane, status=status, reference=names[0][:-5]))
    joined = [(n, n + 1) for n in range(len(names)) if (n + 1) % columns] + [
        (n, n + columns) for n in range(len(names) - columns)
    ]
    pairs = []
    for number, (i, j) in enumerate(sorted(joined)):
        x0, y0 = np.mean([cutouts[names[i]].centre, cutouts[names[j]].centre], axis=0)
        fit = PairFit(
            first=names[i],
            second=names[j],
            npix=2000 + number,
            n_used=1990,
            plane=Plane(level=levels[j] - levels[i], slope_x=slope[j, 0] - slope[i, 0], x0=x0, y0=y0),
            moments=(1990.0, 0, 0, 0, 1e5, 0, 0, 0, 1e5),
            rms=0.1,
            stderr=0.1 / 40,
            correlation=2.0,
            extent=(20.0, 100.0),
            linear=(0.2, 0.9),
            converged=True,
        )
        rejected = Rejection.TOO_NOISY if number < reject else None
        left = rng.normal(0, 0.003)
        pairs.append(
            PairResult(
                fit=fit,
                weight=0.0 if rejected else 1.0,
                rejected=rejected,
                residual=left,
                residual_rms=abs(left) * 1.2,
            )
        )
    story = (Convergence(coefficient="level", steps=tuple(10.0 * 0.7**n for n in range(60))),) if history else ()
    solution = Solution(
        stage="mosaic_tiles",
        group="f770w",
        fit_type=fit_type,
        members=tuple(results),
        components=(Component(members=tuple(names), reference=names[0], reference_reason="most usable pairs"),),
        pairs=tuple(pairs),
        status=SolveStatus(
            converged=True,
            solver="iterative" if history else "least_squares",
            iterations=60,
            residual_before=12.0,
            residual_after=0.003,
            rank=len(names) - 1,
            unknowns=len(names),
            history=story,
        ),
    )
    return FieldMatch(
        field=Field(name="f770w", instrument="generic", band="f770w", unit=UNIT, exposures=tuple(exposures)),
        grid=GRID,
        cutouts=cutouts,
        stages=(
            StageMatch(stage="dithers", members=tuple(members), solutions=()),
            StageMatch(stage="mosaic_tiles", members=tuple(members), solutions=(solution,)),
        ),
        corrections=tuple(corrections),
    )


def make_inventory(match: FieldMatch) -> Inventory:
    return Inventory(fields=(match.field,), notes=("a note",))


class Make:
    """The builders above, for tests (which are no package and cannot import this file)."""

    grid = GRID
    unit = UNIT
    window = Window(rows=(25, 40), columns=(0, 20), inside=True)
    exposure = staticmethod(make_exposure)
    correction = staticmethod(make_correction)
    cutout = staticmethod(cutout)
    match = staticmethod(make_match)
    inventory = staticmethod(make_inventory)
    wcs = staticmethod(turned_wcs)
    settings = MatchSettings()


@pytest.fixture
def make() -> type[Make]:
    return Make


@pytest.fixture
def image_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a file with an image, and things around it that are not to change."""

    def write(
        data: np.ndarray,
        name: str = "a.fits",
        *,
        angle: float = 20.0,
        checksum: bool = False,
        dq: Any = None,
        **cards: Any,
    ) -> Path:
        rng = np.random.default_rng(8)
        header = turned_wcs(data.shape, angle).to_header()
        header["BUNIT"] = UNIT
        for key, value in cards.items():
            header[key] = value
        primary = fits.PrimaryHDU()
        primary.header["FILTER"] = ("F770W", "a comment")
        primary.header["HIERARCH A LONG NAME"] = 1
        primary.header["LONGSTR"] = "x" * 100
        table = fits.BinTableHDU.from_columns(
            [fits.Column("c", "1000B", array=rng.integers(0, 255, (1, 1000)))], name="ASDF"
        )
        hdus = [
            primary,
            fits.ImageHDU(data, header, name="SCI"),
            fits.ImageHDU(np.full(data.shape, 0.1, "f4"), name="ERR"),
        ]
        if dq is not None:
            hdus.append(fits.ImageHDU(dq, name="DQ"))
        hdus += [fits.ImageHDU(rng.normal(size=data.shape).astype("f4"), name="VAR_POISSON"), table]
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        fits.HDUList(hdus).writeto(path, checksum=checksum)
        return path

    return write
