"""Inputs that hold less than when they were corrected: cut between two HDUs they are whole FITS files, of fewer HDUs.

What they would make is no match for the corrected file of the earlier run, which may be the only copy of what is lost.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from astropy.table import Table

from levelmatch_core.errors import DataError, LostInputError
from levelmatch_core.images.exposure import Failure, Inventory
from levelmatch_core.images.fits_headers import Hdu, read_headers
from levelmatch_core.matching.corrections import Correction
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.corrected.known_solution import PRODUCTS
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.stale import earlier_tables
from levelmatch_core.text.naming import some_of

logger = logger_of(__name__)

_REMEDY = "fetch it again, or let the earlier file go by --prune"


class EarlierProducts:
    """The corrected files of the last finished run in a folder, and what they were made of.

    Parameters
    ----------
    folder
        The output.
    record
        The record of its last run; None where there was none, which lost nothing.
    prune
        Whether inputs are taken as they are, and what they lost is let go.
    """

    def __init__(self, folder: Path, record: RunRecord | None, *, prune: bool = False) -> None:
        self._folder, self._has_run, self._prune = folder, record is not None, prune
        files = record.files if record is not None else ()
        stale = record.stale if record is not None else ()
        self._places = {file.name: file.name for file in files if file.name.startswith(PRODUCTS)}
        self._places |= {product.name: product.edited or product.name for product in stale}
        self._hdus = {file.name: file.hdus for file in files} | {product.name: product.hdus for product in stale}
        self._stale = {product.name for product in stale}
        self._digests = {file.file: file.sha256 for file in record.inputs} if record is not None else {}

    def complaint(self, shown: str, digest: str, hdus: Sequence[Hdu]) -> str:
        """Return what an input has lost since it was corrected, '' where that is nothing.

        Parameters
        ----------
        shown
            Its name.
        digest
            The sha256 of its bytes.
        hdus
            What it holds now.
        """
        if self._prune or not self._places or self.is_as_before(shown, digest):
            return ""
        for product in self._products_of(shown):
            known, lost = self._hdus.get(product, 0), list[str]()
            try:
                before = read_headers(self._folder / self._places[product], product)
            except (DataError, OSError):
                before = ()
            if len(before) >= known:
                known, lost = len(before), lost_hdus(before, hdus)
            elif len(hdus) < known:  # the corrected file is gone or altered
                lost = [f"{known - len(hdus)} HDUs"]
            if lost:
                return (
                    f"{shown}: holds {len(hdus)} of the {known} HDUs that it had when it was corrected "
                    f"({some_of(lost)} lost): {_REMEDY}"
                )
        return ""

    def is_as_before(self, shown: str, digest: str) -> bool:
        """Return whether an input has the bytes (sha256) that it had in the last run."""
        return self._digests.get(shown) == digest

    def held(self, products: Mapping[str, Sequence[Correction]], inventory: Inventory) -> list[Failure]:
        """Return which corrected files must not be made anew, since what they were made of before is not there.

        Parameters
        ----------
        products
            What would be made, as :func:`levelmatch_core.products.corrected.write.products_of` returns it.
        inventory
            The inputs.
        """
        now = {exposure.file: exposure.digest for field in inventory.fields for exposure in field.exposures}
        known = sorted(PRODUCTS + product for product in products if PRODUCTS + product in self._places)
        # an input with the bytes that it had is as good as ever, whatever is made of it
        changed = [name for name in known if self._is_changed(name, products[name.removeprefix(PRODUCTS)], now)]
        found: list[Failure] = []
        if self._prune:
            return found
        for name in changed:
            product = name.removeprefix(PRODUCTS)
            images = Counter(file for file, _ in {(one.exposure.file, one.exposure.sci) for one in products[product]})
            lost = [
                f"{count - images[file]} of {count} images of {file}"
                for file, count in sorted(self._images.get(name, {}).items())
                if images[file] < count and not self._same(name, file, now)
            ]
            if lost:
                reason = (
                    f"{product}: is not made anew, for it was made of more: {some_of(lost)} cannot be used; --prune "
                    f"makes it of what is left"
                )
                logger.error("%s", reason)
                exposures = tuple(one.exposure.name for one in products[product])
                found.append(
                    Failure(
                        name=product, step="write", error=LostInputError.__name__, reason=reason, exposures=exposures
                    )
                )
        return found

    def _is_changed(self, name: str, parts: Iterable[Correction], now: Mapping[str, str]) -> bool:
        """Return whether anything that a product is made of is not as it was; what is gone shows in the table."""
        files = {part.exposure.file for part in parts}
        return len(self._images.get(name, {}).keys() - files) > 0 or not all(
            self._same(name, file, now) for file in files
        )

    def _same(self, product: str, file: str, now: Mapping[str, str]) -> bool:
        """Return whether an input is the one that its product was made of."""
        return product not in self._stale and file in now and self._digests.get(file) == now[file]

    def _products_of(self, shown: str) -> list[str]:
        """Return the corrected files that an input went into: by the tables, or by its name."""
        named = {product for product, files in self._images.items() if shown in files} or {PRODUCTS + shown}
        return sorted(named & self._places.keys())

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables that say how they were made, by name, as they are before this run writes its own."""
        return earlier_tables(self._folder) if self._has_run else {}

    @cached_property
    def _images(self) -> dict[str, dict[str, int]]:
        """Product -> input file -> number of its images that went into it."""
        found: dict[str, set[tuple[str, int]]] = {}
        for table in reversed(self.tables.values()):
            images: dict[str, set[tuple[str, int]]] = {}
            for product, file, hdu in zip(table["product"], table["file"], table["hdu"], strict=True):
                images.setdefault(str(product), set()).add((str(file), int(hdu)))
            found |= images
        found.pop("", None)  # of exposures that failed
        return {product: dict(Counter(file for file, _ in images)) for product, images in found.items()}


def lost_hdus(before: Sequence[Hdu], now: Sequence[Hdu]) -> list[str]:
    """Return what a file lacks that else is as it was: its HDUs are some of those before, in their order.

    A file that has any other HDU is another one, which replaces the earlier.
    """
    lost: list[str] = []
    left = list(now)
    for hdu in before:
        if left and _kind(left[0]) == _kind(hdu):
            left.pop(0)
        else:
            lost.append(f"{hdu.name or 'HDU'} {hdu.version if hdu.name else hdu.index}")
    return [] if left else lost


def _kind(hdu: Hdu) -> tuple[str, int, tuple[int, ...] | None, int]:
    """Return what tells HDUs apart and stays when they are corrected."""
    return hdu.name, hdu.version, hdu.shape, hdu.end - hdu.data if hdu.shape is None else 0
