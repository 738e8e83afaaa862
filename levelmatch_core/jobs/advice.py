"""The job that tries what would serve a stage better that is not good, from the stored cutouts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.given import Given
from levelmatch_core.jobs.job import Job, JobRunner, Workspace
from levelmatch_core.matching.alternatives import (
    Advice,
    Key,
    Predictions,
    Trial,
    compare,
    detector_pattern,
    detector_remark,
    noise_remarks,
    predictions_of,
    slope_remarks,
    worst_pair,
)
from levelmatch_core.matching.corrections import FieldMatch, StageMatch
from levelmatch_core.matching.match import NOTHING, match
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import Member, PairFit, Solution, patch_of
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.products.grade import Grade
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import Cutout, open_cutout
from levelmatch_core.sky.masks import source_mask
from levelmatch_core.sky.store import CutoutStore

MOST_PAIRS = 2000
"""With more pairs in a stage nothing is tried: it would take minutes."""

Fits = dict[str, list[PairFit]]
"""By group."""


class AdviceJob(Job):
    """Solve the alternatives that the stored cutouts allow, and compare what they predict of pairs left out."""

    step = "advice"
    roles = ("mask", "measure", "solve")
    gives = Advice
    large = ("match",)

    match: StageMatch
    unit: str
    gain: bool
    """Whether differences grow with brightness."""
    given: Given = NOTHING

    @property
    def place(self) -> tuple[str, str]:
        """The field, and the stage by its name."""
        return self.label, f"{self.match.stage} {self.step}"

    @property
    def reads(self) -> tuple[str, ...]:
        """The exposures of the stage."""
        return tuple(name for member in self.match.members for name in member.exposures)

    @property
    def makes(self) -> tuple[str, ...]:
        """The advice on the field."""
        return (advice_name(self.label),)

    def told(self, result: Advice) -> str:
        """Return what would be better."""
        return f"{len(result.trials)} alternatives tried; better: {', '.join(t.name for t in result.better) or 'none'}"

    def run(self, workspace: Workspace) -> Advice:
        """Return what was tried and seen."""
        stage = self.match
        remarks = noise_remarks(stage.solutions, self.unit)
        if self.gain:
            remarks.append(
                "gain: the differences grow with brightness (flat field, photometric zero point); no level, plane, "
                "mask or weight mends it, better calibration does"
            )
        pairs = sum(len(solution.pairs) for solution in stage.solutions)
        if pairs > MOST_PAIRS:
            remarks.append(f"nothing was tried: {pairs} pairs, and trials are made of {MOST_PAIRS} at most")
            return Advice(field=self.label, stage=stage.stage, remarks=tuple(remarks))
        tries = _Tries(self, workspace.store)
        members = tries.members
        planes = tries.planes()
        fits = [pair.fit for solution in planes for pair in solution.pairs]
        pattern = detector_pattern(fits, members)
        shows = pattern is not None and pattern.shows
        remarks += [words for words in (detector_remark(pattern),) if words]
        if not shows:
            remarks += slope_remarks(planes, members, self.unit)
        trials = (*tries.of_fit_type(planes), *tries.of_weights(), *tries.of_masks(), *tries.without_worst())
        return Advice(
            field=self.label, stage=stage.stage, trials=trials, remarks=tuple(remarks), detector=shows or self.gain
        )


def advise(
    record: RunRecord, matches: Sequence[FieldMatch], settings: MatchSettings, each: JobRunner, given: Given
) -> tuple[Advice, ...]:
    """Return what was tried for the stages of a run that are not good, and what was seen in all of them.

    What cannot be tried costs nothing but its advice, which says so.

    Parameters
    ----------
    record
        Of the run: its grades say which stages are not good.
    matches
        All fields, solved.
    settings
        Of the run.
    each
        Runs the jobs.
    given
        What the user knows.
    """
    by_name = {match.field.name: match for match in matches}
    jobs, seen = [], []
    for field in record.fields:
        doubted = {one.stage for one in field.criteria if one.grade is not Grade.GOOD}
        summaries = {stage.stage: stage for stage in field.stages}
        unit = field.unit or "data units"
        for stage in by_name[field.name].stages:
            summary = summaries[stage.stage]
            if stage.stage in doubted and summary.seams_tested:
                job = AdviceJob(
                    label=field.name,
                    exposures=(),
                    settings=settings,
                    match=stage,
                    unit=unit,
                    gain=bool(summary.gains_found),
                    given=given,
                )
                jobs.append(job)
            elif remarks := noise_remarks(stage.solutions, unit):
                seen.append(Advice(field=field.name, stage=stage.stage, remarks=tuple(remarks)))
    if not jobs:
        return tuple(seen)
    found = zip(jobs, each(jobs, "what would be better"), strict=True)
    tried = [
        Advice(field=job.label, stage=job.match.stage, remarks=(f"nothing could be tried: {one.reason}",))
        if isinstance(one, Failure)
        else one
        for job, one in found
    ]
    return (*seen, *tried)


def advice_name(field: str) -> str:
    """Return what names the advice on a field among what jobs read and make."""
    return f"advice on {field}"


@dataclass(frozen=True)
class _Tries:
    job: AdviceJob
    store: CutoutStore

    @property
    def stage(self) -> StageMatch:
        return self.job.match

    @property
    def members(self) -> Mapping[str, Member]:
        return {member.name: member for member in self.stage.members}

    @property
    def is_level(self) -> bool:
        return all(solution.fit_type == "level" for solution in self.stage.solutions)

    @property
    def now(self) -> Predictions:
        return predictions_of(self.stage.solutions)

    def fits(self, settings: MatchSettings, fit_type: str, *, masked: bool = False) -> Fits:
        """Measure all pairs of all groups in another way."""
        opened: dict[tuple[str, str], Cutout] = {}
        members = self.members

        def cutout(name: str, patch: str) -> Cutout:
            if (name, patch) not in opened:
                opened[name, patch] = open_cutout(members[name].on_patches[patch], self.store)
                if masked:
                    opened[name, patch] = _without_sources(opened[name, patch], settings)
            return opened[name, patch]

        found: Fits = {}
        for solution in self.stage.solutions:
            fits = (
                fit_pair(
                    cutout(pair.fit.first, patch),
                    cutout(pair.fit.second, patch),
                    "level" if fit_type == "level" else "level+slope",
                    settings,
                )
                for pair in solution.pairs
                for patch in (patch_of(members[pair.fit.first], members[pair.fit.second]),)
            )
            found[solution.group] = [fit for fit in fits if fit is not None]
            opened.clear()
        return found

    def solve(self, fits: Fits, settings: MatchSettings) -> list[Solution]:
        """Solve all groups with other differences or settings."""
        gauge = next(one.gauge for one in STAGES if one.name == self.stage.stage)
        solved = []
        for solution in self.stage.solutions:
            inside = [self.members[one.name] for one in solution.members]
            preferred = tuple(part.reference for part in solution.components if part.reference)
            solved.append(
                match(
                    self.stage.stage,
                    solution.group,
                    inside,
                    fits[solution.group],
                    gauge,
                    settings,
                    preferred,
                    self.job.given,
                )
            )
        return solved

    def settings(self, **changes: object) -> MatchSettings:
        """Return the settings with changes, and the fit type that the stage has."""
        own = self.stage.solutions[0].fit_type
        return self.job.settings.model_copy(update={f"fit_type_{self.stage.stage}": own, **changes})

    def own_fits(self) -> Fits:
        return {solution.group: [pair.fit for pair in solution.pairs] for solution in self.stage.solutions}

    def planes(self) -> list[Solution]:
        """Return the stage with planes."""
        if not self.is_level:
            return list(self.stage.solutions)
        settings = self.settings(**{f"fit_type_{self.stage.stage}": "level+slope"})
        return self.solve(self.fits(settings, "level+slope"), settings)

    def of_fit_type(self, planes: list[Solution]) -> Iterator[Trial]:
        """Try planes where there are levels, and levels where there are planes."""
        name = f"fit_type_{self.stage.stage}"
        if self.is_level:
            then, words, value = predictions_of(planes), "planes", "level+slope"
        else:
            settings = self.settings(**{name: "level"})
            then = predictions_of(self.solve(self.fits(settings, "level"), settings))
            words, value = "levels", "level"
        trial = compare(words, f"{name}={value}", self.now, then)
        yield from filter(None, [trial])

    def of_weights(self) -> Iterator[Trial]:
        """Try the errors of the pairs as weights, or equal ones where they are."""
        other = "equal" if self.job.settings.weight_method == "error" else "error"
        settings = self.settings(weight_method=other)
        then = predictions_of(self.solve(self.own_fits(), settings))
        words = "weights by error" if other == "error" else "equal weights"
        yield from filter(None, [compare(words, f"weight_method={other}", self.now, then)])

    def of_masks(self) -> Iterator[Trial]:
        """Try source masks; without them the stored cutouts, which lack what was masked, tell nothing."""
        if self.job.settings.do_sigma_clip:
            return
        settings = self.settings()
        fit_type = "level" if self.is_level else "level+slope"
        then = predictions_of(self.solve(self.fits(settings, fit_type, masked=True), settings))
        yield from filter(None, [compare("source masks", "do_sigma_clip=true", self.now, then)])

    def without_worst(self) -> Iterator[Trial]:
        """Try to leave out the pair that fits worst."""
        worst: Key | None = worst_pair(self.stage.solutions)
        if worst is None:
            return
        group, *names = worst
        fits = self.own_fits()
        fits[group] = [fit for fit in fits[group] if [fit.first, fit.second] != names]
        then = predictions_of(self.solve(fits, self.settings()))
        yield from filter(None, [compare(f"without {names[0]} - {names[1]}", "", self.now, then)])


def _without_sources(cutout: Cutout, settings: MatchSettings) -> Cutout:
    """Return a cutout without its sources, found on the grid."""
    sources = source_mask(
        cutout.data,
        sigma=settings.sigma,
        npixels=settings.npixels,
        dilate_size=settings.dilate_size,
        max_iters=settings.max_iters,
    )
    return replace(cutout, data=np.where(sources, np.nan, cutout.data).astype(cutout.data.dtype))
