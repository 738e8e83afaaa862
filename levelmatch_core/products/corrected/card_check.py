"""Whether a corrected file is the one of which a corrections table tells: its cards against the rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from astropy.io import fits

from levelmatch_core.errors import DataError
from levelmatch_core.images.fits_headers import MATCHED_CARD, Hdu, read_headers
from levelmatch_core.images.reading import wcs_from
from levelmatch_core.products.corrected.editing import local_plane
from levelmatch_core.products.corrected.known_solution import Known, images_of
from levelmatch_core.products.corrected.lvl_cards import AREA_CARD, IMAGE_CARDS, WINDOW_CARDS, reference_text
from levelmatch_core.sky.grid import Grid

_TOLERANCE = 1e-8
"""Relative tolerance of cards against the table: cards have nine digits."""
_TABLE = "corrections.ecsv"


def card_mismatches(path: Path, product: str, rows: Sequence[Known], grids: Mapping[str, Grid]) -> Iterator[str]:
    """Yield what differs between the cards of a corrected file and the rows that it should have been made by.

    Parameters
    ----------
    path
        The file.
    product
        Its name below `tiles/`, for messages.
    rows
        All its rows of a corrections table.
    grids
        The grids of that table.
    """
    try:
        hdus = read_headers(path, product)
    except (DataError, OSError) as error:
        yield f"cannot be read: {error}"
        return
    for image in images_of(rows):
        if image.hdu >= len(hdus):
            yield f"has no HDU {image.hdu}"
            continue
        hdu = hdus[image.hdu]
        main = image.main
        expected: dict[str, object] = {
            MATCHED_CARD: main.status.value,
            "LVLREF": reference_text(main.reference, provisional=main.provisional),
            "LVLPART": main.partial,
            AREA_CARD: grids[main.place].pixel_area if main.per_area else None,
        }
        try:
            expected |= _numbers(IMAGE_CARDS, main, hdus, path, grids, index=image.hdu, whole=True)
            if image.second is not None:
                expected |= _numbers(WINDOW_CARDS, image.second, hdus, path, grids, index=image.hdu, whole=False)
        except DataError as error:
            yield str(error)
            continue
        expected = {name: expected.get(name) for name in (*expected, *IMAGE_CARDS, *WINDOW_CARDS)}
        for name, value in expected.items():
            card = hdu.header.get(name)
            if not _same(card, value):
                yield f"{name} of HDU {image.hdu} is {_shown(card)}, by {_TABLE} {_shown(value)}"


def _numbers(
    names: tuple[str, ...],
    row: Known,
    hdus: Sequence[Hdu],
    path: Path,
    grids: Mapping[str, Grid],
    *,
    index: int,
    whole: bool,
) -> dict[str, float]:
    """Return the expected numerical cards of a row."""
    hdu = hdus[index]
    shape = hdu.plane
    if shape is None:
        message = f"HDU {hdu.index} has shape {hdu.shape}, expected a two-dimensional image"
        raise DataError(message)
    plain = row.total.is_level and not row.per_area
    wcs = None if plain else wcs_from(row.wcs_source, hdus, index, path, row.product)
    window = None if whole else row.window
    grid = grids[row.place]
    local = local_plane(row.total, grid, wcs, shape, window, per_area=row.per_area, divisor=row.divisor)
    numbers = (local.level, local.slope_x, local.slope_y, row.local_sky * row.divisor, row.sigma[0] * row.divisor)
    return dict(zip(names, numbers, strict=True))


def _same(card: object, value: object) -> bool:
    """Return whether a card has the expected value; None means no card."""
    if isinstance(value, float) and isinstance(card, int | float):
        return math.isclose(card, value, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return type(card) is type(value) and card == value


def _shown(value: object) -> str:
    return "missing" if value is None or isinstance(value, fits.card.Undefined) else repr(value)
