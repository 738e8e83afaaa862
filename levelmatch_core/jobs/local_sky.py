"""The local sky as the zero of each component of a field."""

from collections.abc import Sequence

from levelmatch_core.images.exposure import Failure
from levelmatch_core.jobs.groups import FieldWork
from levelmatch_core.jobs.science import SkyJob
from levelmatch_core.matching.corrections import Correction, Status
from levelmatch_core.sky.cutouts import CutoutRecord


def with_local_sky(
    corrections: tuple[Correction, ...],
    groups: Sequence[tuple[int, ...]],
    cutouts: dict[str, CutoutRecord],
    work: FieldWork,
) -> tuple[tuple[Correction, ...], list[Failure], tuple[str, ...]]:
    """Subtract one constant per component: the local sky of its reference tile's first exposure (main chip only).

    Overlapping components (`groups`) are parts of the same sky, whose brightness differs from part to part: the
    constant of the first one, which is the largest, is subtracted from all of them.
    """
    if not work.settings.do_local_subtraction:
        return corrections, [], ()
    if any(correction.fit_types.get("dithers") == "level+slope" for correction in corrections):
        return corrections, [], ("local subtraction is off: the dithers are matched by planes",)
    components: dict[int, list[Correction]] = {}
    for correction in corrections:
        given = correction.given_zero
        if correction.component is not None and correction.status is not Status.ALONE and not given:
            components.setdefault(correction.component, []).append(correction)
    notes = []
    if any(correction.given_zero for correction in corrections):
        notes.append("local subtraction is not applied to components whose zero the user gave")
    held_together = [[number for number in group if number in components] for group in groups]
    first = {number: group[0] for group in held_together for number in group}
    apart = set(first.values())
    if len(apart) > 1:
        notes.append(f"local subtraction gives each of the {len(apart)} separate parts its own zero")
    if len(components) > len(apart):
        notes.append(
            f"{len(components)} components overlap but are not connected: local subtraction uses the sky of the "
            "largest for all that overlap, since their own would follow the nebula"
        )
    if any(correction.exposure.background_time is not None for correction in corrections) and components:
        notes.append(
            "local subtraction replaces the zero of the dedicated backgrounds (DT_BGR): consider turning it off"
        )
    standing = {number: _stands_for(components[number]) for number in sorted(apart)}
    jobs = [
        SkyJob(
            label=chosen.exposure.name,
            exposures=(),
            settings=work.settings,
            correction=chosen,
            cutout=cutouts[chosen.exposure.name],
        )
        for chosen in standing.values()
    ]
    results = work.each(jobs, f"{work.field}: local sky")
    failures = [result for result in results if isinstance(result, Failure)]
    found = {
        number: result.level
        for number, result in zip(standing, results, strict=True)
        if not isinstance(result, Failure)
    }
    levels = {number: found[one] for number, one in first.items() if one in found}
    corrected = tuple(
        correction.model_copy(update={"local_sky": levels[correction.component]})
        if correction.component in levels and correction.status is not Status.ALONE
        else correction
        for correction in corrections
    )
    return corrected, failures, tuple(notes)


def _stands_for(parts: Sequence[Correction]) -> Correction:
    """Return the first exposure by name of the component's reference (else of all); main chip before Lyot window."""
    chosen = [part for part in parts if part.status is Status.REFERENCE] or list(parts)
    anchored = [part for part in chosen if part.exposure.anchors] or chosen
    return min(anchored, key=lambda part: part.exposure.name)
