"""Cutouts and members in memory, with known levels and planes."""

from collections.abc import Sequence

import numpy as np

from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.pairs import candidate_pairs
from levelmatch_core.matching.results import Member, PairFit
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import Cutout, CutoutRecord, StoredArray
from levelmatch_core.sky.plane import Plane

NO_REJECTION = {"min_area_percent": 0.0, "min_linear_frac": 0.0, "rms_sig_limit": 1e9}


def settings_for(stage: str = "dithers", fit_type: str = "level", **values: object) -> MatchSettings:
    return MatchSettings.from_mapping({f"fit_type_{stage}": fit_type, **values})


def make_cutout(
    name: str,
    data: np.ndarray,
    x0: int = 0,
    y0: int = 0,
    *,
    noise_gain: float = 1.0,
    axis_angle: float = 0.0,
    extent: tuple[float, float] | None = None,
) -> Cutout:
    ny, nx = data.shape
    corners = (
        (x0 - 0.5, y0 - 0.5),
        (x0 + nx - 0.5, y0 - 0.5),
        (x0 + nx - 0.5, y0 + ny - 0.5),
        (x0 - 0.5, y0 + ny - 0.5),
    )
    record = CutoutRecord(
        name=name,
        array=StoredArray(file=name, sha256="0" * 64),
        x0=x0,
        y0=y0,
        shape=(ny, nx),
        has_variance=False,
        n_valid=int(np.isfinite(data).sum()),
        noise_gain=noise_gain,
        axis_angle=axis_angle,
        extent=extent or (float(nx), float(ny)),
        outline=corners,
    )
    return Cutout(record, data)


def member(cutout: Cutout | CutoutRecord, **values: object) -> Member:
    record = cutout.record if isinstance(cutout, Cutout) else cutout
    defaults = {"name": record.name, "exposures": (record.name,), "cutout": record, "tile": record.name, "groups": {}}
    return Member.model_validate({**defaults, **values})


def plane_at(cutout: CutoutRecord, coefficients: Sequence[float]) -> Plane:
    x0, y0 = cutout.centre
    level, slope_x, slope_y = (*coefficients, 0.0, 0.0)[:3]
    return Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=x0, y0=y0)


def scene(
    positions: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    truth: np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> list[Cutout]:
    """Cutouts of a smooth sky at (x, y) positions, each with its own plane about its centre, and white noise."""
    cutouts = []
    for number, ((x0, y0), coefficients) in enumerate(zip(positions, truth, strict=True)):
        cutout = make_cutout(f"m{number:04d}", np.zeros(shape), x0, y0)
        y, x = np.mgrid[: shape[0], : shape[1]]
        sky = 3 * np.sin((x + x0) / 17.0) + 2 * np.cos((y + y0) / 23.0)
        data = sky + plane_at(cutout.record, coefficients)(x + x0, y + y0)
        cutouts.append(make_cutout(cutout.record.name, data + noise * rng.standard_normal(shape), x0, y0))
    return cutouts


def fit_all(cutouts: Sequence[Cutout], fit_type: str, settings: MatchSettings) -> tuple[list[Member], list[PairFit]]:
    by_name = {cutout.record.name: cutout for cutout in cutouts}
    members = [member(cutout) for cutout in cutouts]
    fits = (fit_pair(by_name[a], by_name[b], fit_type, settings) for a, b in candidate_pairs(members))  # type: ignore[arg-type]
    return members, [fit for fit in fits if fit is not None]


def grid_positions(columns: int, rows: int, size: int, overlap: float) -> list[tuple[int, int]]:
    step = round(size * (1 - overlap))
    return [(i * step, j * step) for j in range(rows) for i in range(columns)]


def made_up_fit(
    first: Member,
    second: Member,
    plane: Plane,
    box: tuple[float, float, float, float],
    *,
    rms: float = 1.0,
    npix: int = 0,
) -> PairFit:
    """A pair fit over the box (x0, y0, x1, y1), with the moments of its full area."""
    x0, y0, x1, y1 = box
    n = npix or max(1, round((x1 - x0) * (y1 - y0)))
    moments = np.diag([n, n * (x1 - x0) ** 2 / 12, n * (y1 - y0) ** 2 / 12])
    return PairFit(
        first=first.name,
        second=second.name,
        npix=n,
        n_used=n,
        plane=plane.about((x0 + x1) / 2, (y0 + y1) / 2),
        moments=tuple(moments.ravel().tolist()),
        rms=rms,
        stderr=rms / np.sqrt(n),
        correlation=1.0,
        extent=(x1 - x0, y1 - y0),
        linear=(1.0, 1.0),
        converged=True,
    )
