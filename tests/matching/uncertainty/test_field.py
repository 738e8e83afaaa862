"""The errors of sums over stages: pulls over simulated programs, in memory, with stacks made here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import shapely

from levelmatch_core.images.given import Given
from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, Member, PairFit, Solution
from levelmatch_core.matching.uncertainty.field import TotalErrors, field_errors
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import Cutout, CutoutRecord
from levelmatch_core.sky.patches import ONE
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import NO_REJECTION, fit_all, make_cutout, settings_for

SIZE, OVERLAP = 32, 10
LEVEL, RISE = 10.0, 0.3
"""1 sigma of true levels, and of the rise of planes from centre to edge."""


def stacked(name: str, cutouts: Sequence[Cutout], planes: Sequence[Plane]) -> Cutout:
    """Return the mean of corrected cutouts."""
    records = [cutout.record for cutout in cutouts]
    x0, y0 = min(r.x0 for r in records), min(r.y0 for r in records)
    shape = max(r.y0 + r.shape[0] for r in records) - y0, max(r.x0 + r.shape[1] for r in records) - x0
    total, count = np.zeros(shape), np.zeros(shape)
    for cutout, plane in zip(cutouts, planes, strict=True):
        record = cutout.record
        rows, columns = (np.arange(n) for n in record.shape)
        there = np.ix_(rows + record.y0 - y0, columns + record.x0 - x0)
        total[there] += cutout.data - plane(columns + record.x0, rows[:, None] + record.y0)
        count[there] += 1
    made = make_cutout(name, np.where(count > 0, total / np.maximum(count, 1), np.nan), x0, y0)
    hull = shapely.MultiPoint([point for record in records for point in record.outline]).convex_hull
    outline = tuple(shapely.get_coordinates(hull)[:-1].tolist())
    return Cutout(CutoutRecord.from_json(made.record.to_json() | {"outline": outline}), made.data)


def plane_of(rng: np.random.Generator, fit_type: str, centre: tuple[float, float]) -> Plane:
    level, x, y = (rng.standard_normal(3) * [LEVEL, 2 * RISE / SIZE, 2 * RISE / SIZE]).tolist()
    level_only = Plane(level=level, x0=centre[0], y0=centre[1])
    return level_only if fit_type == "level" else level_only.model_copy(update={"slope_x": x, "slope_y": y})


def solved(stage: str, group: str, cutouts: Sequence[Cutout], settings: MatchSettings) -> tuple[list[Member], Solution]:
    gauge = Gauge.MEAN if stage == "dithers" else Gauge.REFERENCE
    members, fits = fit_all(cutouts, getattr(settings, f"fit_type_{stage}"), settings)
    wanted: list[PairFit] = fits
    return members, match(stage, group, members, wanted, gauge, settings)


@dataclass(frozen=True)
class Program:
    """One program, solved."""

    records: list[CutoutRecord]
    errors: np.ndarray
    """(exposures, 3) found less true, relative to the mean plane of the reference tile's exposures."""
    stated: TotalErrors
    free: np.ndarray
    """(exposures,) which are not in the reference tile."""

    @property
    def sigma(self) -> np.ndarray:
        """(exposures, 3) the stated errors."""
        return np.array([self.stated.sigmas[record.name] for record in self.records])


def program(seed: int, tiles: tuple[int, int], dithers: int, fits: tuple[str, str], method: str) -> Program:
    """Simulate and solve tiles of dithers."""
    rng = np.random.default_rng(seed)
    settings = settings_for("dithers", fits[0], fit_type_mosaic_tiles=fits[1], weight_method=method, **NO_REJECTION)
    step = SIZE - OVERLAP
    places = [(i * step, j * step) for j in range(tiles[1]) for i in range(tiles[0])]
    truth: dict[str, Plane] = {}
    exposures: dict[str, Cutout] = {}
    firsts, seconds, stacks, one_tile = [], [], [], []
    for tile, (x, y) in enumerate(places):
        common = plane_of(rng, fits[1], (x + SIZE / 2, y + SIZE / 2))
        cutouts = []
        for dither in range(dithers):
            x0, y0 = (int(place + moved) for place, moved in zip((x, y), rng.integers(0, 6, 2), strict=True))
            name = f"t{tile:02d}d{dither}"
            blank = make_cutout(name, np.zeros((SIZE, SIZE)), x0, y0).record
            plane = common.about(*blank.centre) + plane_of(rng, fits[0], blank.centre)
            across, up = np.arange(SIZE) + x0, np.arange(SIZE)[:, None] + y0
            noise = (1.0, 1.5)[(dither + tile) % 2] * rng.standard_normal((SIZE, SIZE))
            cutouts.append(make_cutout(name, plane(across, up) + noise, x0, y0))
            truth[name] = plane
        members, solution = solved("dithers", f"t{tile:02d}", cutouts, settings)
        firsts += members
        seconds.append(solution)
        exposures |= {cutout.record.name: cutout for cutout in cutouts}
        one_tile.append([cutout.record.name for cutout in cutouts])
        stacks.append(stacked(f"t{tile:02d}", cutouts, [member.plane for member in solution.members]))
    members, mosaic = solved("mosaic_tiles", "f", stacks, settings)
    fixed = {cutout.record.name: tuple(names) for cutout, names in zip(stacks, one_tile, strict=True)}
    members = [member.model_copy(update={"exposures": fixed[member.name]}) for member in members]
    stages = [
        StageMatch(stage="dithers", members=tuple(firsts), solutions=tuple(seconds)),
        StageMatch(stage="mosaic_tiles", members=tuple(members), solutions=(mosaic,)),
    ]
    records = {name: cutout.record for name, cutout in exposures.items()}
    stated = field_errors(stages, records, settings, Given())
    assert stated is not None
    planes = {m.name: m.plane for s in seconds for m in s.members}, {m.name: m.plane for m in mosaic.members}
    reference = mosaic.components[0].reference
    assert reference is not None
    zero = [truth[name] for name in fixed[reference]]
    errors = []
    for name, record in records.items():
        at = record.centre
        mean = sum((one.about(*at) for one in zero), start=Plane(x0=at[0], y0=at[1]))
        found = planes[0][name].about(*at) + planes[1][name[:3]].about(*at)
        errors.append(
            [
                getattr(found, term) - getattr(truth[name].about(*at), term) + getattr(mean, term) / len(zero)
                for term in ("level", "slope_x", "slope_y")
            ]
        )
    free = np.array([name not in fixed[reference] for name in records])
    return Program(list(records.values()), np.array(errors), stated, free)


def rms_pulls(programs: int, tiles: tuple[int, int], dithers: int, fits: tuple[str, str], method: str) -> np.ndarray:
    """Return (3,) the rms of the pulls of levels and slopes, where they are not held at 0."""
    squares, count = np.zeros(3), np.zeros(3)
    for seed in range(programs):
        made = program(seed, tiles, dithers, fits, method)
        there = (made.sigma > 0) & made.free[:, None]
        pulls = np.divide(made.errors, made.sigma, out=np.zeros_like(made.errors), where=there)
        squares += np.sum(pulls**2, axis=0)
        count += there.sum(axis=0)
    return np.sqrt(squares / np.maximum(count, 1))


@pytest.mark.slow
@pytest.mark.parametrize("fits", [("level", "level"), ("level", "level+slope")])
def test_pulls_of_totals(fits: tuple[str, str]) -> None:
    found = rms_pulls(150, (2, 2), 4, fits, "error")  # 40 are too few: their rms scatters by 6 % itself
    assert found[: 1 if fits[1] == "level" else 3] == pytest.approx(1.0, abs=0.15)


@pytest.mark.full
@pytest.mark.parametrize("dithers", [4, 8])
@pytest.mark.parametrize("fits", [("level", "level"), ("level", "level+slope"), ("level+slope", "level+slope")])
@pytest.mark.parametrize("method", ["equal", "error"])
def test_pulls_of_totals_in_200_programs(dithers: int, fits: tuple[str, str], method: str) -> None:
    found = rms_pulls(200, (3, 3), dithers, fits, method)
    assert found[: 1 if fits[1] == "level" else 3] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("fits", [("level", "level"), ("level", "level+slope")])
def test_the_map_has_the_error_of_an_exposure_that_lies_alone(fits: tuple[str, str]) -> None:
    made = program(0, (2, 2), 2, fits, "error")
    (at, levels), sigma = made.stated.maps[ONE], made.sigma
    outlines = [shapely.Polygon(record.outline) for record in made.records]
    compared = 0
    for row, column in np.ndindex(at.shape):
        x, y = at.x0 + column * at.step, at.y0 + row * at.step
        fixed = [number for number, outline in enumerate(outlines) if shapely.contains_xy(outline, x, y)]
        level = levels[row, column]
        assert np.isnan(level) == (not fixed)
        if len(fixed) != 1:
            continue
        record = made.records[fixed[0]]
        if fits[1] == "level":
            assert level == pytest.approx(sigma[fixed[0], 0])
            compared += 1
        elif sigma[fixed[0], 1:].all() and np.hypot(x - record.centre[0], y - record.centre[1]) > 0.6 * SIZE:
            assert level > sigma[fixed[0], 0]  # slopes count in the corner
            compared += 1
    assert compared > 20
