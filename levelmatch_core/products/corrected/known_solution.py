"""An existing solution, read from its corrections table, for the commands undo, verify and apply."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.matching.corrections import Correction, Status, place_name
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.products.tables import read_corrections, window_of
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings, WcsSource
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import ONE
from levelmatch_core.sky.plane import Plane
from levelmatch_core.text.naming import some_of

_TERMS = ("level", "slope_x", "slope_y")
_LARGEST, _FARTHEST = 1e30, 1e9
"""Numbers from here on are absurd: levels and slopes, data unit; places on the grid, pixels, and numbers of HDUs."""

_WIDEST = 36000.0
"""Size of a grid's pixel that is absurd, arcsec: no field is wider."""

PRODUCTS = "tiles/"
"""The folder of corrected files, as in the table."""


class Known(Record):
    """One row of a corrections table, of an exposure that did not fail."""

    exposure: str
    file: str
    product: str
    """Name of its corrected file below `tiles/`."""
    hdu: int
    """The HDU of `file` that contains the image."""
    window: Window | None
    wcs_source: WcsSource
    """Origin of the WCS that was used to evaluate slopes on the image."""
    field: str
    unit: str
    status: Status
    component: int | None
    reference: str
    provisional: bool
    partial: bool
    fits: dict[str, str]
    """Stage -> fit type, for the stages in which it took part."""
    stages: dict[str, Plane]
    total: Plane
    """The total correction."""
    sigma: tuple[float, float, float]
    local_sky: float
    per_area: bool
    """Whether the correction was scaled with the area of each pixel."""
    divisor: float = 1.0
    """By what the input's values were divided to be matched: corrections were multiplied by it."""
    blanks: tuple[float, ...] = ()
    """Values of its blank pixels, which stayed."""
    patch: str = ONE
    """The patch of a wide field on whose grid its planes are."""

    @property
    def place(self) -> str:
        """Name of the grid of its planes."""
        return place_name(self.field, self.patch)

    def correction(self, exposure: Exposure) -> Correction:
        """Return the correction of the same exposure in another reduction (or the same one)."""
        return Correction(
            exposure=exposure.model_copy(update={"per_area": self.per_area, "divisor": self.divisor}),
            field=self.field,
            status=self.status,
            component=self.component,
            reference=self.reference,
            provisional=self.provisional,
            partial=self.partial,
            stages=self.stages,
            # the original sum: the total minus the local sky would differ in the last digit
            plane=sum(self.stages.values(), start=Plane(x0=self.total.x0, y0=self.total.y0)),
            sigma=self.sigma,
            local_sky=self.local_sky,
            patch=self.patch,
        )

    @property
    def is_window(self) -> bool:
        """Whether it is the inside of a window."""
        return self.window is not None and self.window.inside


@dataclass(frozen=True)
class KnownImage:
    """One image of a corrected file, and the one or two rows with its corrections."""

    hdu: int
    main: Known
    second: Known | None
    """The row of the window, if it is connected to the main part."""

    @property
    def masked(self) -> bool:
        """Whether a part was masked because nothing connected it to the rest: those pixels are lost."""
        return self.main.window is not None and self.second is None

    @property
    def untouched(self) -> bool:
        """Whether its pixels were copied, because the exposure was alone."""
        nothing = self.main.total.is_level and self.main.total.level == 0
        return self.main.status is Status.ALONE and nothing and self.main.window is None


@dataclass(frozen=True)
class KnownSolution:
    """The content of a corrections table."""

    rows: tuple[Known, ...]
    failed: tuple[str, ...]
    """Names of the exposures that failed, for which there is no correction."""
    grids: Mapping[str, Grid]
    """By field, and by place (`Known.place`) for the patches of wide ones."""
    fields: frozenset[str] = frozenset()
    """Names of the fields."""
    instruments: tuple[InstrumentTable, ...] = ()
    """Instrument tables given by the user."""
    blank: str | float = "auto"
    plane: int | None = None
    """The setting of that name."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a corrections.ecsv.

        Raises
        ------
        UsageError
            If the file is not such a table, or incomplete.
        """
        table = read_corrections(path)
        try:
            grids = {name: Grid.from_json(grid["record"]) for name, grid in table.meta["grids"].items()}
            fields = frozenset(grids)
            for name, grid in table.meta["grids"].items():
                patches = grid.get("patches", {})
                grids |= {place_name(name, patch): Grid.from_json(patches[patch]["record"]) for patch in patches}
            found = [{name: _plain(row[name]) for name in table.colnames} for row in table]
            instruments = tuple(InstrumentTable.from_json(one) for one in table.meta.get("instruments", ()))
            failed = tuple(row["exposure"] for row in found if row["status"] == Status.FAILED)
            per_area = table.meta.get("per_area", {})
            divisors, blanks = table.meta.get("divisors", {}), table.meta.get("blanks", {})
            rows = tuple(
                _known(
                    {
                        **row,
                        "per_area": row["field"] in per_area,
                        "divisor": divisors.get(row["exposure"], 1.0),
                        "blanks": tuple(blanks.get(row["exposure"], ())),
                    }
                )
                for row in found
                if row["status"] != Status.FAILED
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ValidationError) as error:
            message = (
                f"{path}: not a complete corrections table ({type(error).__name__}: {error}); use the one that "
                f"levelmatch wrote, unchanged"
            )
            raise UsageError(message) from error
        for row in rows:
            _refuse_absurd(path, row)
        for name, grid in grids.items():
            if abs(grid.ra) > 360 or abs(grid.dec) > 90 or abs(grid.angle) > 360 or grid.scale > _WIDEST:
                message = f"{path}: the grid of field {name} is none of a sky; use the table that levelmatch wrote"
                raise UsageError(message)
        lacking = sorted({row.place for row in rows} - grids.keys())
        if lacking:
            message = f"{path}: no grid for the fields {some_of(lacking)}; use the table that levelmatch wrote"
            raise UsageError(message)
        return cls(rows, failed, grids, fields, instruments, table.meta.get("blank", "auto"), table.meta.get("plane"))

    def products(self) -> dict[str, list[Known]]:
        """Return the rows by the corrected file that they belong to, sorted."""
        found: dict[str, list[Known]] = {}
        for row in self.rows:
            found.setdefault(row.product, []).append(row)
        return dict(sorted(found.items()))

    def settings(self) -> MatchSettings:
        """Return the settings of the run that are in the table: fit types, Lyot splitting, WCS, instruments."""
        fits = {f"fit_type_{stage}": kind for row in self.rows for stage, kind in row.fits.items()}
        split = any(row.window is not None for row in self.rows)
        gwcs = any(row.wcs_source == "gwcs" for row in self.rows)
        further = {"wcs_source": "gwcs" if gwcs else "header", "instruments": self.instruments, "blank": self.blank}
        return MatchSettings.from_mapping({**fits, "recombine_lyot": split, "plane": self.plane, **further})


def _refuse_absurd(path: Path, row: Known) -> None:
    """Refuse numbers that no solution has: what would be subtracted is not finite, or no float32 holds it.

    Raises
    ------
    UsageError
        If a row has one.
    """
    planes = {"total": row.total, **row.stages}
    numbers = {f"{name} {term}": getattr(plane, term) for name, plane in planes.items() for term in _TERMS}
    numbers |= {"local_sky": row.local_sky} | dict(
        zip(("sigma_level", "sigma_slope_x", "sigma_slope_y"), row.sigma, strict=True)
    )
    absurd = {name: value for name, value in numbers.items() if not abs(value) < _LARGEST}
    places = {"x0": row.total.x0, "y0": row.total.y0, "hdu": row.hdu}
    absurd |= {name: value for name, value in places.items() if not abs(value) < _FARTHEST}
    if absurd:
        name, value = next(iter(absurd.items()))
        message = f"{path}: {row.exposure}: {name} is {value!r}; take the table that levelmatch wrote, unchanged"
        raise UsageError(message)


def images_of(rows: Iterable[Known]) -> list[KnownImage]:
    """Return the images of one corrected file; two files that form one image give one, in the HDU of the main file."""
    rows = list(rows)
    if len({row.file for row in rows}) > 1:
        return [_image(rows)]
    by_hdu: dict[int, list[Known]] = {}
    for row in rows:
        by_hdu.setdefault(row.hdu, []).append(row)
    return [_image(group) for _, group in sorted(by_hdu.items())]


def _image(rows: list[Known]) -> KnownImage:
    main, *others = sorted(rows, key=lambda row: row.is_window)
    tied = [row for row in others if (row.field, row.component) == (main.field, main.component)]
    return KnownImage(main.hdu, main, tied[0] if tied else None)


def _known(row: dict[str, Any]) -> Known:
    x0, y0 = row["x0"], row["y0"]

    def plane(prefix: str) -> Plane:
        terms = {term: row[prefix + term] for term in ("level", "slope_x", "slope_y")}
        return Plane(**terms, x0=x0, y0=y0)

    fits = {stage.name: row[f"{stage.name}_fit"] for stage in STAGES if row[f"{stage.name}_fit"]}
    return Known(
        **{name: row[name] for name in ("exposure", "file", "hdu", "field", "unit", "component", "reference")},
        **{name: row[name] for name in ("provisional", "partial", "local_sky", "per_area", "divisor", "blanks")},
        product=row["product"].removeprefix(PRODUCTS),
        patch=row.get("patch", ONE),
        window=window_of(row["window"]),
        wcs_source=row["wcs_source"],
        status=Status(row["status"]),
        fits=fits,
        stages={name: plane(f"{name}_") for name in fits},
        total=plane(""),
        sigma=(row["sigma_level"], row["sigma_slope_x"], row["sigma_slope_y"]),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of a table
    """Return a cell as a plain Python value; None if it is masked."""
    if value is np.ma.masked:
        return None
    return value.item() if isinstance(value, np.generic) else value
