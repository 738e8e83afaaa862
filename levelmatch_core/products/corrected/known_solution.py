"""A solution that was found before, read back from its corrections table: what undo, verify and apply go by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.matching.corrections import Correction, Status
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.products.tables import read_corrections, window_of
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings, WcsSource
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane

PRODUCTS = "tiles/"
"""The folder of corrected files, as the table names it."""


class Known(Record):
    """One row of a corrections table that is not a failed one."""

    exposure: str
    file: str
    product: str
    """Name of its corrected file below `tiles/`."""
    hdu: int
    """The HDU of `file` that holds the image."""
    window: Window | None
    wcs_source: WcsSource
    """Where the WCS was taken from through which slopes were put on the image."""
    field: str
    unit: str
    status: Status
    component: int | None
    reference: str
    provisional: bool
    partial: bool
    fits: dict[str, str]
    """Stage -> fit type, of the stages that it took part in."""
    stages: dict[str, Plane]
    total: Plane
    """All that was subtracted."""
    sigma: tuple[float, float, float]
    local_sky: float
    per_area: bool
    """Whether each pixel got the share of its own area."""

    def correction(self, exposure: Exposure) -> Correction:
        """Return the correction of the same exposure in another reduction (or the same one)."""
        return Correction(
            exposure=exposure.model_copy(update={"per_area": self.per_area}),
            field=self.field,
            status=self.status,
            component=self.component,
            reference=self.reference,
            provisional=self.provisional,
            partial=self.partial,
            stages=self.stages,
            # the sum as it was first made: the total less the local sky would be off in the last digit
            plane=sum(self.stages.values(), start=Plane(x0=self.total.x0, y0=self.total.y0)),
            sigma=self.sigma,
            local_sky=self.local_sky,
        )

    @property
    def is_window(self) -> bool:
        """Whether it is the inside of a window."""
        return self.window is not None and self.window.inside


@dataclass(frozen=True)
class KnownImage:
    """One image of a corrected file, and the one or two rows that say what was subtracted."""

    hdu: int
    main: Known
    second: Known | None
    """Of the window, where that is tied to the main part."""

    @property
    def masked(self) -> bool:
        """Whether a part of it was masked, since nothing tied it to the rest: those pixels are gone."""
        return self.main.window is not None and self.second is None

    @property
    def untouched(self) -> bool:
        """Whether its pixels were copied: it was alone."""
        nothing = self.main.total.is_level and self.main.total.level == 0
        return self.main.status is Status.ALONE and nothing and self.main.window is None


@dataclass(frozen=True)
class KnownSolution:
    """What a corrections table holds."""

    rows: tuple[Known, ...]
    failed: tuple[str, ...]
    """Names of the exposures that failed: nothing is known of them."""
    grids: Mapping[str, Grid]
    instruments: tuple[InstrumentTable, ...] = ()
    """Those that the user named."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a corrections.ecsv.

        Raises
        ------
        UsageError
            If the file is no such table, or lacks something.
        """
        table = read_corrections(path)
        try:
            grids = {name: Grid.from_json(grid["record"]) for name, grid in table.meta["grids"].items()}
            found = [{name: _plain(row[name]) for name in table.colnames} for row in table]
            instruments = tuple(InstrumentTable.from_json(one) for one in table.meta.get("instruments", ()))
            failed = tuple(row["exposure"] for row in found if row["status"] == Status.FAILED)
            per_area = table.meta.get("per_area", {})
            rows = tuple(
                _known({**row, "per_area": row["field"] in per_area}) for row in found if row["status"] != Status.FAILED
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            message = (
                f"{path}: not a whole corrections table ({type(error).__name__}: {error}); take the one that "
                f"levelmatch wrote, unchanged"
            )
            raise UsageError(message) from error
        lacking = sorted({row.field for row in rows} - grids.keys())
        if lacking:
            message = f"{path}: no grid for the fields {', '.join(lacking)}; take the table that levelmatch wrote"
            raise UsageError(message)
        return cls(rows, failed, grids, instruments)

    def products(self) -> dict[str, list[Known]]:
        """Return the rows by the corrected file that they went into, sorted."""
        found: dict[str, list[Known]] = {}
        for row in self.rows:
            found.setdefault(row.product, []).append(row)
        return dict(sorted(found.items()))

    def settings(self) -> MatchSettings:
        """Return the run's settings that the table tells: fit types, whether Lyot was split, WCS, instruments."""
        fits = {f"fit_type_{stage}": kind for row in self.rows for stage, kind in row.fits.items()}
        split = any(row.window is not None for row in self.rows)
        gwcs = any(row.wcs_source == "gwcs" for row in self.rows)
        further = {"wcs_source": "gwcs" if gwcs else "header", "instruments": self.instruments}
        return MatchSettings.from_mapping({**fits, "recombine_lyot": split, **further})


def images_of(rows: Iterable[Known]) -> list[KnownImage]:
    """Return the images of one corrected file; one that two files made together is one image, in the main one's HDU."""
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
        **{name: row[name] for name in ("provisional", "partial", "local_sky", "per_area")},
        product=row["product"].removeprefix(PRODUCTS),
        window=window_of(row["window"]),
        wcs_source=row["wcs_source"],
        status=Status(row["status"]),
        fits=fits,
        stages={name: plane(f"{name}_") for name in fits},
        total=plane(""),
        sigma=(row["sigma_level"], row["sigma_slope_x"], row["sigma_slope_y"]),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of a table
    """Return a cell as a plain Python value, None where it is masked."""
    if value is np.ma.masked:
        return None
    return value.item() if isinstance(value, np.generic) else value
