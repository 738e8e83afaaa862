"""Fields: exposures of one kind whose footprints hang together, and that share one grid."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

from levelmatch_core.images.contents.pixel_values import area_note
from levelmatch_core.images.contents.scales import beam_doubt, magnitude_doubt, rated
from levelmatch_core.images.exposure import Exposure, Field
from levelmatch_core.images.wcs.footprint import connected_sets, touching_pairs
from levelmatch_core.images.wcs.pixel_area import LIMIT, differ

MOSAIC = "mosaic_tiles"
"""The stage whose groups are the fields."""

_LONGEST_BAND = 40
"""Characters of a band that the name of a field takes over."""
MAX_SCALE_RATIO = 2.0
"""Images whose pixels differ by more than this factor in size share no grid."""
MAX_FREQUENCY_RATIO = 1.1
"""Radio images whose frequencies differ by more than this factor, none of the others between them, are of two bands."""


@dataclass(frozen=True)
class Kind:
    """What all exposures of a field share, besides their place."""

    instrument: str
    camera: str
    band: str
    unit: str


@dataclass(frozen=True)
class Labelled:
    """An exposure, with what is needed to sort it in."""

    kind: Kind
    exposure: Exposure
    identity: str
    frequency: float | None = None
    """Hz, of a radio image of which no card names a band."""


def fields_of(
    found: Sequence[Labelled], notes: list[str], rates: Literal["auto", "on", "off"] = "auto"
) -> tuple[Field, ...]:
    """Put exposures of one kind that hang together into fields, and name these.

    A field is called by its band, with a number where a band has several, in the order of their first exposures.

    Parameters
    ----------
    found
        Exposures with their kinds.
    notes
        Where there is more than one field, what each is, is added here.
    rates
        The setting of that name.
    """
    by_kind: dict[Kind, list[Labelled]] = defaultdict(list)
    for labelled in found:
        by_kind[labelled.kind].append(labelled)
    sets = [
        members
        for _, labelled_ones in sorted(by_kind.items(), key=lambda item: astuple(item[0]))
        for exposures in _by_frequency(labelled_ones)
        for similar in _by_scale(exposures)
        for members in _touching(similar)
    ]
    sets.sort(key=lambda members: (_safe(members[0].band), members[0].name))
    names = _names([_safe(members[0].band) for members in sets])
    fields = tuple(_field(name, *rated(name, members, rates, notes)) for name, members in zip(names, sets, strict=True))
    for field in fields:
        part, first = differ(one.area for one in field.exposures), field.exposures[0]
        if part > LIMIT:
            notes.append(area_note(field.title, field.unit, first.pixel_values, first.pixel_values_reason, part))
    if len(fields) > 1:
        all_labels = {labelled.exposure.name: labelled for labelled in found}
        notes.append(f"{len(fields)} fields, which are matched each by itself:")
        notes += [_described(field, all_labels[field.exposures[0].name]) for field in fields]
    return fields


def _by_frequency(found: Sequence[Labelled]) -> Iterator[list[Exposure]]:
    """Yield exposures whose frequencies lie close together; those of no known one are a set of their own."""
    group: list[Exposure] = []
    last: float | None = None
    for labelled in sorted(found, key=lambda one: (one.frequency or 0.0, one.exposure.name)):
        here = labelled.frequency
        apart = (here is None) != (last is None) or (here is not None and here > MAX_FREQUENCY_RATIO * (last or here))
        if group and apart:
            yield group
            group = []
        group.append(labelled.exposure)
        last = here
    yield group


def _by_scale(exposures: Sequence[Exposure]) -> Iterator[list[Exposure]]:
    """Yield exposures whose pixel scales are within MAX_SCALE_RATIO of the finest among them."""
    group: list[Exposure] = []
    for exposure in sorted(exposures, key=lambda one: (one.scale, one.name)):
        if group and exposure.scale > MAX_SCALE_RATIO * group[0].scale:
            yield group
            group = []
        group.append(exposure)
    yield group


def _touching(exposures: Sequence[Exposure]) -> Iterator[list[Exposure]]:
    """Yield the connected sets of footprints, each sorted by name."""
    ordered = sorted(exposures, key=lambda exposure: exposure.name)
    pairs = touching_pairs([exposure.footprint for exposure in ordered])
    for members in connected_sets(len(ordered), pairs):
        yield [ordered[index] for index in members]


def _safe(band: str) -> str:
    """Return a band as it may stand in a file name."""
    return re.sub(r"[^a-z0-9]+", "_", band.lower()).strip("_")[:_LONGEST_BAND] or "field"


def _names(bases: Sequence[str]) -> list[str]:
    """Return the bases, those that occur several times numbered from 1 on."""
    count = Counter(bases)
    number: Counter[str] = Counter()
    names = []
    for base in bases:
        number[base] += 1
        names.append(base if count[base] == 1 else f"{base}-{number[base]}")
    return names


def _field(name: str, members: Sequence[Exposure], scale_doubt: str) -> Field:
    first = members[0]
    per_area = first.pixel_values == "flux" and differ(member.area for member in members) > LIMIT
    exposures = tuple(
        member.model_copy(update={"groups": {**member.groups, MOSAIC: name}, "per_area": per_area})
        for member in members
    )
    unit = f"{first.unit or 'counts'}/s" if first.divisor != 1.0 else first.unit
    scale_doubt = magnitude_doubt(first.unit) or beam_doubt(member.beam for member in members) or scale_doubt
    return Field(
        name=name,
        instrument=first.instrument,
        band=first.band,
        unit=unit,
        exposures=exposures,
        scale_doubt=scale_doubt if len(members) > 1 else "",
    )


def _described(field: Field, first: Labelled) -> str:
    camera, frequency = first.kind.camera, first.frequency
    band = first.kind.band or ("(none)" if frequency is None else f"(none; {frequency / 1e9:.4g} GHz)")
    scales = [exposure.scale for exposure in field.exposures]
    return (
        f"{field.title}: {len(field.exposures)} exposures from {field.exposures[0].name} on, instrument "
        f"{camera or field.instrument}, band {band}, unit {field.unit or '(none)'}, pixels of "
        f"{min(scales):.4g} to {max(scales):.4g} arcsec"
    )
