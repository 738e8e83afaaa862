"""The plan of a run from headers alone: tiles, fields, pairs, references and cost. Nothing is written.

Grids, groups, pairs and references are chosen with the functions that a run uses. Only the members are predicted, from
footprints, so that the plan also contains pairs whose common pixels are all masked, which a run does not find.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field as Described

from levelmatch_core.images.exposure import Exposure, Failure, Field, Inventory, field_title
from levelmatch_core.images.given import read_given
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.wide import POINTS
from levelmatch_core.jobs.groups import single_member
from levelmatch_core.matching.graph import choose_reference, components
from levelmatch_core.matching.pairs import Pair, candidate_pairs, outlines, pairs_by_patch
from levelmatch_core.matching.reference_history import Zeros
from levelmatch_core.matching.results import Gauge, Member
from levelmatch_core.matching.stages import STAGES, Merger, Stage, groups_of
from levelmatch_core.pipeline import Request, inventory_of, layout_for, zeros_of
from levelmatch_core.products.lost_parts import EarlierProducts
from levelmatch_core.products.output.checks import check_folder
from levelmatch_core.products.output.folder import RUN
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.records import Record
from levelmatch_core.settings import FitChoice, MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord, StoredArray
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import Layout
from levelmatch_core.sky.pixelmap import is_near
from levelmatch_core.sky.plane import Plane

SECONDS = {"cutouts": 0.11, "pairs": 0.1, "products": 0.08, "figures": 5.0, "start": 4.0}
"""CPU seconds per million pixels (figures: per field; start: per run), measured on one core of a small machine."""

_EMPTY = StoredArray(file="planned.npy", sha256="0" * 64)


class PlannedPair(Record):
    """Two members with overlapping footprints."""

    first: str
    second: str
    overlap: float = Described(description="common area of the footprints, grid pixels")
    small: bool = Described(description="whether that is too small according to min_area_percent")


class PlannedGroup(Record):
    """One group of a stage."""

    name: str
    members: tuple[str, ...]
    pairs: tuple[PlannedPair, ...]
    components: int = Described(description="number of sets of members that are connected by pairs")
    references: tuple[tuple[str, str], ...] = Described(
        description="expected reference of each component, and the reason"
    )


class PlannedStage(Record):
    """One stage of a field."""

    stage: str
    title: str
    fit_type: FitChoice
    groups: tuple[PlannedGroup, ...]


class PlannedField(Record):
    """One field."""

    name: str
    instrument: str
    band: str
    unit: str
    grid: Grid
    patches: int = Described(default=1, description="number of tangent planes, each with a mosaic")
    shape: tuple[int, int] = Described(description="rows, columns of the mosaic, or of the largest one")
    tiles: dict[str, tuple[str, ...]] = Described(description="exposures of each tile")
    stages: tuple[PlannedStage, ...]


class Cost(Record):
    """A rough estimate for a first run, without cached results."""

    cpu_seconds: float
    store_bytes: int = Described(description="cutouts")
    output_bytes: int = Described(description="corrected files and mosaics")


class Plan(Record):
    """The plan of a run."""

    fields: tuple[PlannedField, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    cost: Cost


def plan_run(request: Request) -> Plan:
    """Return the plan of a run; nothing is written.

    Raises
    ------
    UsageError
        If an input, a setting or the output folder cannot be used by a run.
    NoInputError
        If no exposure is usable.
    """
    check_folder(request.output, request.settings, request.inputs)
    record = request.output / RUN
    previous = RunRecord.load(record) if record.is_file() else None
    inventory = inventory_of(request, EarlierProducts(request.output, previous, prune=request.prune))
    read_given(request.settings, inventory)
    fields = tuple(
        _field(field, request.settings, previous, zeros_of(field, inventory, request.settings, previous))
        for field in inventory.fields
    )
    return Plan(
        fields=fields,
        failures=inventory.failures,
        notes=inventory.notes,
        cost=_cost(inventory, fields, request.settings),
    )


def _field(field: Field, settings: MatchSettings, previous: RunRecord | None, zeros: Zeros) -> PlannedField:
    layout = layout_for(field, previous)
    members = [_member(exposure, layout) for exposure in field.exposures]
    sizes = []
    for patch in layout.grids:
        boxes = np.array([_box(found[patch]) for found in (member.on_patches for member in members) if patch in found])
        sizes.append((boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)).tolist())
    wide, tall = max(sizes, key=lambda size: size[0] * size[1])
    tiles: dict[str, list[str]] = {}
    for exposure in field.exposures:
        tiles.setdefault(exposure.tile, []).append(exposure.name)
    stages = []
    for stage in STAGES:
        groups = groups_of(stage, members)
        if not groups:
            continue
        planned = [_group(stage, name, group, settings, zeros) for name, group in groups.items()]
        stages.append(
            PlannedStage(
                stage=stage.name, title=stage.title, fit_type=settings.fit_choice(stage.name), groups=tuple(planned)
            )
        )
        if stage is STAGES[-1]:  # its members, which may be on several patches, are merged no further
            break
        members = sorted(
            [member for member in members if stage.name not in member.groups]
            + [merged for name, group in groups.items() for merged in _merged(name, group)],
            key=lambda member: member.name,
        )
    return PlannedField(
        name=field.name,
        instrument=field.instrument,
        band=field.band,
        unit=field.unit,
        grid=layout.grid,
        patches=len(layout.grids),
        shape=(int(tall), int(wide)),
        tiles={name: tuple(found) for name, found in sorted(tiles.items())},
        stages=tuple(stages),
    )


# -- predicted members -------------------------------------------------------------------------------------------------
def _member(exposure: Exposure, layout: Layout) -> Member:
    views = {}
    for patch in layout.patches[exposure.name]:
        grid = layout.grids[patch]
        x, y = grid.to_pixel(*np.array(exposure.footprint).T)
        if not is_near(grid, x, y).all():  # of a wide exposure a patch may show a part
            x, y = grid.to_pixel(*_within(exposure.footprint))
        seen = is_near(grid, x, y)
        if seen.sum() > 2:
            hull = shapely.convex_hull(shapely.multipoints(np.stack([x[seen], y[seen]], axis=1)))
            corners = np.stack([x, y], axis=1) if seen.all() else shapely.get_coordinates(hull)[:-1]
            views[patch] = _cutout(exposure.name, corners)
    return single_member(exposure, views, layout)


def _within(footprint: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Return (2, n) RA and Dec of points all over an outline."""
    corners = unit_vectors(footprint)
    part = np.linspace(0.0, 1.0, POINTS)[:, None]
    edges = np.concatenate([a + part * (b - a) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)])
    middle = corners.mean(axis=0)
    x, y, z = np.concatenate([middle + one * (edges - middle) for one in part[::4, 0]]).T
    return np.stack([np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))])


def _cutout(name: str, corners: NDArray[np.float64]) -> CutoutRecord:
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    wide, tall = (high - low).astype(int).tolist()
    return CutoutRecord(
        name=name,
        array=_EMPTY,
        x0=int(low[0]),
        y0=int(low[1]),
        shape=(tall, wide),
        has_variance=False,
        n_valid=int(shapely.convex_hull(shapely.multipoints(corners)).area),
        noise_gain=1.0,
        axis_angle=0.0,
        extent=(float(wide), float(tall)),
        outline=tuple((float(x), float(y)) for x, y in corners),
    )


def _box(cutout: CutoutRecord) -> tuple[int, int, int, int]:
    return cutout.x0, cutout.y0, cutout.x0 + cutout.shape[1], cutout.y0 + cutout.shape[0]


def _merged(name: str, members: Sequence[Member]) -> list[Member]:
    """Return the members of the next stage: one for each set connected by footprints."""
    by_name = {member.name: member for member in members}
    merged = []
    for number, part in enumerate(components(by_name, candidate_pairs(members)), start=1):
        parts = tuple(by_name[each] for each in part)
        label = name if number == 1 else f"{name}~{number}"
        merger = Merger(name=label, members=parts, planes=(Plane(),) * len(parts))
        views = {
            patch: _cutout(label, np.concatenate([np.array(member.on_patches[patch].outline) for member in parts]))
            for patch in merger.patches
        }
        cutout, *_ = views.values()
        merged.append(merger.member(cutout, list(views.items())[1:]))
    return merged


def _group(stage: Stage, name: str, members: Sequence[Member], settings: MatchSettings, zeros: Zeros) -> PlannedGroup:
    by_name = {member.name: member for member in members}
    overlaps: dict[Pair, float] = {}
    for _, here, pairs in pairs_by_patch(members):
        seen = {member.name: member for member in here}
        overlaps |= {pair: _overlap(seen, pair) for pair in pairs}
    overlaps = dict(sorted(overlaps.items()))
    smallest = settings.min_area_percent * float(np.mean(list(overlaps.values()))) if overlaps else 0.0
    usable = [pair for pair, overlap in overlaps.items() if overlap >= smallest]
    parts = components(by_name, usable)
    references = [
        _reference([by_name[each] for each in part], usable, settings, zeros)
        for part in parts
        if stage.gauge is Gauge.REFERENCE and len(part) > 1
    ]
    return PlannedGroup(
        name=name,
        members=tuple(by_name),
        pairs=tuple(
            PlannedPair(first=first, second=second, overlap=round(overlap, 1), small=overlap < smallest)
            for (first, second), overlap in overlaps.items()
        ),
        components=len(parts),
        references=tuple(references),
    )


def _reference(
    members: Sequence[Member], pairs: Sequence[Pair], settings: MatchSettings, zeros: Zeros
) -> tuple[str, str]:
    """Return the expected reference of a component, and the reason; `?` marks one that replaces a missing one."""
    name, reason = choose_reference(members, pairs, settings.reference, zeros.preferred)
    exposures = [exposure for member in members for exposure in member.exposures]
    tiles = {tile for member in members for tile in (member.name, *member.tile.split("+"))}
    stands_for = zeros.stands_for(exposures, tiles)
    if stands_for is None:
        return name, reason
    return f"{name}?", f"provisional, {f'{stands_for} is missing' if stands_for else 'a tile is missing'}; {reason}"


def _overlap(members: Mapping[str, Member], pair: Pair) -> float:
    first, second = outlines([members[name].cutout for name in pair])
    return float(first.intersection(second).area)


def _cost(inventory: Inventory, fields: Sequence[PlannedField], settings: MatchSettings) -> Cost:
    exposures = [exposure for field in inventory.fields for exposure in field.exposures]
    pixels = sum(exposure.shape[0] * exposure.shape[1] for exposure in exposures)
    planes = sum(
        exposure.shape[0] * exposure.shape[1] * (2 if exposure.err is not None else 1) for exposure in exposures
    )
    common = sum(
        pair.overlap for field in fields for stage in field.stages for group in stage.groups for pair in group.pairs
    )
    mosaic = sum(field.patches * field.shape[0] * field.shape[1] for field in fields)
    seconds = (
        SECONDS["start"]
        + (SECONDS["figures"] * len(fields) if settings.figures != "none" else 0.0)
        + (SECONDS["cutouts"] * pixels + SECONDS["pairs"] * common + SECONDS["products"] * (pixels + mosaic)) / 1e6
    )
    files = {exposure.path: exposure.path.stat().st_size for exposure in exposures}
    return Cost(cpu_seconds=round(seconds, 1), store_bytes=4 * planes, output_bytes=sum(files.values()) + 14 * mosaic)


# -- in words ----------------------------------------------------------------------------------------------------------
def describe(plan: Plan) -> str:
    """Return the plan as text for the user."""
    lines = [f"{failure.name}: would be left out: {failure.reason}" for failure in plan.failures]
    lines += plan.notes
    for field in plan.fields:
        count = sum(map(len, field.tiles.values()))
        lines.append(
            f"{field_title(field.name)}: {count} exposures in {len(field.tiles)} tiles; {_mosaics(field)} of "
            f"{field.shape[1]} x {field.shape[0]} pixels of {field.grid.scale:g} arcsec"
        )
        lines += [f"  tile {tile}: {', '.join(exposures)}" for tile, exposures in field.tiles.items()]
        for stage in field.stages:
            lines += _stage_lines(stage)
    cost = plan.cost
    lines.append(
        f"cost: about {cost.cpu_seconds:.0f} s of CPU time, {cost.store_bytes / 1e6:.0f} MB of cutouts in the cache, "
        f"{cost.output_bytes / 1e6:.0f} MB of output"
    )
    return "\n".join(lines)


def _mosaics(field: PlannedField) -> str:
    return "mosaic" if field.patches == 1 else f"{field.patches} mosaics on tangent planes of their own, the largest"


def _stage_lines(stage: PlannedStage) -> list[str]:
    pairs = sum(len(group.pairs) for group in stage.groups)
    matched = [group for group in stage.groups if len(group.members) > 1]
    if not matched:
        return [f"  {stage.title}: nothing to match"]
    lines = [f"  {stage.title}: {len(matched)} groups, {pairs} pairs, fit {stage.fit_type}"]
    for group in matched:
        lines.append(f"    {group.name}: {len(group.members)} members")
        for pair in group.pairs:
            small = ", too small (min_area_percent)" if pair.small else ""
            lines.append(f"      {pair.first} - {pair.second}: {pair.overlap:.0f} pixels{small}")
        if group.components > 1:
            lines.append(f"      {group.components} parts that no pair connects: their relative levels remain unknown")
        lines += [f"      expected reference {name}: {reason}" for name, reason in group.references]
    return lines
