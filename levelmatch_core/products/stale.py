"""Corrected files whose input is missing or damaged now: they stay, marked and named, until they are pruned.

They may be the only copy of what they were made from: :func:`levelmatch_core.products.corrected.undo.undo` gives that
back, by the rows of `stale.ecsv`, which is a corrections table of them alone. The run that finds them is not complete.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from levelmatch_core.errors import OutputFolderError, UsageError
from levelmatch_core.files.ecsv import write_ecsv
from levelmatch_core.files.locks import FolderLock
from levelmatch_core.files.writing import sync_folder, write_durably
from levelmatch_core.images.exposure import Inventory
from levelmatch_core.images.fits_cards import open_raw
from levelmatch_core.images.fits_headers import MATCHED_CARD
from levelmatch_core.images.reading import file_digest
from levelmatch_core.matching.corrections import Correction, FieldMatch
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.corrected.card_check import card_mismatches
from levelmatch_core.products.corrected.editing import EditedFile
from levelmatch_core.products.corrected.known_solution import PRODUCTS, KnownSolution
from levelmatch_core.products.manifest import OutputFile, StaleProduct
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.products.output.placing import JOURNAL, RUN, edits_of, keep_aside, place_of
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.tables import read_corrections
from levelmatch_core.text.naming import some_of

logger = logger_of(__name__)

CORRECTIONS, STALE = "corrections.ecsv", "stale.ecsv"
MARK = "LVLPART"
"""The card by which a stale product is marked."""


@dataclass(frozen=True)
class StaleProducts:
    """What stays of earlier runs."""

    products: tuple[StaleProduct, ...] = ()
    files: tuple[OutputFile, ...] = ()


def keep_stale(
    folder: OutputFolder,
    tables: Mapping[str, Table],
    made: AbstractSet[str],
    *,
    products: Mapping[str, Sequence[Correction]],
    matches: Iterable[FieldMatch],
    inventory: Inventory,
    prune: bool,
) -> StaleProducts:
    """Keep the corrected files of earlier runs that this one cannot make; to be called before its tables are written.

    A file that was made of nothing but inputs of files that this run made is superseded, and not kept.

    Parameters
    ----------
    folder
        The output.
    tables
        Those of earlier runs, from :func:`earlier_tables`.
    made
        Names of the corrected files that this run made.
    products
        The corrections by the corrected file that they belong to, below `tiles/`.
    matches
        The fields, with what failed.
    inventory
        The inputs.
    prune
        Whether to let them go.

    Returns
    -------
    The products, and all files that stay for them.
    """
    last = folder.last
    if last is None:
        return StaleProducts()
    before = {product.name: product for product in last.stale}
    sources = {product.name: list(product.inputs) for product in last.stale} | _sources(tables.values())
    hdus = {product.name: product.hdus for product in last.stale} | {file.name: file.hdus for file in last.files}
    lost = {file.name for file in last.files if file.name.startswith(PRODUCTS)} | before.keys()
    lost -= made
    here = {part.exposure.file for product, parts in products.items() if PRODUCTS + product in made for part in parts}
    reasons = _reasons(inventory, matches)
    kept: list[StaleProduct] = []
    files: list[OutputFile] = []
    solutions = {name: found for name in tables if (found := _solution(folder.path / name)) is not None} if lost else {}
    made_by: dict[str, str] = {}
    for name in sorted(lost):
        came_from = sources.get(name, ())
        if came_from and here.issuperset(came_from):
            continue
        reason = _reason(came_from, here, reasons)
        if prune:
            logger.warning("%s is removed, as it was asked: %s", name, reason)
            continue
        lost_one = StaleProduct(name=name, inputs=tuple(came_from), reason=reason, hdus=hdus.get(name, 0))
        product = _as_it_lies(folder, lost_one, before.get(name))
        logger.error("%s is stale: %s; %s", name, reason, product.fate)
        kept.append(product)
        if product.kept:
            made_by[name] = _made_by(folder.path, name, tables, solutions)
            if not made_by[name]:
                logger.warning(
                    "%s: no table says what was subtracted from it, so that undo cannot give its input back", name
                )
            file = folder.write(name, lambda path, name=name: _mark(place_of(folder.path, name), path))  # type: ignore[misc]
            files.append(file.model_copy(update={"hdus": product.hdus}))
    rows = _rows_of(tables, made_by)
    if rows is not None:
        files.append(folder.write(STALE, lambda path: write_ecsv(path, rows)))
    return StaleProducts(tuple(kept), tuple(files))


def _reasons(inventory: Inventory, matches: Iterable[FieldMatch]) -> dict[str, str]:
    """Return input file -> why it could not be used, of those that were seen."""
    file_of = {exposure.name: exposure.file for field in inventory.fields for exposure in field.exposures}
    failures = (*inventory.failures, *inventory.pending, *(one for match in matches for one in match.failures))
    return {
        file_of.get(name, name): failure.reason for failure in failures for name in (failure.name, *failure.exposures)
    }


def _as_it_lies(folder: OutputFolder, product: StaleProduct, before: StaleProduct | None) -> StaleProduct:
    """Return a stale product with what became of its file, which is moved aside if somebody edited it."""
    if folder.keeps(product.name):
        return product
    edited = folder.edited.get(product.name) or (before.edited if before is not None else "")
    if not edited or not (folder.path / edited).is_file():
        # a run that was killed may have moved it
        edited = next(reversed(edits_of(folder.path, product.name)), "")
    return product.model_copy(update={"edited": edited, "gone": not edited})


def prune(folder: Path) -> tuple[StaleProduct, ...]:
    """Remove the stale products of a finished output, and return them; what somebody edited stays, aside.

    Raises
    ------
    OutputFolderError
        If there is no finished output, or a run works on it.
    """
    if (folder / JOURNAL).exists() or not (folder / RUN).is_file():
        why = "holds an unfinished run; run it again" if (folder / JOURNAL).exists() else f"holds no {RUN}"
        message = f"output folder {folder}: {why if folder.is_dir() else 'no such folder'}; name the output of a run"
        raise OutputFolderError(message)
    lock = FolderLock(folder)
    try:
        record = RunRecord.load(folder / RUN)
        if not record.stale:
            return ()
        digests = {file.name: file.sha256 for file in record.files}
        pruned: list[StaleProduct] = []
        # the record last: killed before that, another prune goes on
        for product in record.stale:
            place = place_of(folder, product.name)
            if not product.kept or not place.is_file() or file_digest(place) == digests.get(product.name):
                pruned.append(product)
            else:
                pruned.append(product.model_copy(update={"edited": keep_aside(folder, product.name)}))
        gone = {product.name for product in record.stale if product.kept} | {STALE}
        places = [place_of(folder, name) for name in sorted(gone)]
        for place in places:
            place.unlink(missing_ok=True)
        left = tuple(file for file in record.files if file.name not in gone)
        write_durably(folder / RUN, record.model_copy(update={"files": left, "stale": ()}).to_bytes())
        for parent in {place.parent for place in places}:
            sync_folder(parent)
        return tuple(pruned)
    finally:
        lock.release()


def solutions_of(folder: Path, record: RunRecord) -> list[KnownSolution]:
    """Return what is known of all corrected files of an output: of those of its run, and of stale ones.

    Raises
    ------
    UsageError
        If a table cannot be read.
    """
    listed = {file.name for file in record.files}
    stale = _solution(folder / STALE) if STALE in listed else None  # without it, others are given back all the same
    return [KnownSolution.read(folder / CORRECTIONS), *([stale] if stale is not None else [])]


# -- rows --------------------------------------------------------------------------------------------------------------
def earlier_tables(folder: Path) -> dict[str, Table]:
    """Return the tables that say how the corrected files of an output were made, by name, the last run's first."""
    return {name: table for name in (CORRECTIONS, STALE) if (table := _table(folder / name)) is not None}


def _table(path: Path) -> Table | None:
    if not path.is_file():
        return None
    try:
        return read_corrections(path)
    except UsageError as error:
        logger.warning("%s; what was subtracted from stale products is in their cards only", error)
        return None


def _sources(tables: Iterable[Table]) -> dict[str, list[str]]:
    """Return the input files of each product."""
    found: dict[str, set[str]] = {}
    for table in tables:
        for product, file in zip(table["product"], table["file"], strict=True):
            found.setdefault(str(product), set()).add(str(file))
    return {product: sorted(files) for product, files in found.items()}


def _solution(path: Path) -> KnownSolution | None:
    try:
        return KnownSolution.read(path)
    except UsageError as error:
        logger.warning("%s; what it tells of is not known", error)
        return None


def _made_by(folder: Path, name: str, tables: Mapping[str, Table], solutions: Mapping[str, KnownSolution]) -> str:
    """Return the table whose rows a corrected file was made by, '' if there is none.

    A run that was killed leaves corrected files that no table tells of, or tables of others than are there.
    """
    product = name.removeprefix(PRODUCTS)
    for table in tables:
        rows = solutions[table].products().get(product, []) if table in solutions else []
        differing = card_mismatches(folder / name, product, rows, solutions[table].grids) if rows else iter([""])
        if all(MARK in what for what in differing):  # which is set once it is stale
            return table
    return ""


def _rows_of(tables: Mapping[str, Table], made_by: Mapping[str, str]) -> Table | None:
    """Return the rows of products, each from the table that it was made by, as a table of its own; None without any."""
    parts: list[Table] = []
    for table in tables:
        mine = np.array([made_by.get(str(product)) == table for product in tables[table]["product"]], dtype=bool)
        if mine.any():
            parts.append(tables[table][mine])
    if not parts:
        return None
    grids: dict[str, object] = {}
    per_area: dict[str, object] = {}
    instruments: list[object] = []
    for part in parts:
        names = {}
        for field in sorted({str(name) for name in part["field"]}):
            grid, name, number = part.meta["grids"][field], field, 1
            while grids.get(name, grid) != grid:  # the same field on the grid of another run
                number += 1
                name = f"{field}~{number}"
            names[field] = name
            grids[name] = grid
            if field in part.meta.get("per_area", {}):
                per_area[name] = part.meta["per_area"][field]
        part["field"] = np.array([names[str(field)] for field in part["field"]], dtype=str)
        part["partial"] = np.ones(len(part), dtype=bool)
        instruments += [one for one in part.meta.get("instruments", ()) if one not in instruments]
    meta = {**parts[0].meta, "grids": grids}
    for key, value in (("per_area", per_area), ("instruments", instruments)):
        meta.pop(key, None)
        if value:
            meta[key] = value
    rows = vstack(parts, metadata_conflicts="silent") if len(parts) > 1 else parts[0]
    rows.sort(["product", "exposure"])
    rows.meta = meta
    return rows


def _reason(came_from: Sequence[str], here: set[str], reasons: Mapping[str, str]) -> str:
    lost = [file for file in came_from if file not in here]
    if not lost:
        return "nothing tells what it was made of"
    told = [reasons.get(file, f"{file}: is not among the inputs any more") for file in lost]
    return "its input cannot be used: " + some_of(told, between="; ")


def _mark(source: Path, target: Path) -> None:
    """Copy a corrected file, its images marked as ones of which the products lack the input."""
    with open_raw(source, source.name) as base:
        edited = EditedFile(base)
        for index in range(len(base.spans)):
            header = base.header(index)
            if MATCHED_CARD in header and header.get(MARK) is not True:
                header.set(MARK, True, "whether its field lacks members")
                edited.put_header(index, header)
        with target.open("wb") as file:
            edited.write(file)
