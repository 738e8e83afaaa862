"""The complete pipeline, from input files through corrections to output files; the caller chooses how jobs are run.

:func:`run` is the work of the command, and :func:`levelmatch_core.fields.match_field` the computation. Both pass their
jobs to a :class:`~levelmatch_core.jobs.job.JobRunner`, so that a plain loop, threads, or a workflow engine can be used.
"""

import difflib
import glob
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import Field as Described

from levelmatch_core.errors import SettingsError
from levelmatch_core.fields import match_field
from levelmatch_core.images.exposure import Failure, Field, Inventory
from levelmatch_core.images.given import GivenFiles, read_given
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.missing import MissingInput
from levelmatch_core.jobs.advice import advise
from levelmatch_core.jobs.inputs import lost_inputs
from levelmatch_core.jobs.job import JobRunner, Workspace, parted
from levelmatch_core.jobs.overview import overviews_of
from levelmatch_core.jobs.products import (
    FiguresJob,
    LevelErrorJob,
    MosaicJob,
    ReportJob,
    WriteJob,
    Written,
    begin_figures,
    level_error_name,
    mosaic_name,
)
from levelmatch_core.matching.corrections import Correction, FieldMatch, Status
from levelmatch_core.matching.reference_history import KnownZero, Zeros, lacking, names_lost, names_of
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.corrected.write import products_of
from levelmatch_core.products.lost_parts import EarlierProducts
from levelmatch_core.products.manifest import OutputFile, StaleProduct
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.products.runrecord import RunRecord, record_of
from levelmatch_core.products.stale import keep_stale
from levelmatch_core.products.summaries import FieldSummary
from levelmatch_core.products.tables import write_corrections, write_pairs
from levelmatch_core.records import Record
from levelmatch_core.runners import StrictRunner, refuse_failures
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.patches import Layout, layout_of
from levelmatch_core.sky.store import CutoutStore

logger = logger_of(__name__)

TRIAL = "@trial-"
"""Between the name of an output folder and that of a trial of other settings next to it."""


NO_PROGRAM = "levelmatch"
"""The name of a program that has none."""


class Request(Record):
    """The user's request."""

    inputs: tuple[Path, ...]
    missing: tuple[MissingInput, ...] = ()
    output: Path
    settings: MatchSettings = MatchSettings()
    program: str = NO_PROGRAM
    recursive: bool = False
    group_by: str | None = None
    prune: bool = Described(
        default=False, description="whether corrected files of earlier runs go whose input is missing or damaged now"
    )

    @property
    def title(self) -> str:
        """The program's name; if it has none, that of the folder of its inputs, unless that is a folder of our own."""
        if self.program != NO_PROGRAM or not self.inputs:
            return self.program
        folders = [(path if path.is_dir() else path.parent).absolute() for path in self.inputs]
        name = Path(os.path.commonpath(folders)).name
        return self.program if name.startswith("levelmatch-") else name or self.program


@dataclass(frozen=True)
class RunResult:
    """The result of a request."""

    request: Request
    inventory: Inventory
    matches: tuple[FieldMatch, ...]
    record: RunRecord
    changed: bool
    """Whether any output file was written, replaced or removed."""
    seconds: float

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The corrections of all exposures, field by field."""
        return tuple(correction for match in self.matches for correction in match.corrections)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Everything that was left out."""
        return self.inventory.failures + tuple(failure for match in self.matches for failure in match.failures)

    @property
    def complete(self) -> bool:
        """Whether every exposure is matched, reference or alone; nothing is in pieces, still being written or stale."""
        lacking_input = self.inventory.failures or self.inventory.pending or self.record.stale
        return not lacking_input and all(match.complete for match in self.matches)


def inventory_of(request: Request, earlier: EarlierProducts) -> Inventory:
    """Return the exposures to be matched, after checking that the requested reference exists.

    Parameters
    ----------
    request
        The user's request.
    earlier
        What the output holds: an input that has less than when it was corrected is damaged.

    Raises
    ------
    UsageError
        If an input or a setting cannot be used.
    NoInputError
        If no exposure is usable.
    """
    inventory = take_inventory(
        request.inputs,
        request.settings,
        recursive=request.recursive,
        group_by=request.group_by,
        exclude=outputs_of(request.output),
        missing=request.missing,
        earlier=earlier,
    )
    check_reference(request.settings.reference, inventory)
    return inventory


def outputs_of(output: Path) -> tuple[Path, ...]:
    """Return an output folder with the trials next to it, or with what it is a trial of: none of them is an input."""
    base = output.with_name(output.name.partition(TRIAL)[0])
    return (output, *(path for path in (base, *base.parent.glob(f"{glob.escape(base.name)}{TRIAL}*")) if path.is_dir()))


def run(request: Request, store: CutoutStore, runner_of: Callable[[Workspace], JobRunner]) -> RunResult:
    """Match the inputs of a request, and write the output folder.

    Parameters
    ----------
    request
        Inputs, output folder and settings.
    store
        The store of cutouts.
    runner_of
        Returns the runner of jobs for a workspace.

    Raises
    ------
    UsageError
        If the output folder or an input cannot be used; nothing has been written then.
    NoInputError
        If no exposure is usable.
    StrictError
        If `settings.strict` and something failed.
    """
    started, cpu_started = time.monotonic(), time.process_time()
    store.clear_left_over()
    with store.in_use(), OutputFolder.open(request.output, request.settings, request.inputs) as folder:
        earlier = EarlierProducts(folder.path, folder.last, prune=request.prune)
        inventory = inventory_of(request, earlier)
        given = read_given(request.settings, inventory)
        for note in inventory.notes:
            logger.warning(note)
        for waiting in inventory.pending:
            logger.warning("%s is pending: %s", waiting.name, waiting.reason)
        each = runner_of(Workspace(store, folder))
        if request.settings.strict:
            refuse_failures(inventory.failures)
            each = StrictRunner(each)
        each(lost_inputs(inventory.failures, request.settings), "files that cannot be used")
        matches = match_fields(inventory, request.settings, each, given, folder.previous, kept=folder.last)
        if folder.last is None and matches:  # else they may be there already
            begin_figures(matches[0], request.settings, store)
        matches, files, stale = write_products(matches, request, inventory, each, folder=folder, earlier=earlier)
        recorded = partial(
            record_of,
            settings=request.settings,
            program=request.program,
            inventory=inventory,
            previous=folder.last,
            given=given.digests,
            stale=stale,
        )
        record = recorded(matches, files=files)
        advice = advise(record, matches, request.settings, each, given.given)
        record = record.model_copy(update={"advice": advice})
        if request.settings.figures != "none":
            reports, failures = parted(each([_report_job(matches, record, request)], "report"))
            matches = tuple(match.with_failures(failures) for match in matches)
            files += [file for written in reports for file in written.files]
            record = recorded(matches, files=files).model_copy(update={"advice": advice})
        seconds = time.monotonic() - started
        changed = folder.finish(
            record,
            {
                "seconds": round(seconds, 3),
                "cpu_seconds": round(time.process_time() - cpu_started, 3),
                "peak_memory_mb": round(peak_memory(), 1),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
    return RunResult(request, inventory, matches, record, changed, seconds)


def match_fields(
    inventory: Inventory,
    settings: MatchSettings,
    each: JobRunner,
    given: GivenFiles,
    previous: RunRecord | None = None,
    *,
    kept: RunRecord | None = None,
) -> tuple[FieldMatch, ...]:
    """Solve all fields of an inventory.

    Parameters
    ----------
    inventory
        The inputs.
    settings
        All settings.
    each
        The runner of jobs.
    given
        The user's files other than images.
    previous
        The record of the last run of the output, if it was one of the same settings: its references are kept.
    kept
        The record of the last run of the output, whose grids are kept if possible, whatever its settings.
    """
    return tuple(
        match_field(
            field,
            layout_for(field, kept),
            settings,
            each,
            zeros=zeros_of(field, inventory, settings, previous),
            files=given,
        )
        for field in inventory.fields
    )


def peak_memory() -> float:
    """Return the peak memory of this process, megabytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def write_products(
    matches: Sequence[FieldMatch],
    request: Request,
    inventory: Inventory,
    each: JobRunner,
    *,
    folder: OutputFolder,
    earlier: EarlierProducts,
) -> tuple[tuple[FieldMatch, ...], list[OutputFile], tuple[StaleProduct, ...]]:
    """Write corrected exposures, mosaics, figures and tables.

    Returns
    -------
    The fields with what failed, all files, and which of them are corrected files of earlier runs that stay.
    """
    settings = request.settings
    grids = {place: grid for match in matches for place, grid in match.grids.items()}
    cutouts = {name: cutout for match in matches for name, cutout in match.cutouts.items()}
    products = products_of(correction for match in matches for correction in match.corrections)
    held = earlier.held(products, inventory)
    if settings.strict:
        refuse_failures(held)
    kept_back = {failure.name for failure in held}
    jobs = [
        WriteJob.of(product, parts, settings, grids, cutouts)
        for product, parts in products.items()
        if product not in kept_back
    ]
    folder.expect(f"tiles/{job.product}" for job in jobs)
    written, unwritten = parted(each(jobs, "corrected exposures"))
    results: list[Written] = list(written)
    finished = []
    for match in (match.with_failures([*held, *unwritten]) for match in matches):
        name = match.field.name
        panels = match.panels
        jobs_of = (
            _mosaic_jobs(panel, settings, {name: cutout.with_sources for name, cutout in panel.cutouts.items()})
            for panel in panels
        )
        mosaics, failures = parted(each(list(chain.from_iterable(jobs_of)), f"{name}: mosaic"))
        errors = [
            LevelErrorJob.of(panel, settings, map=panel.error_map, measured=tuple(panel.cutouts))
            for panel in panels
            if panel.error_map is not None
        ]
        maps, lost = parted(each(errors, f"{name}: level error"))
        results += [*mosaics, *maps] if match.patches else []
        mosaics, maps, more = overviews_of(match, settings, each, mosaics, maps)
        failures += more
        drawings = [
            FiguresJob(
                label=name,
                exposures=(),
                settings=settings,
                match=match,
                mosaic=done.files[0],
                level_error=next((one.files[0] for one in maps), None),
            )
            for done in (mosaics if settings.figures != "none" else ())
        ]
        figures, more = parted(each(drawings, f"{name}: figures"))
        notes = (*match.notes, *(note for mosaic in mosaics for note in mosaic.notes))
        complete = match.model_copy(update={"notes": notes})
        finished.append(complete.with_failures([*failures, *lost, *more]))
        results += [*mosaics, *maps, *figures]
    for result in results:
        for note in result.notes:
            logger.warning(note)
    files = [file for result in results for file in result.files]
    made = {file.name for each in written for file in each.files}
    kept = keep_stale(
        folder, earlier.tables, made, products=products, matches=finished, inventory=inventory, prune=request.prune
    )
    files += kept.files
    files.append(folder.write("corrections.ecsv", lambda path: write_corrections(path, finished)))
    files.append(folder.write("pairs.ecsv", lambda path: write_pairs(path, finished)))
    return tuple(finished), sorted(files, key=lambda file: file.name), kept.products


def check_reference(named: str | None, inventory: Inventory) -> None:
    """Refuse a reference that no field contains: a typing error must not change the zero.

    A tile whose files are damaged or still being written is accepted: another one replaces it meanwhile.

    Raises
    ------
    SettingsError
        If the input has no such tile.
    """
    exposures = [exposure for field in inventory.fields for exposure in field.exposures]
    lost = [name for failure in (*inventory.failures, *inventory.pending) for name in names_lost(failure)]
    if named is not None and named not in names_of(exposures).union(lost):
        tiles = sorted({exposure.tile for exposure in exposures}.union(lost))
        near = difflib.get_close_matches(named, tiles, n=3) or tiles[:10]
        message = f"reference {named!r} is no tile of the input; tiles: {', '.join(near)}"
        raise SettingsError(message)


def _mosaic_jobs(match: FieldMatch, settings: MatchSettings, cutouts: Mapping[str, CutoutRecord]) -> list[MosaicJob]:
    parts = tuple(
        (cutouts[correction.exposure.name], correction.plane, correction.local_sky)
        for correction in match.corrections
        if correction.status is not Status.FAILED and correction.exposure.name in cutouts
    )
    return [MosaicJob.of(match, settings, parts=parts)] if parts else []


def _report_job(matches: tuple[FieldMatch, ...], record: RunRecord, request: Request) -> ReportJob:
    files = {file.name: file for file in record.files}

    def made(name_of: Callable[[str], str]) -> dict[str, OutputFile]:
        names = {match.field.name: name_of(match.field.name) for match in matches}
        return {field: files[name] for field, name in names.items() if name in files}

    return ReportJob(
        label=record.program,
        exposures=(),
        settings=request.settings,
        # without the files: their digests depend on figures that the report does not show
        record=record.model_copy(update={"files": ()}),
        matches=matches,
        mosaics=made(mosaic_name),
        level_errors=made(level_error_name),
        title=request.title,
    )


# -- grids and references of an earlier run ---------------------------------------------------------------------------
def layout_for(field: Field, previous: RunRecord | None) -> Layout:
    """Return the grids of the finished output as far as they can be kept, so that nothing is resampled again."""
    return layout_of(field, tuple(known.grid for known in _like(field, previous)))


def zeros_of(field: Field, inventory: Inventory, settings: MatchSettings, previous: RunRecord | None) -> Zeros:
    """Return the true references of a field in the finished output, and what is missing now."""
    known = (
        KnownZero(part.true_reference, frozenset(part.levels))
        for summary in _like(field, previous)
        for part in summary.components
        if part.true_reference
    )
    return Zeros(
        known=tuple(known),
        lost=tuple(
            failure
            for failure in lacking((*inventory.failures, *inventory.pending))
            if _may_be_of(failure, field, inventory, previous)
        ),
        present=names_of(exposure for each in inventory.fields for exposure in each.exposures),
        named=settings.reference,
    )


def _may_be_of(failure: Failure, field: Field, inventory: Inventory, previous: RunRecord | None) -> bool:
    """Return whether a file that was left out may belong to a field: that of its tile, now or earlier, else any."""
    tiles = set(names_lost(failure))
    homes = {each.name for each in inventory.fields if tiles & names_of(each.exposures)}
    if homes:
        return field.name in homes
    known = [each for each in (previous.fields if previous else ()) if tiles.intersection((*each.tiles, *each.missing))]
    return not known or any(each in known for each in _like(field, previous))


def _like(field: Field, previous: RunRecord | None) -> list[FieldSummary]:
    """Return the fields of the finished output with the same instrument, band and unit."""
    kind = (field.instrument, field.band, field.unit)
    return [each for each in (previous.fields if previous else ()) if (each.instrument, each.band, each.unit) == kind]
