"""What the user gives beside images: known levels, rules for pairs, a survey image, regions to leave out.

All of these files are read here, once, when a run begins; what they say travels on as a record, so that a result hangs
on their content and not on where they lie.
"""

import csv
import difflib
import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import Field as Described

from levelmatch_core.errors import NoInputError, SettingsError, UsageError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.images.exposure import Exposure, Inventory
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.reading import file_digest
from levelmatch_core.records import Place, Record
from levelmatch_core.settings import MatchSettings

ANCHOR = "anchor:"
"""What the name of a survey image begins with."""


class Action(StrEnum):
    """What may be said of a pair."""

    FORCE = "force"
    """Used whatever its numbers say."""
    FORBID = "forbid"
    """Never used."""
    TIE = "tie"
    """A difference that is known from elsewhere: correction of the second minus that of the first."""


class GivenLevel(Record):
    """A tile's correction, as known from elsewhere."""

    tile: str
    level: float = Described(description="data unit, at the middle of the tile")
    error: float = Described(description="1 sigma, data unit; 0 locks it")


class PairRule(Record):
    """What is to be done with a pair of tiles."""

    first: str
    second: str
    action: Action
    difference: float = Described(default=0.0, description="of a tie: correction of second - first, data unit")
    error: float = Described(default=0.0, description="of a tie: 1 sigma")


class SkyMask(Record):
    """A file that says which part of the sky is left out."""

    path: Place
    digest: str = Described(description="sha256 (hex) of the file's bytes")


class Given(Record):
    """All that the user gave, as far as it concerns the solve."""

    levels: tuple[GivenLevel, ...] = Described(default=(), description="locked tiles too, with error 0; sorted")
    rules: tuple[PairRule, ...] = Described(default=(), description="sorted")


class GivenFiles(Record):
    """All that the user gave."""

    given: Given = Given()
    exclude: SkyMask | None = None
    anchor: Exposure | None = Described(default=None, description="the survey image")
    digests: dict[str, str] = Described(default={}, description="sha256 of each file, by its setting")


def read_given(settings: MatchSettings, inventory: Inventory) -> GivenFiles:
    """Read the files that the settings name, and check the tiles that they name.

    Raises
    ------
    SettingsError
        If a file cannot be read, lacks a column, holds no number, or names a tile that the input has not.
    """
    tiles = sorted({exposure.tile for field in inventory.fields for exposure in field.exposures})
    groups = {group for field in inventory.fields for exposure in field.exposures for group in exposure.groups.values()}
    names = {exposure.name for field in inventory.fields for exposure in field.exposures}
    known = groups.union(tiles, names)
    levels = {} if settings.levels is None else {one.tile: one for one in _levels(settings.levels)}
    for tile in settings.locked:
        there = levels.get(tile)
        levels[tile] = GivenLevel(tile=tile, level=there.level if there else 0.0, error=0.0)
    rules = () if settings.pairs is None else tuple(_rules(settings.pairs))
    _check("locked", settings.locked, known, tiles)
    _check(f"levels {settings.levels}", levels, known, tiles)
    _check(f"pairs {settings.pairs}", [name for rule in rules for name in (rule.first, rule.second)], known, tiles)
    files = {name: getattr(settings, name) for name in ("levels", "pairs", "exclude_regions", "anchor_image")}
    digests = {name: _digest(name, path) for name, path in files.items() if path is not None}
    exclude = settings.exclude_regions
    return GivenFiles(
        given=Given(
            levels=tuple(levels[tile] for tile in sorted(levels)),
            rules=tuple(sorted(rules, key=lambda rule: (rule.first, rule.second, rule.action))),
        ),
        exclude=None if exclude is None else SkyMask(path=exclude.absolute(), digest=digests["exclude_regions"]),
        anchor=_anchor(settings, inventory),
        digests=digests,
    )


def _anchor(settings: MatchSettings, inventory: Inventory) -> Exposure | None:
    """Return the survey image, under a name that no exposure has."""
    path = settings.anchor_image
    if path is None:
        return None
    plain = {"band": None, "step_ext": None, "recombine_lyot": False, "combine_nircam_short": False}
    try:
        found = take_inventory([path], settings.model_copy(update=plain), whole_sky=True)
    except (NoInputError, UsageError) as error:
        message = f"anchor_image {path}: cannot be used ({error})"
        raise SettingsError(message) from error
    images = [exposure for field in found.fields for exposure in field.exposures]
    units = sorted({field.unit for field in inventory.fields})
    if len(images) != 1 or images[0].unit not in units:
        message = (
            f"anchor_image {path}: holds {len(images)} images, the first in {images[0].unit or 'no unit'}; expected "
            f"one image in {' or '.join(unit or 'no unit' for unit in units)}, as the exposures have it"
        )
        raise SettingsError(message)
    return images[0].model_copy(update={"name": f"{ANCHOR}{images[0].name}", "tile": f"{ANCHOR}{images[0].tile}"})


def _digest(name: str, path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        message = f"setting {name}={str(path)!r}: cannot be read ({error})"
        raise SettingsError(message) from error


def _check(where: str, named: Iterable[str], known: set[str], tiles: Sequence[str]) -> None:
    strange = sorted(set(named) - known)
    if strange:
        near = difflib.get_close_matches(strange[0], tiles, n=3) or tiles[:10]
        message = f"{where}: {strange[0]!r} is no tile of the input; tiles: {', '.join(near)}"
        raise SettingsError(message)


def _levels(path: Path) -> Iterable[GivenLevel]:
    rows = _rows("levels", path, ("tile", "level", "error"))
    seen: set[str] = set()
    for number, row in rows:
        level, error = (_number("levels", path, number, name, row[name]) for name in ("level", "error"))
        if error < 0 or row["tile"] in seen:
            what = "a negative error" if error < 0 else f"tile {row['tile']!r} given twice"
            message = f"levels {path}, row {number}: {what}; expected one row a tile with an error of 0 or more"
            raise SettingsError(message)
        seen.add(row["tile"])
        yield GivenLevel(tile=row["tile"], level=level, error=error)


def _rules(path: Path) -> Iterable[PairRule]:
    seen: set[frozenset[str]] = set()
    for number, row in _rows("pairs", path, ("first", "second", "action")):
        first, second, action = row["first"], row["second"], row["action"]
        pair = frozenset((first, second))
        if action not in list(Action) or len(pair) == 1 or pair in seen:
            message = (
                f"pairs {path}, row {number} ({first}, {second}, {action}): expected two different tiles, each pair "
                f"once, and an action of {', '.join(Action)}"
            )
            raise SettingsError(message)
        seen.add(pair)
        difference, error = 0.0, 0.0
        if action == Action.TIE:
            difference, error = (
                _number("pairs", path, number, name, row.get(name, "")) for name in ("difference", "error")
            )
            if error <= 0:
                message = f"pairs {path}, row {number}: a tie needs an error above 0, in the data's unit"
                raise SettingsError(message)
        if first > second:
            first, second, difference = second, first, -difference
        yield PairRule(first=first, second=second, action=Action(action), difference=difference, error=error)


def _rows(name: str, path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV or ECSV table as text, with their numbers."""
    refuse_irregular(path, SettingsError, f"{name} {path}")
    try:
        if path.suffix.lower() == ".ecsv":
            # here and no earlier: tables take a third of a second to import
            from levelmatch_core.files.ecsv import read_ecsv  # noqa: PLC0415

            table = read_ecsv(path)
            rows = [{column: str(row[column]) for column in table.colnames} for row in table]
            found = list(table.colnames)
        else:
            with path.open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader((line for line in stream if not line.startswith("#")), skipinitialspace=True)
                rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
                found = list(reader.fieldnames or [])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        message = f"{name} {path}: cannot be read as a table ({' '.join(str(error).split())})"
        raise SettingsError(message) from error
    missing = [column for column in columns if column not in found]
    if missing:
        message = f"{name} {path}: no column {', '.join(missing)} (found {', '.join(found)}); expected CSV or ECSV"
        raise SettingsError(message)
    return list(enumerate(rows, start=1))


def _number(name: str, path: Path, row: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"{name} {path}, row {row}: {column} is {text!r}, expected a number"
        raise SettingsError(message)
    return value
