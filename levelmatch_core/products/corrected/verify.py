"""Verification of a finished output against its run.json: files, tables, and the cards of every corrected image."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from levelmatch_core.errors import UsageError
from levelmatch_core.matching.corrections import Status
from levelmatch_core.products.corrected.card_check import card_mismatches
from levelmatch_core.products.corrected.known_solution import PRODUCTS, KnownSolution, images_of
from levelmatch_core.products.corrected.undo import finished_record
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.folder import JOURNAL, LOG, RUN, files_below
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.stale import CORRECTIONS, STALE
from levelmatch_core.products.tables import read_pairs

PAIRS = "pairs.ecsv"


@dataclass(frozen=True)
class Mismatch:
    """One difference from the expected state."""

    file: str
    what: str


@dataclass(frozen=True)
class Verified:
    """Numbers of checked files and images, and the mismatches."""

    files: int
    images: int
    mismatches: tuple[Mismatch, ...]


def verify(folder: Path) -> Verified:
    """Check a finished output against its run.json.

    Every file of the manifest must exist with its digest, and there must be no others; both tables must be readable and
    agree with run.json; every corrected image must have the cards that follow from its rows in corrections.ecsv.

    Raises
    ------
    OutputFolderError
        If there is no finished output.
    """
    record = finished_record(folder)
    found = [*_files(folder, record)]
    images = 0
    try:
        read_pairs(folder / PAIRS)
    except UsageError as error:
        found.append(Mismatch(PAIRS, str(error)))
    try:
        solution = KnownSolution.read(folder / CORRECTIONS)
    except UsageError as error:
        found.append(Mismatch(CORRECTIONS, str(error)))
    else:
        found += _table(solution, record)
        for each in (solution, *_stale(folder, record, found)):
            for product, rows in each.products().items():
                images += len(images_of(rows))
                found += (
                    Mismatch(PRODUCTS + product, what)
                    for what in card_mismatches(folder / PRODUCTS / product, product, rows, each.grids)
                )
    return Verified(len(record.files), images, tuple(found))


def _stale(folder: Path, record: RunRecord, found: list[Mismatch]) -> list[KnownSolution]:
    """Return the table of the stale products, in a list; empty where there are none, or it cannot be read."""
    stale = {product.name for product in record.stale if product.kept}
    edited = [product for product in record.stale if product.edited]
    found += (
        Mismatch(one.edited, f"is missing: what somebody made of {one.name}")
        for one in edited
        if not (folder / one.edited).is_file()
    )
    if STALE not in {file.name for file in record.files}:
        found += (Mismatch(name, f"is stale in {RUN} only") for name in sorted(stale))
        return []
    try:
        solution = KnownSolution.read(folder / STALE)
    except UsageError as error:
        found.append(Mismatch(STALE, str(error)))
        return []
    named = {PRODUCTS + name for name in solution.products()}
    found += (Mismatch(name, f"is stale in {STALE if name in named else RUN} only") for name in sorted(named ^ stale))
    return [solution]


def _files(folder: Path, record: RunRecord) -> Iterator[Mismatch]:
    """Yield mismatches of the files."""
    for file in record.files:
        path = folder / file.name
        if path.is_symlink() or not path.is_file():
            yield Mismatch(file.name, "is missing" if not path.exists() else "is not a regular file")
        elif not path.resolve().is_relative_to(folder.resolve()):
            yield Mismatch(file.name, "lies outside the folder, through a link")
        elif (sha256 := OutputFile.of(path, file.name).sha256) != file.sha256:
            yield Mismatch(file.name, f"was changed: its sha256 is {sha256}, in {RUN} {file.sha256}")
    known = {file.name for file in record.files} | {RUN, LOG}
    for name in sorted(set(files_below(folder)) - known):
        yield Mismatch(name, "a later run did not finish; run it again" if name == JOURNAL else f"is not in {RUN}")


def _table(solution: KnownSolution, record: RunRecord) -> Iterator[Mismatch]:
    """Yield mismatches between the corrections table and run.json."""
    counts = Counter(row.status for row in solution.rows)
    counts[Status.FAILED] = len(solution.failed)
    for status in Status:
        if record.counts.get(status.value, 0) != counts[status]:
            what = f"{counts[status]} exposures are {status.value}, in {RUN} {record.counts.get(status.value, 0)}"
            yield Mismatch(CORRECTIONS, what)
    held = {(row.field, row.component or 0): (row.reference, row.provisional) for row in solution.rows}
    known = {
        (field.name, part.number): (part.reference, part.provisional)
        for field in record.fields
        for part in field.components
    }
    for place in sorted(place for place in held if known.get(place) != held[place]):
        what = f"the reference of component {place[1]} of field {place[0]} is not that of {RUN}"
        yield Mismatch(CORRECTIONS, what)
    grids = {field.name: field.grid for field in record.fields}
    for name in sorted(grids.keys() | solution.fields):
        if grids.get(name) != solution.grids.get(name):
            yield Mismatch(CORRECTIONS, f"the grid of field {name} is not that of {RUN}")
    products = {PRODUCTS + name for name in solution.products()}
    listed = {file.name for file in record.files if file.name.startswith(PRODUCTS)}
    listed -= {product.name for product in record.stale}
    for name in sorted(products ^ listed):
        yield Mismatch(name, f"is in {'the corrections table' if name in products else RUN} only")
