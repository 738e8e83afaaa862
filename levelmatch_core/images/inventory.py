"""Files in; exposures, tiles and fields out. What cannot be used is left out by name, with its reason."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from astropy.io import fits

from levelmatch_core.errors import (
    AllPendingError,
    DataError,
    DuplicateExposureError,
    FieldTooWideError,
    NoImageError,
    NoInputError,
    NotFitsError,
    SettingsError,
)
from levelmatch_core.images.agreement import wcs_notes
from levelmatch_core.images.contents.bands import band_note, frequency_of
from levelmatch_core.images.contents.companions import Aside, Role, Seen, aside_notes, asides_of, companion_hdu
from levelmatch_core.images.contents.damage import damage_notes, refuse_damaged, without_copied_sums
from levelmatch_core.images.contents.image_list import (
    cube_message,
    passed_over_notes,
    planes_of,
    refuse_whole_numbers,
)
from levelmatch_core.images.contents.pixel_values import pixel_values_of
from levelmatch_core.images.contents.scales import (
    beam_of,
    counts_of,
    exposure_time,
    is_scaled,
    refuse_asinh,
    unit_key,
)
from levelmatch_core.images.contents.source_file import PENDING, EarlierInputs, SourceFile, read_files, reading_failure
from levelmatch_core.images.contents.source_file import STEP as INVENTORY
from levelmatch_core.images.exposure import Companion, Exposure, Failure, Inventory
from levelmatch_core.images.fields import Kind, Labelled, fields_of
from levelmatch_core.images.finding import find_files
from levelmatch_core.images.fits_headers import Cards, Hdu, number_of, quiet, text_of
from levelmatch_core.images.grouping import GroupBy, grouping
from levelmatch_core.images.instruments import Source, instrument_of, known_with, recognise
from levelmatch_core.images.missing import MissingInput, reasons_of
from levelmatch_core.images.reading import refuse_matched, refuse_shapes, wcs_of
from levelmatch_core.images.wcs.fits_wcs import has_loose_sip
from levelmatch_core.images.wcs.footprint import footprint_of
from levelmatch_core.images.wcs.gwcs import gwcs_of, require_extra, tree_of
from levelmatch_core.images.wcs.pixel_area import area_range, is_per_pixel
from levelmatch_core.images.wcs.transforms import AnyWcs, sky_transforms
from levelmatch_core.images.wcs.wide import MOST
from levelmatch_core.images.zeropoints import zero_point_notes, zero_point_of
from levelmatch_core.settings import MatchSettings, WcsSource
from levelmatch_core.text.plain_text import one_line

__all__ = ["INVENTORY", "PENDING", "find_files", "take_inventory"]

BACKGROUND_CARD = "DT_BGR"

T = TypeVar("T")
_REASONS_SHOWN = 10
_CHIP = re.compile(r"#\d+$")
_FULL_FRAME = 2048
"""Rows and columns of the largest detector that has windows."""


def take_inventory(
    inputs: Iterable[str | Path],
    settings: MatchSettings,
    *,
    recursive: bool = False,
    group_by: str | Path | GroupBy | None = None,
    exclude: Iterable[str | Path] = (),
    whole_sky: bool = False,
    missing: Sequence[MissingInput] = (),
    earlier: EarlierInputs | None = None,
) -> Inventory:
    """Read the headers of all inputs and put them in order.

    The result does not depend on the order of the inputs, nor on `settings.procs`.

    Parameters
    ----------
    inputs
        Files and folders, as in :func:`find_files`.
    settings
        Of which those of role `input` matter, and `procs`.
    recursive
        Whether to search folders within folders.
    group_by
        How files become tiles, as in :func:`levelmatch_core.images.grouping.grouping`; None leaves it to the
        instrument.
    exclude
        Folders of which nothing is taken.
    whole_sky
        Whether images are usable of which no tangent plane shows all.
    missing
        Files of the inputs, or members of their associations, that are not there: each is a failure.
    earlier
        What is known of them.

    Raises
    ------
    UsageError
        If another input does not exist or `group_by` cannot be used; SettingsError if no file is of `settings.band`.
    NoInputError
        If no usable exposure is left; AllPendingError if all files are still being written.
    """
    require_extra(settings.wcs_source)
    tile_of = None if group_by is None else grouping(group_by)
    why = reasons_of(missing)
    paths = find_files(inputs, step_ext=settings.step_ext, recursive=recursive, exclude=exclude, missing=why.keys())
    failures: list[Failure] = []
    notes: list[str] = []
    with quiet():
        files = _sound(read_files(paths, settings, why, earlier), failures)
        asides = asides_of(Seen(file.shown, file.hdus) for file in files)
        unseen = [file for file in files if file.shown not in asides and file.is_no_sky()]
        asides |= {file.shown: Aside(file.shown, file.is_no_sky()) for file in unseen}
        beside = _beside(files, asides) if settings.companions == "use" else {}
        files = _believed([file for file in files if file.shown not in asides], notes)
        files = _of_band(files, settings.band, notes)
        files = _sound(_copies_marked(files, earlier), failures)
        found = [labelled for file in files for labelled in _sound(_exposures_of(file, settings, tile_of), failures)]
        found = [_with_companions(labelled, beside.get(labelled.exposure.file, ())) for labelled in found]
        found = _sound(_repeats_marked(found if whole_sky else _sound(_too_wide_marked(found), failures)), failures)
    if not found:
        no_images = [
            reading_failure(one.shown, NoImageError(f"{one.shown}: no exposure: {one.reason}"))
            for one in asides.values()
        ]
        unused = [*failures, *no_images]
        kind = AllPendingError if unused and all(one.step == PENDING for one in unused) else NoInputError
        raise kind(_nothing_left(len(paths), unused))
    exposures = [labelled.exposure for labelled in found]
    used = (one for exposure in exposures for one in (exposure.weight, exposure.flags))
    notes += aside_notes(asides, (one for one in used if one is not None and one.file in asides))
    notes += _quality_notes(files, settings)
    matched = {labelled.exposure.file for labelled in found}
    notes += passed_over_notes((file.shown, file.listed) for file in files if file.shown in matched)
    notes += damage_notes((file.shown, file.hdus) for file in files if file.shown in matched)
    notes += band_note(sorted({one.exposure.file for one in found if not one.exposure.band and one.frequency is None}))
    trees = {file.shown: file.hdus for file in files if tree_of(file.hdus) is not None}
    notes += wcs_notes([labelled.exposure for labelled in found], trees, settings)
    fields = fields_of(found, notes, settings.rates)
    notes += zero_point_notes(fields)
    failures = sorted((_with_tiles(one, settings, tile_of) for one in failures), key=lambda one: one.name)
    return Inventory(
        fields=fields,
        failures=tuple(one for one in failures if one.step != PENDING),
        pending=tuple(one for one in failures if one.step == PENDING),
        asides={one.shown: one.reason for _, one in sorted(asides.items())},
        notes=tuple(notes),
    )


def _sound(results: Iterable[T | Failure], failures: list[Failure]) -> list[T]:
    """Return what came out well; failures go to their list."""
    sound: list[T] = []
    for result in results:
        if isinstance(result, Failure):
            failures.append(result)
        else:
            sound.append(result)
    return sound


def _nothing_left(n_files: int, failures: Sequence[Failure]) -> str:
    shown = "".join(f"\n  {one.error}: {one_line(one.reason)}" for one in failures[:_REASONS_SHOWN])
    more = len(failures) - _REASONS_SHOWN
    return f"none of {n_files} files can be used:{shown}" + (f"\n  and {more} more" if more > 0 else "")


def _with_tiles(failure: Failure, settings: MatchSettings, tile_of: GroupBy | None) -> Failure:
    """Say which tile lacks a file that could not be read: by the user's grouping and by the file's name alone."""
    file, chip = _CHIP.split(failure.name)[0], "".join(_CHIP.findall(failure.name))
    try:
        tile = None if tile_of is None else tile_of(file)
    except DataError:  # it names no tile for it, which may be the very failure
        return failure
    # nothing is known of the header: the image may be a full frame
    source = Source(file, chip, (_FULL_FRAME, _FULL_FRAME), fits.Header(), tile)
    parts = recognise(Path(file).name, source.primary, known_with(settings.instruments)).split(source, settings)
    tiles = [part.tile for part in sorted(parts, key=lambda part: not part.anchors)]
    groups = [group for part in parts for group in part.groups.values() if group]
    return failure.model_copy(update={"tiles": tuple(dict.fromkeys([*tiles, *groups]))})


# -- files -------------------------------------------------------------------------------------------------------------
def _believed(files: Sequence[SourceFile], notes: list[str]) -> list[SourceFile]:
    """Return the files, their sums not looked at where they were copied from elsewhere."""
    cleared = without_copied_sums([(file.shown, file.hdus) for file in files], notes)
    return [file if hdus is file.hdus else replace(file, hdus=hdus) for file, hdus in zip(files, cleared, strict=True)]


def _of_band(files: list[SourceFile], band: str | None, notes: list[str]) -> list[SourceFile]:
    """Return the files of a band.

    Raises
    ------
    SettingsError
        If there are files, but none of this band.
    """
    if band is None or not files:
        return files
    chosen = [file for file in files if _has_band(file.bands, band)]
    others = Counter(file.band.band or "(none)" for file in files if file not in chosen)
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
    if not chosen:
        message = f"band {band!r}: no file has this FILTER (or FILTER-PUPIL, or another card); present are {listed}"
        raise SettingsError(message)
    if others:
        notes.append(f"left out, for they are not of band {band}: {listed} files")
    return chosen


def _has_band(names: Collection[str], band: str | None) -> bool:
    return band is None or band.strip().lower() in names


def _copies_marked(files: Sequence[SourceFile], earlier: EarlierInputs | None) -> Iterator[SourceFile | Failure]:
    """Put a failure in place of each file whose bytes came before, or are those that another had before."""
    used: dict[str, str] = {}
    for file in files:
        used.setdefault(file.digest, file.shown)
    for file in files:  # the other is a copy of it that was written over another exposure
        if earlier is not None and used[file.digest] != file.shown and earlier.is_as_before(file.shown, file.digest):
            used[file.digest] = file.shown
    for file in files:
        if used[file.digest] != file.shown:
            message = f"{file.shown}: the same bytes as {used[file.digest]}, which is used; remove one of them"
            yield reading_failure(file.shown, DuplicateExposureError(message))
        else:
            yield file


def _quality_notes(files: Sequence[SourceFile], settings: MatchSettings) -> list[str]:
    """Return what to know of files whose data quality masks nothing: unknown bits, or none (a file cut at an HDU)."""
    unknown = [file.shown for file in files if not file.instrument.bad_bits and _named(file, file.instrument.dq)]
    missing = [file.shown for file in files if file.instrument.bad_bits and not _named(file, file.instrument.dq)]
    notes = []
    if unknown:
        notes.append(
            f"data-quality bits of unknown meaning mask nothing in {len(unknown)} files, {unknown[0]} the first"
        )
    loose = [file.shown for file in files if any(has_loose_sip(hdu) for hdu in file.hdus if hdu.plane is not None)]
    if loose:
        notes.append(
            f"SIP coefficients are used although CTYPE does not end in -SIP in {len(loose)} files, {loose[0]} the first"
        )
    waiting = [file.shown for file in files if file.instrument.background and _has_unsubtracted(file.primary)]
    if waiting and not settings.write_background:
        notes.append(
            f"a background was computed and not subtracted (BKGLEVEL, BKGSUB = F) in {len(waiting)} files, "
            f"{waiting[0]} the first: the next resample step would subtract it after the match; set "
            f"write_background=true"
        )
    if missing:
        notes.append(f"no data-quality extension, so no flag masks, in {len(missing)} files, {missing[0]} the first")
    return notes


def _has_unsubtracted(primary: Cards) -> bool:
    return primary.get("BKGSUB") is False and bool(number_of(primary.get("BKGLEVEL")))


# -- exposures ---------------------------------------------------------------------------------------------------------
def _exposures_of(file: SourceFile, settings: MatchSettings, tile_of: GroupBy | None) -> Iterator[Labelled | Failure]:
    """Yield the exposures of a file, or why one, or the whole file, cannot be used."""
    try:
        refuse_matched(file.hdus, file.shown)
        tile = None if tile_of is None else tile_of(file.shown)
        images = file.listed.images
    except DataError as error:
        yield reading_failure(file.shown, error)
        return
    for number, sci in enumerate(images, start=1):
        chip = f"#{number}" if len(images) > 1 else ""
        if not _has_band(file.band_of(sci).names, settings.band):
            continue
        try:
            if sci.index in file.no_sky:
                message = f"{file.shown + chip}: no exposure: {file.no_sky[sci.index]}"
                raise NoImageError(message)
            yield from _exposures_in(file, sci, chip, tile, settings)
        except DataError as error:
            yield reading_failure(file.shown + chip, error)
        except fits.VerifyError as error:
            yield reading_failure(file.shown + chip, NotFitsError(f"{file.shown + chip}: damaged header: {error}"))


def _named(file: SourceFile, name: str) -> list[Hdu]:
    return [hdu for hdu in file.hdus if hdu.name == name]


def _exposures_in(
    file: SourceFile, sci: Hdu, chip: str, tile: str | None, settings: MatchSettings
) -> list[Labelled | Failure]:
    """Return the exposures that one image holds.

    Raises
    ------
    DataError
        If the image cannot be used.
    """
    shown = file.shown + chip
    shape = sci.plane
    if shape is None:
        raise NoImageError(cube_message(sci, shown))
    refuse_whole_numbers(sci, shown)
    err, dq = planes_of(sci, file.listed.images, file.hdus, (file.instrument.err, file.instrument.dq))
    band = file.band_of(sci)
    planes = tuple(hdu for hdu in (err, dq) if hdu is not None)
    refuse_shapes(sci, planes, shown)
    refuse_damaged((file.primary, sci, *planes), shown)
    source, wcs = _wcs(file, sci, chip, settings)
    parts = file.instrument.split(Source(file.shown, chip, shape, file.primary, tile), settings)
    kind = Kind(file.instrument.name, file.camera, band.spelling, text_of(sci.get("BUNIT")))
    asinh = refuse_asinh(sci, shown)
    if asinh is not None:
        raise DataError(asinh)
    values, why = pixel_values_of(kind.unit, settings.pixel_values, file.instrument.pixel_values)
    has_area = values == "flux" or is_per_pixel(kind.unit)
    made: list[Labelled | Failure] = []
    for part in parts:
        where = footprint_of(wcs, shape, part.window, shown)
        exposure = Exposure(
            name=shown + part.suffix,
            path=file.path,
            file=file.shown,
            product=part.product,
            digest=file.digest,
            checksum=file.checksum,
            sci=sci.index,
            err=err.index if err else None,
            dq=dq.index if dq else None,
            shape=shape,
            plane=sci.cube_plane,
            window=part.window,
            instrument=file.instrument.name,
            table=file.instrument.table,
            detector=part.detector,
            tile=part.tile,
            band=band.band,
            unit=kind.unit,
            groups=part.groups,
            anchors=part.anchors,
            wcs_source=source,
            footprint=where.outline,
            scale=where.scale,
            angle=where.angle,
            area=area_range(sky_transforms(wcs)[0], shape, part.window, shown) if has_area else None,
            pixel_values=values,
            pixel_values_reason=why,
            blank=settings.blank,
            exposure_time=exposure_time(sci, file.primary),
            beam=beam_of(kind.unit, sci),
            counts=counts_of(kind.unit, text_of(file.primary.get("BUNIT"))),
            scaled=is_scaled(sci, file.primary),
            weight=_weight_in(file, sci) if settings.companions == "use" else None,
            background_time=number_of(file.primary.get(BACKGROUND_CARD)),
            zero_point=zero_point_of(sci, file.primary),
        )
        frequency = None if band.band else frequency_of(sci)
        made.append(Labelled(replace(kind, unit=unit_key(kind.unit)), exposure, part.identity, frequency))
    return made


def _weight_in(file: SourceFile, sci: Hdu) -> Companion | None:
    """Return the weights of an image that lie in its own file, if any."""
    name = file.instrument.weight
    named = [
        hdu for hdu in (_named(file, name) if name else ()) if hdu.version == sci.version and hdu.plane == sci.plane
    ]
    return Companion(path=file.path, file=file.shown, digest=file.digest, hdu=named[0].index) if named else None


def _wcs(file: SourceFile, sci: Hdu, chip: str, settings: MatchSettings) -> tuple[WcsSource, AnyWcs]:
    """Return the WCS of an image, and where it was found: a gwcs is that of a file's only image."""
    shown = file.shown + chip
    if settings.wcs_source == "gwcs" and not chip:
        found = gwcs_of(file.hdus, file.path, shown)
        if found is not None:
            return "gwcs", found
    return "header", wcs_of(sci, file.path, shown)


def _beside(files: Sequence[SourceFile], asides: Mapping[str, Aside]) -> dict[str, list[tuple[Role, SourceFile]]]:
    """Return the companions of each image that mask its pixels, by the image's file."""
    found: dict[str, list[tuple[Role, SourceFile]]] = {}
    for file in files:
        aside = asides.get(file.shown)
        if aside is not None and aside.image and aside.role:
            found.setdefault(aside.image, []).append((aside.role, file))
    return found


def _with_companions(labelled: Labelled, beside: Sequence[tuple[Role, SourceFile]]) -> Labelled:
    """Return an exposure with the weights and flags that lie beside it."""
    exposure, instrument = labelled.exposure, instrument_of(labelled.exposure)
    changed: dict[str, Companion] = {}
    for role, file in beside:
        hdu = companion_hdu(file.hdus, exposure.sci, exposure.shape)
        if hdu is not None and role not in changed:
            bits = instrument.companion_bits if role == "flags" else 0
            changed[role] = Companion(path=file.path, file=file.shown, digest=file.digest, hdu=hdu, bits=bits)
    return replace(labelled, exposure=exposure.model_copy(update=changed)) if changed else labelled


def _too_wide_marked(found: Sequence[Labelled]) -> Iterator[Labelled | Failure]:
    """Put a failure in place of each exposure of which no tangent plane shows all."""
    for labelled in found:
        if labelled.exposure.footprint:
            yield labelled
            continue
        name = labelled.exposure.name
        message = (
            f"{name}: parts of it are more than {MOST:.0f} degrees from its middle, and no tangent plane shows so much "
            "of the sky: cut it into smaller images; a survey of the whole sky can be the anchor_image"
        )
        yield reading_failure(name, FieldTooWideError(message))


def _repeats_marked(found: Sequence[Labelled]) -> Iterator[Labelled | Failure]:
    """Put a failure in place of each exposure that came before in another file, such as another processing stage."""
    first: dict[str, str] = {}
    for labelled in found:
        name = labelled.exposure.name
        if labelled.identity and labelled.identity in first:
            message = (
                f"{name}: the same exposure as {first[labelled.identity]}, which is used; remove one of them, or "
                f"choose by step_ext"
            )
            yield reading_failure(name, DuplicateExposureError(message))
        else:
            first[labelled.identity] = name
            yield labelled
