"""The survey image to which the tiles of a field are matched: one member, or one for each patch of a wide field."""

from collections.abc import Mapping

from levelmatch_core.images.exposure import Exposure, Failure
from levelmatch_core.jobs.groups import FieldWork, single_member
from levelmatch_core.jobs.job import parted
from levelmatch_core.jobs.science import SurveyJob, SurveyView
from levelmatch_core.matching.results import Member
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.patches import Layout


def survey_member(
    anchor: Exposure, stage: str, field: str, views: Mapping[str, CutoutRecord], layout: Layout
) -> Member:
    """Return a survey image on the only grid of a field as a member whose correction is 0."""
    surveyed = anchor.model_copy(update={"groups": {stage: field}})
    return single_member(surveyed, views, layout).model_copy(update={"locked": True})


def survey_members(
    anchor: Exposure, stage: str, layout: Layout, cutouts: Mapping[str, CutoutRecord], work: FieldWork
) -> tuple[list[Member], list[Failure], tuple[str, ...]]:
    """Return a survey image as a member of each patch that it reaches, with what failed, and notes.

    Parameters
    ----------
    anchor
        The image, which may show the whole sky.
    stage
        The stage in which it takes part.
    layout
        The patches.
    cutouts
        Those of the field's exposures, by name, each on its home: the image is resampled where they are.
    work
        What all steps of the field have in common.
    """
    homes: dict[str, list[CutoutRecord]] = {}
    for name, cutout in cutouts.items():
        homes.setdefault(layout.home(name), []).append(cutout)
    jobs = [
        SurveyJob(
            label=f"{anchor.name} {patch}",
            exposures=(),
            settings=work.settings,
            exposure=anchor,
            grid=layout.grids[patch],
            within=_around(there),
            exclude=work.files.exclude,
        )
        for patch, there in homes.items()
    ]
    results = work.each(jobs, f"{work.field}: survey image")
    views, failures = parted(results)
    members = []
    for patch, result in zip(homes, results, strict=True):
        if isinstance(result, SurveyView) and result.cutout is not None:
            name = f"{anchor.name} {patch}"
            view = {patch: result.cutout.model_copy(update={"name": name})}
            own = anchor.model_copy(update={"name": name, "groups": {stage: work.field}})
            members.append(single_member(own, view, layout).model_copy(update={"locked": True}))
    lacking = len(views) - len(members)
    notes = (f"{work.field}: anchor_image does not reach {lacking} of {len(homes)} patches",) if lacking else ()
    return members, failures, notes


def _around(cutouts: list[CutoutRecord]) -> tuple[int, int, int, int]:
    """Return x0, y0, rows and columns of the box around cutouts."""
    x0, y0 = min(one.x0 for one in cutouts), min(one.y0 for one in cutouts)
    rows = max(one.y0 + one.shape[0] for one in cutouts) - y0
    return x0, y0, rows, max(one.x0 + one.shape[1] for one in cutouts) - x0
