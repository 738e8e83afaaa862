"""The exact record of all corrections and pairs, as tables that astropy can read (ECSV)."""

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from levelmatch_core.errors import UsageError
from levelmatch_core.files.ecsv import BLOCK, FAULTS, read_ecsv, write_ecsv
from levelmatch_core.images.exposure import Window
from levelmatch_core.matching.corrections import Correction, FieldMatch, Sigma, Status
from levelmatch_core.matching.results import PairResult, Solution, patch_of
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.sky.plane import Plane

SCHEMA = 1
"""Version of the layout of the tables."""

CONVENTION = (
    "corrections are subtracted: corrected = input - correction; "
    "correction(x, y) = level + slope_x (x - x0) + slope_y (y - y0), with x the grid's column and y its row, counted "
    "from 0 at the tangent point of the field's grid (its WCS is below, under grids); slopes are per grid pixel; the "
    "total's level holds the stages' levels and local_sky"
)

PATCHES = (
    "a field with patches is too wide for one tangent plane: x0, y0 and slopes of an exposure, and of a pair, are on "
    "the grid of the patch that its row names (under grids, patches)"
)

PER_AREA = (
    "in the fields under per_area (field: area, arcsec2) the data are a flux in each pixel and pixels differ in "
    "area: corrections are those of a pixel of that area, and each pixel of an input has its correction multiplied "
    "by its own area over that one before it is subtracted"
)

DIVISORS = (
    "the values of the exposures under divisors (exposure: seconds) were divided by that exposure time before they "
    "were matched: corrections are rates, and are multiplied by it before they are subtracted from the input"
)

_PLANE = ("level", "slope_x", "slope_y")


def write_corrections(path: Path, field_matches: Iterable[FieldMatch]) -> None:
    """Write corrections.ecsv: see :func:`corrections_table`. The same corrections give the same bytes."""
    write_ecsv(path, corrections_table(field_matches))


def write_pairs(path: Path, field_matches: Iterable[FieldMatch]) -> None:
    """Write pairs.ecsv: see :func:`pairs_table`. The same pairs give the same bytes."""
    write_ecsv(path, pairs_table(field_matches))


def read_corrections(path: Path) -> Table:
    """Read a corrections.ecsv.

    Returns
    -------
    The table as made by :func:`corrections_table`; `meta["grids"]` contains the grid of each field.

    Raises
    ------
    UsageError
        If the file is not such a table, or of another version.
    """
    return _read(path, "corrections")


def read_pairs(path: Path) -> Table:
    """Read a pairs.ecsv, as made by :func:`pairs_table`.

    Raises
    ------
    UsageError
        If the file is not such a table, or of another version.
    """
    return _read(path, "pairs")


def _read(path: Path, kind: str) -> Table:
    """Read a table written by levelmatch."""
    try:
        table = read_ecsv(path)
    except FAULTS as error:
        reason = " ".join(str(error).split())
        message = f"{path}: not a {kind} table: {reason}; expected the {kind}.ecsv of an output folder"
        raise UsageError(message) from error
    found = table.meta.get("table"), table.meta.get("schema_version")
    if found != (f"levelmatch {kind}", SCHEMA):
        message = f"{path}: {found[0]}, version {found[1]}; expected levelmatch {kind}, version {SCHEMA}"
        raise UsageError(message)
    return table


def corrections_table(field_matches: Iterable[FieldMatch]) -> Table:
    """Return a table with one row per exposure, sorted by field and name.

    Levels are in the data's unit, slopes in that unit per grid pixel, x0 and y0 in grid pixels. `hdu` is the HDU of the
    input that contains the image, `window` the part of the image that the row describes, and `wcs_source` the origin of
    its WCS. A stage in which an exposure does not take part has 0 and no fit type; a failed exposure has NaN and no
    component. `<stage>_sigma_...` are the 1-sigma errors of one stage, `sigma_...` those of all stages together: stages
    use the same pixels, so that their errors do not add in quadrature.
    """
    matches = sorted(field_matches, key=lambda match: match.field.name)
    rows = (_correction_row(match, correction) for match in matches for correction in match.corrections)
    wide = any(match.patches for match in matches)
    table = _table([*_CORRECTION_TYPES, *(_PATCH_TYPES if wide else ())], rows)
    component = np.array(table["component"])  # counted from 1; 0 for none
    table.replace_column("component", MaskedColumn(component, mask=component == 0, dtype=np.int64))
    _describe(table, _unit_of(matches))
    table.meta.update(
        table="levelmatch corrections",
        schema_version=SCHEMA,
        convention=CONVENTION,
        grids={
            match.field.name: {
                "record": match.grid.to_json(),
                "wcs": match.grid.header_cards(),
                "unit": match.field.unit,
                **({"patches": _patches_meta(match)} if match.patches else {}),
            }
            for match in matches
        },
    )
    if wide:
        table.meta["patches_convention"] = PATCHES
    own = {e.table.name: e.table.to_json() for m in matches for e in m.field.exposures if e.table is not None}
    if own:
        table.meta["instruments"] = [own[name] for name in sorted(own)]
    per_area = {match.field.name: match.grid.pixel_area for match in matches if match.field.per_area}
    if per_area:
        table.meta.update(per_area=per_area, per_area_convention=PER_AREA)
    divisors = {e.name: e.divisor for match in matches for e in match.field.exposures if e.divisor != 1.0}
    if divisors:
        table.meta.update(divisors=divisors, divisors_convention=DIVISORS)
    blanks = {one.name: list(one.blanks) for match in matches for one in match.cutouts.values() if one.blanks}
    if blanks:
        table.meta.update(blanks=blanks)
    rules = {e.blank for match in matches for e in match.field.exposures} - {"auto"}
    if rules:  # the setting, which is the same for all
        table.meta.update(blank=rules.pop())
    chosen = {e.plane for match in matches for e in match.field.exposures} - {None}
    if chosen:  # a setting, too
        table.meta.update(plane=chosen.pop())
    return table


def _patches_meta(match: FieldMatch) -> dict[str, dict[str, Any]]:
    """Return the grid of each patch of a wide field."""
    return {patch.name: {"record": patch.grid.to_json(), "wcs": patch.grid.header_cards()} for patch in match.patches}


def pairs_table(field_matches: Iterable[FieldMatch]) -> Table:
    """Return a table with one row per pair and stage, ordered by field, stage, group and members.

    level and slopes describe second minus first before the solve, about x0, y0. residual is the level of the difference
    there after the solve, and residual_sigma its ratio to the residual expected from noise (NaN where nothing tests the
    pair). gain is the slope of the difference against brightness, and gain times brightness the resulting spurious
    level.
    """
    matches = sorted(field_matches, key=lambda match: match.field.name)
    rows = (
        _pair_row(match, solution, pair) | {"patch": patch_of(by_name[pair.fit.first], by_name[pair.fit.second])}
        for match in matches
        for stage in match.stages
        for by_name in ({member.name: member for member in stage.members},)
        for solution in stage.solutions
        for pair in solution.pairs
    )
    wide = any(match.patches for match in matches)
    table = _table([*_PAIR_TYPES, *(_PATCH_TYPES if wide else ())], rows)
    _describe(table, _unit_of(matches))
    table.meta.update(
        table="levelmatch pairs",
        schema_version=SCHEMA,
        convention="level and slopes are those of second - first, before the solve; slopes are per grid pixel",
    )
    return table


# -- rows --------------------------------------------------------------------------------------------------------------
_Types = dict[str, type[Any]]


def _planes(prefix: str) -> _Types:
    return {prefix + term: float for term in _PLANE}


_CORRECTION_TYPES: _Types = {
    **dict.fromkeys(("file", "exposure", "field"), str),
    "component": int,
    **dict.fromkeys(("tile", "detector", "band", "unit", "status", "reference"), str),
    **dict.fromkeys(("provisional", "partial"), bool),
    **dict.fromkeys(("x0", "y0"), float),
    **{
        name: kind
        for s in STAGES
        for name, kind in ({f"{s.name}_fit": str} | _planes(f"{s.name}_") | _planes(f"{s.name}_sigma_")).items()
    },
    **_planes(""),
    **_planes("sigma_"),
    "local_sky": float,
    "product": str,
    "hdu": int,
    "window": str,
    "wcs_source": str,
}

_PATCH_TYPES: _Types = {"patch": str}
"""Where a field has several tangent planes."""

_PAIR_TYPES: _Types = {
    **dict.fromkeys(("field", "stage", "group", "first", "second", "fit_type", "unit"), str),
    **dict.fromkeys(("npix", "n_used"), int),
    **_planes(""),
    **dict.fromkeys(("x0", "y0", "rms", "stderr", "extent_x", "extent_y", "linear_x", "linear_y", "weight"), float),
    "used": bool,
    "reason": str,
    "bridge": bool,
    "residual": float,
    "residual_rms": float,
    "residual_sigma": float,
    "gain": float,
    "sigma_gain": float,
    "brightness": float,
    "likeness": float,
    "sigma_likeness": float,
}


def _correction_row(match: FieldMatch, correction: Correction) -> dict[str, Any]:
    exposure, total = correction.exposure, correction.total
    failed = correction.status is Status.FAILED
    row: dict[str, Any] = {
        "file": exposure.file,
        "exposure": exposure.name,
        "field": correction.field,
        "component": correction.component,
        "tile": exposure.tile,
        "detector": exposure.detector,
        "band": exposure.band,
        "unit": exposure.unit,
        "status": correction.status.value,
        "reference": correction.reference,
        "provisional": correction.provisional,
        "partial": correction.partial,
        "x0": math.nan if failed else total.x0,
        "y0": math.nan if failed else total.y0,
    }
    fits = {stage.stage: next((solution.fit_type for solution in stage.solutions), "") for stage in match.stages}
    for stage in STAGES:
        plane = correction.stages.get(stage.name, Plane())
        row[f"{stage.name}_fit"] = fits.get(stage.name, "") if stage.name in correction.stages else ""
        # all planes of a row refer to the point of the row
        row |= _terms(f"{stage.name}_", plane.about(total.x0, total.y0), failed=failed)
        own = correction.stage_sigmas.get(stage.name, (0.0, 0.0, 0.0))
        row |= _sigmas(f"{stage.name}_sigma_", own, failed=failed)
    row |= _terms("", total, failed=failed)
    row |= _sigmas("sigma_", correction.sigma, failed=failed)
    row["local_sky"] = math.nan if failed else correction.local_sky
    row["product"] = "" if failed else f"tiles/{exposure.product or exposure.file}"
    row["hdu"] = exposure.sci
    row["window"] = window_text(exposure.window)
    row["wcs_source"] = exposure.wcs_source
    row["patch"] = correction.patch
    return row


_WINDOW = re.compile(r"(inside|outside) rows (\d+):(\d+) columns (\d+):(\d+)")


def window_text(window: Window | None) -> str:
    """Return a window as text for tables, such as `inside rows 735:1024 columns 0:290`; '' for a whole image."""
    if window is None:
        return ""
    (first, end), (left, right) = window.rows, window.columns
    return f"{'inside' if window.inside else 'outside'} rows {first}:{end} columns {left}:{right}"


def window_of(text: str) -> Window | None:
    """Return the window described by the result of :func:`window_text`.

    Raises
    ------
    UsageError
        If the text has another form.
    """
    if not text:
        return None
    found = _WINDOW.fullmatch(text)
    if found is None:
        message = f"window {text!r}: expected such as 'inside rows 735:1024 columns 0:290'"
        raise UsageError(message)
    first, end, left, right = map(int, found.groups()[1:])
    return Window(rows=(first, end), columns=(left, right), inside=found[1] == "inside")


def _terms(prefix: str, plane: Plane, *, failed: bool) -> dict[str, float]:
    return {prefix + term: math.nan if failed else getattr(plane, term) for term in _PLANE}


def _sigmas(prefix: str, sigma: Sigma, *, failed: bool) -> dict[str, float]:
    return {prefix + term: math.nan if failed else one for term, one in zip(_PLANE, sigma, strict=True)}


def _pair_row(match: FieldMatch, solution: Solution, pair: PairResult) -> dict[str, Any]:
    fit = pair.fit
    return {
        "field": match.field.name,
        "stage": solution.stage,
        "group": solution.group,
        "first": fit.first,
        "second": fit.second,
        "fit_type": solution.fit_type,
        "unit": match.field.unit,
        "npix": fit.npix,
        "n_used": fit.n_used,
        **_terms("", fit.plane, failed=False),
        "x0": fit.plane.x0,
        "y0": fit.plane.y0,
        "rms": fit.rms,
        "stderr": fit.stderr,
        "extent_x": fit.extent[0],
        "extent_y": fit.extent[1],
        "linear_x": fit.linear[0],
        "linear_y": fit.linear[1],
        "weight": pair.weight,
        "used": pair.rejected is None,
        "reason": pair.rejected.value if pair.rejected is not None else "",
        "bridge": pair.bridge,
        "residual": pair.residual,
        "residual_rms": pair.residual_rms,
        "residual_sigma": pair.residual / pair.sigma if pair.sigma else math.nan,
        **dict(zip(("gain", "sigma_gain", "brightness"), fit.gain or (math.nan,) * 3, strict=True)),
        **dict(zip(("likeness", "sigma_likeness"), fit.likeness or (math.nan,) * 2, strict=True)),
    }


# -- columns -----------------------------------------------------------------------------------------------------------
_DTYPES: dict[type[Any], str] = {int: "i8", float: "f8", bool: "?"}
_TYPES = _CORRECTION_TYPES | _PATCH_TYPES | _PAIR_TYPES
_DATA_UNIT = {
    *_PLANE[:1],
    *(f"{stage.name}_{term}" for stage in STAGES for term in ("level", "sigma_level")),
    *("sigma_level", "local_sky", "rms", "stderr", "residual", "residual_rms", "brightness"),
}
_SLOPES = {
    f"{prefix}{term}"
    for prefix in ("", "sigma_", *(f"{s.name}_{kind}" for s in STAGES for kind in ("", "sigma_")))
    for term in ("slope_x", "slope_y")
}
_PIXELS = {"x0", "y0", "extent_x", "extent_y", "npix", "n_used"}


def _table(names: Sequence[str], rows: Iterator[dict[str, Any]]) -> Table:
    """Return the rows as columns, to which they are turned in blocks: a row by itself takes ten times as much."""
    blocks: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    while block := list(islice(rows, BLOCK)):
        for name, found in blocks.items():
            values = [row[name] for row in block]
            if _TYPES[name] is str:
                found.append(np.array(values, dtype=str))
            else:
                found.append(np.array([value or 0 for value in values], dtype=_DTYPES[_TYPES[name]]))
    table = Table()
    for name, found in blocks.items():
        empty = np.array([], dtype=_DTYPES.get(_TYPES[name], "U1"))
        table[name] = np.concatenate(found) if found else empty
        found.clear()
    return table


def _describe(table: Table, unit: u.UnitBase | None) -> None:
    """Set the units of columns; that of the data only if all fields share one that astropy knows."""
    for name in table.colnames:
        if name in _PIXELS:
            table[name].unit = u.pixel
        elif unit is not None and name in _DATA_UNIT:
            table[name].unit = unit
        elif unit is not None and name in _SLOPES:
            table[name].unit = unit / u.pixel


def _unit_of(matches: Iterable[FieldMatch]) -> u.UnitBase | None:
    names = {match.field.unit for match in matches}
    if len(names) != 1 or names == {""}:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            return u.Unit(names.pop())
    except (ValueError, TypeError):
        return None
