"""levelmatch as a library: one function, and a frozen result in terms of astropy's types.

Examples
--------
>>> from levelmatch_core import MatchSettings, match_levels
>>> result = match_levels("exposures/", settings=MatchSettings(fit_type_mosaic_tiles="level+slope"))
>>> result.level("jw01234001001_02101_00001_mirimage_cal.fits")
<Quantity 11.2 MJy / sr>
"""

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from astropy.nddata import NDData

from levelmatch_core.images.given import read_given
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.match_result import LevelMatch, Scratch
from levelmatch_core.nddata import write_images
from levelmatch_core.notebook_bar import shown
from levelmatch_core.pipeline import Request, RunResult, check_reference, match_fields, run
from levelmatch_core.presets import Preset
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import worker_pool

__all__ = ["LevelMatch", "match_levels", "result_of", "run_request"]


def match_levels(
    inputs: str | Path | NDData | Iterable[str | Path | NDData],
    output: str | Path | None = None,
    settings: MatchSettings | None = None,
    *,
    preset: Preset | None = None,
    cache: str | Path | None = None,
    program: str = "levelmatch",
    recursive: bool = False,
    group_by: str | None = None,
) -> LevelMatch:
    """Match the sky levels of overlapping exposures.

    Parameters
    ----------
    inputs
        A FITS file or folder (or a JWST association), or an image in memory (NDData or CCDData, with a FITS WCS; see
        :func:`levelmatch_core.nddata.write_images`), or several.
    output
        The folder for corrected files, mosaics, tables, figures and report; None writes nothing.
    settings
        All else that may be chosen; None takes the preset.
    preset
        What settings are that are not given: "best" (also where both are None) or "pjpipe".
    cache
        Folder in which resampled exposures are kept for the next call; None for none.
    program
        Name of the observing program, for the records.
    recursive
        Whether to search folders within folders.
    group_by
        A regular expression or a table that defines which files form a tile.

    Raises
    ------
    UsageError
        If an input, the output folder or a setting cannot be used; nothing was written.
    NoInputError
        If no exposure is usable.
    """
    given = [inputs] if isinstance(inputs, str | Path | NDData) else list(inputs)
    given_settings = settings.model_dump(exclude_unset=True) if settings is not None else {}
    chosen = (
        settings
        if settings is not None and preset is None
        else MatchSettings.from_mapping({**given_settings, "preset": preset or "best"})
    )
    with ExitStack() as stack:
        images = [image for image in given if isinstance(image, NDData)]
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="levelmatch-")) if images else ""
        paths = tuple(Path(path).absolute() for path in given if not isinstance(path, NDData))
        paths += tuple(write_images(images, Path(scratch)))
        pixels = Scratch(cache)
        if output is None:
            stack.enter_context(pixels.store.in_use())
            return _matched(paths, chosen, pixels, recursive=recursive, group_by=group_by)
        request = Request(
            inputs=paths,
            output=Path(output).absolute(),
            settings=chosen,
            program=program,
            recursive=recursive,
            group_by=group_by,
        )
        return result_of(run_request(request, pixels.store), pixels)


def run_request(request: Request, store: CutoutStore) -> RunResult:
    """Run a request without an engine, with the workers that its settings ask for.

    Parameters
    ----------
    request
        Inputs, output folder and settings.
    store
        The store of cutouts.
    """
    with worker_pool(request.settings) as pool:
        return run(request, store, lambda workspace: shown(PlainRunner(workspace, pool)))


def result_of(done: RunResult, pixels: Scratch | None = None) -> LevelMatch:
    """Return a run as a library's result.

    Parameters
    ----------
    done
        The run.
    pixels
        Its store.
    """
    given = read_given(done.request.settings, done.inventory).given
    return LevelMatch(done.matches, done.failures, done.request.output, done.request.settings, given, pixels)


def _matched(
    paths: tuple[Path, ...], settings: MatchSettings, pixels: Scratch, *, recursive: bool, group_by: str | None
) -> LevelMatch:
    """Solve all fields, and write only cutouts."""
    inventory = take_inventory(paths, settings, recursive=recursive, group_by=group_by)
    check_reference(settings.reference, inventory)
    given = read_given(settings, inventory)
    with worker_pool(settings) as pool:
        each = shown(PlainRunner(Workspace(pixels.store), pool))
        fields = match_fields(inventory, settings, each, given)
    failures = inventory.failures + tuple(failure for match in fields for failure in match.failures)
    return LevelMatch(fields, failures, None, settings, given.given, pixels)
