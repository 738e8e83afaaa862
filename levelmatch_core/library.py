"""levelmatch as a library: one function, and a frozen result in terms of astropy's types.

Examples
--------
>>> from levelmatch_core import MatchSettings, match_levels
>>> result = match_levels("exposures/", settings=MatchSettings(fit_type_mosaic_tiles="level+slope"))
>>> result.level("jw01234001001_02101_00001_mirimage_cal.fits")
<Quantity 11.2 MJy / sr>
"""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.images.given import read_given
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.match_result import LevelMatch, Scratch
from levelmatch_core.nddata import Image, is_image, write_images
from levelmatch_core.notebook_bar import shown
from levelmatch_core.pipeline import Request, RunResult, check_reference, match_fields, run
from levelmatch_core.presets import Preset
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import worker_pool

__all__ = ["LevelMatch", "match_levels", "result_of", "run_request"]


def match_levels(
    inputs: str | Path | Image | Iterable[str | Path | Image],
    output: str | Path | None = None,
    settings: MatchSettings | Mapping[str, object] | None = None,
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
        A FITS file or folder (or a JWST association), or an image in memory, or several of them: NDData or CCDData, an
        HDU, an HDUList (as a file of these HDUs), or an array (or Quantity) and its WCS or header. A WCS may be
        FITS's, or a gwcs; see :func:`levelmatch_core.nddata.write_images`.
    output
        The folder for corrected files, mosaics, tables, figures and report; None writes nothing.
    settings
        All else that may be chosen, as MatchSettings or a dict of some of them; None takes the preset.
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
        If an input or the output folder cannot be used; nothing was written.
    SettingsError
        If a setting is unknown, or has the wrong type or range.
    NoInputError
        If no exposure is usable.
    """
    given = _inputs(inputs)
    chosen = _settings(settings, preset)
    for name, place in {"output": output, "cache": cache}.items():
        if place is not None and not isinstance(place, str | Path):
            message = f"{name}={place!r}: expected the path of a folder"
            raise UsageError(message)
    with ExitStack() as stack:
        images = [image for image in given if is_image(image)]
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="levelmatch-")) if images else ""
        paths = tuple(Path(path).absolute() for path in given if isinstance(path, str | Path))
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


def _inputs(inputs: object) -> list[str | Path | Image]:
    """Return inputs as a list.

    Raises
    ------
    UsageError
        If one is neither a path nor an image.
    """
    if isinstance(inputs, str | Path) or is_image(inputs):
        return [inputs]
    given = list(inputs) if isinstance(inputs, Iterable) else [inputs]
    for one in given:
        if not isinstance(one, str | Path) and not is_image(one):
            message = (
                f"input of type {type(one).__name__}: expected a path, NDData, an HDU or HDUList, or a pair of an "
                f"array and its WCS or header"
            )
            raise UsageError(message)
    return given


def _settings(settings: object, preset: Preset | None) -> MatchSettings:
    """Return the settings of a run, with a preset where they are not given.

    Raises
    ------
    SettingsError
        If they are no settings, or a name or value is wrong.
    """
    if isinstance(settings, MatchSettings):
        if preset is None:
            return settings
        settings = settings.model_dump(exclude_unset=True)
    elif settings is not None and not isinstance(settings, Mapping):
        message = f"settings={settings!r}: expected MatchSettings, or a dict such as {{'rms_sig_limit': 3}}"
        raise SettingsError(message)
    values = {str(name): value for name, value in (settings or {}).items()}
    chosen = {"preset": preset} if preset is not None else {}
    return MatchSettings.from_mapping({"preset": "best", **values, **chosen})


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
