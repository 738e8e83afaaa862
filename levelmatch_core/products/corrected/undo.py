"""Restoring the inputs: the corrections are added to the corrected files again, and the cards are removed.

The planes of the corrections table are evaluated with the WCS of each file, as they were when they were subtracted.
Pixels are therefore restored to within the rounding of their type: half a unit in the last place of the corrected value
plus half a unit of the input's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from levelmatch_core.errors import LevelMatchError, NotFitsError, OutputFolderError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.files.writing import room_for, see_on_disk
from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.fits_cards import open_raw
from levelmatch_core.images.fits_headers import MATCHED_CARD, Hdu, read_headers
from levelmatch_core.images.instruments import known_with, recognise
from levelmatch_core.images.reading import wcs_from
from levelmatch_core.products.corrected.editing import (
    Blank,
    EditedFile,
    inside_of,
    output_type,
    physical_values,
    shifted,
)
from levelmatch_core.products.corrected.jwst_background import take_background_back
from levelmatch_core.products.corrected.known_solution import PRODUCTS, Known, KnownImage, KnownSolution, images_of
from levelmatch_core.products.corrected.lvl_cards import take_cards
from levelmatch_core.products.corrected.stored_type import as_it_came
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.folder import clear_temporaries
from levelmatch_core.products.output.placing import JOURNAL, RUN, Writer, put
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.stale import solutions_of
from levelmatch_core.sky.grid import Grid

STEP = "undo"


@dataclass(frozen=True)
class Restored:
    """The result of restoring the inputs of a run, or of applying a solution."""

    files: tuple[OutputFile, ...]
    notes: tuple[str, ...]
    """Notes on pixels that could not be restored."""
    failures: tuple[Failure, ...]

    @property
    def complete(self) -> bool:
        """Whether everything was restored."""
        return not self.notes and not self.failures


def undo(folder: Path, back: Path) -> Restored:
    """Restore the inputs of a finished output in another folder, from the output alone.

    Parameters
    ----------
    folder
        The finished output.
    back
        The folder for the inputs. Existing files are not changed.

    Returns
    -------
    The files, with the names of the corrected files: parts of a chip from two files remain one image.

    Raises
    ------
    OutputFolderError
        If `folder` is not a finished output, or `back` cannot be used.
    UsageError
        If the corrections table cannot be read.
    """
    record = finished_record(folder)
    digests = {file.name: file.sha256 for file in record.files}
    solutions = solutions_of(folder, record)
    refuse_overlap(back, folder)
    files, notes, failures = [], [], []
    known: set[str] = set()
    for solution in solutions:
        for product, rows in solution.products().items():
            known.add(PRODUCTS + product)
            source = folder / PRODUCTS / product
            try:
                _refuse_altered(source, product, digests.get(PRODUCTS + product))
                said: list[str] = []
                files.append(put_new(back, product, _writer(source, product, rows, solution, said)))
                notes += said
            except OutputFolderError:
                raise
            except (LevelMatchError, OSError) as error:
                names = tuple(row.exposure for row in rows)
                failures.append(_failure(product, error, names))
    for name in sorted(set(digests) - known):
        if name.startswith(PRODUCTS):
            unknown = NotFitsError(f"{name}: no table says what was subtracted from it: its input cannot be made of it")
            failures.append(_failure(name.removeprefix(PRODUCTS), unknown, ()))
    failures += (
        _failure(stale.name, NotFitsError(f"{stale.name}: {stale.fate}"), ())
        for stale in record.stale
        if not stale.kept
    )
    clear_temporaries(back)
    return Restored(tuple(files), tuple(notes), tuple(failures))


def _failure(product: str, error: Exception, exposures: tuple[str, ...]) -> Failure:
    return Failure(name=product, step=STEP, error=type(error).__name__, reason=str(error), exposures=exposures)


def undo_file(
    source: Path, target: Path, rows: Sequence[Known], solution: KnownSolution, shown: str
) -> tuple[str, ...]:
    """Restore one corrected file.

    Parameters
    ----------
    source
        The corrected file.
    target
        The file to write.
    rows
        All rows of the table that belong to the file.
    solution
        The solution with these rows; its grids and instrument tables are used.
    shown
        Name of the file in messages.

    Returns
    -------
    Notes on what could not be restored.

    Raises
    ------
    NotFitsError
        If the file cannot be read, or is not one that levelmatch corrected.
    NoWcsError, PixelMapError
        If a plane cannot be evaluated on the image.
    """
    hdus = read_headers(source, shown)
    blank_zero = recognise(Path(shown).name, hdus[0], known_with(solution.instruments)).blank_zero
    notes = []
    with open_raw(source, shown) as base:
        edited = EditedFile(base)
        for image in images_of(rows):
            if image.hdu >= len(hdus) or hdus[image.hdu].matched is None:
                message = f"{shown}: no {MATCHED_CARD} in HDU {image.hdu}: levelmatch did not correct this file"
                raise NotFitsError(message)
            said = _restore_input(edited, image, hdus, source, solution.grids, blank_zero=blank_zero)
            notes += [said] if said else []
            if image.masked:
                notes.append(
                    f"{shown}: HDU {image.hdu}: masked pixels stay masked, since nothing ties them to the rest"
                )
        take_background_back(edited)
        with target.open("wb") as file:
            edited.write(file)
    return tuple(notes)


def finished_record(folder: Path) -> RunRecord:
    """Return the record of a finished output.

    Raises
    ------
    OutputFolderError
        If there is none.
    """
    if not (folder / RUN).is_file():
        why = "contains an unfinished run; run it again" if (folder / JOURNAL).exists() else f"contains no {RUN}"
        message = f"output folder {folder}: {why if folder.is_dir() else 'no such folder'}; name the output of a run"
        raise OutputFolderError(message)
    return RunRecord.load(folder / RUN)


def refuse_overlap(back: Path, *others: Path) -> None:
    """Refuse an output folder that lies in another one, or contains it.

    Raises
    ------
    OutputFolderError
        If it does, or is a file.
    """
    place = back.absolute().resolve()
    if place.exists() and not place.is_dir():
        message = f"output folder {back}: is a file; choose a folder"
        raise OutputFolderError(message)
    for other in (path.absolute().resolve() for path in others):
        if place == other or place in other.parents or other in place.parents:
            message = f"output folder {back}: lies in {other}, or contains it; choose another folder"
            raise OutputFolderError(message)


def put_new(root: Path, name: str, writer: Writer) -> OutputFile:
    """Have `writer` create a file below `root`; an existing one with other bytes is never replaced.

    Raises
    ------
    OutputFolderError
        If it would have to be replaced, or if the folder is not writable.
    """

    def refuse(_digest: str) -> None:
        if (root / name).exists() or (root / name).is_symlink():
            message = f"output folder {root}: contains another {name!r}; choose an empty folder"
            raise OutputFolderError(message)

    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"output folder {root}: {error.strerror or error}; choose another folder"
        raise OutputFolderError(message) from error
    file, _ = put(root, name, writer, before=refuse)
    with room_for(root / name):
        see_on_disk([root / name], root)
    return file


def _writer(source: Path, product: str, rows: Sequence[Known], solution: KnownSolution, notes: list[str]) -> Writer:
    def write(path: Path) -> None:
        notes.extend(undo_file(source, path, rows, solution, product))

    return write


def _refuse_altered(source: Path, product: str, sha256: str | None) -> None:
    """Refuse a file that is not the one that the run wrote: the result would not be the input."""
    refuse_irregular(source, NotFitsError, product)
    if OutputFile.of(source, product).sha256 != sha256:
        message = f"{product}: not the file that the run wrote (its sha256 differs from run.json's)"
        raise NotFitsError(message)


def _restore_input(
    edited: EditedFile,
    image: KnownImage,
    hdus: Sequence[Hdu],
    path: Path,
    grids: Mapping[str, Grid],
    *,
    blank_zero: bool,
) -> str:
    """Put the input's image back; return what of its type could not be given back, '' if all was."""
    header = edited.base.header(image.hdu)
    if image.untouched:
        take_cards(header)
        edited.put(image.hdu, header, None)
        return ""
    stored = edited.base.image(image.hdu)
    values = physical_values(stored, header)
    parts = [part for part in (image.main, image.second) if part is not None]
    blanks = (0.0,) if blank_zero else ()
    wcs = None
    if not all(part.total.is_level and not part.per_area for part in parts):
        wcs = wcs_from(image.main.wcs_source, hdus, image.hdu, path, image.main.product)
    whole, *window = (
        shifted(
            values,
            1,
            part.total,
            grids[part.place],
            wcs,
            blank=Blank.of_corrected(values, part.blanks or blanks, output_type(stored.dtype)),
            per_area=part.per_area,
            divisor=part.divisor,
        )
        for part in parts
    )
    if window and image.second is not None and image.second.window is not None:
        inside = inside_of(image.second.window, (values.shape[0], values.shape[1]))
        whole[inside] = window[0][inside]
    came, note = as_it_came(whole, header, f"{image.main.product}: HDU {image.hdu}")
    take_cards(header)  # after the card of the type, of which name the input may have one
    edited.put(image.hdu, header, whole.astype(stored.dtype) if came is None else came)
    return note
