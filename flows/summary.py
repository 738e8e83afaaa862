"""What came of a run, in the words that people read: at the end of the command, in Prefect and in MLflow."""

import math
from collections import Counter
from collections.abc import Iterable

from pydantic import Field as Described

from levelmatch_core.matching.corrections import FieldMatch, Status
from levelmatch_core.matching.results import PairResult
from levelmatch_core.pipeline import RunResult
from levelmatch_core.records import Record


class Problem(Record):
    """An exposure or file that was not matched, or a product that was not made."""

    name: str
    status: str = Described(description="untied, or failed")
    step: str = Described(default="", description="the step that failed")
    reason: str


class Residual(Record):
    """How much the members of a field's used pairs differ, before and after, all stages together."""

    field: str
    unit: str
    before: float = Described(description="rms of the pairs' differences before, data unit")
    after: float = Described(description="the same after")
    used: int = Described(description="pairs used")
    rejected: dict[str, int] = Described(description="pairs rejected, by reason")
    components: int


class Tracking(Record):
    """Where the MLflow record is, or why there is none."""

    store: str = Described(description="address of the tracking store")
    run_id: str = ""
    experiment_id: str = ""
    url: str = Described(default="", description="address of the run in MLflow's UI")
    new: bool = Described(default=True, description="whether this flow run made it: False if it was only tagged")
    lost: str = Described(default="", description="what could not be recorded, and why; '' if nothing")


class Summary(Record):
    """The end of a run."""

    program: str
    band: str | None
    output: str
    changed: bool
    complete: bool
    counts: dict[str, int] = Described(description="exposures by status")
    residuals: tuple[Residual, ...] = Described(description="by field")
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    seconds: float
    peak_memory: float = Described(description="most memory in use, megabytes")
    executed: dict[str, int] = Described(default={}, description="jobs done, by step")
    cached: dict[str, int] = Described(default={}, description="jobs whose stored results were used, by step")
    tracking: Tracking | None = None

    @property
    def quarantined(self) -> tuple[Problem, ...]:
        """What failed."""
        return tuple(problem for problem in self.problems if problem.status == Status.FAILED)

    @property
    def verdict(self) -> str:
        """One sentence: whether it worked."""
        good = sum(self.counts.get(status, 0) for status in (Status.MATCHED, Status.REFERENCE))
        alone = self.counts.get(Status.ALONE, 0)
        parts = [f"{good} of {sum(self.counts.values())} exposures are matched"]
        if alone:
            parts.append(f"{alone} had nothing to match with")
        for status in (Status.UNTIED, Status.FAILED):
            names = [problem.name for problem in self.problems if problem.status == status]
            if names:
                parts.append(f"{len(names)} {status}")
        seams = "; ".join(
            f"{each.field}: overlaps differ by {each.before:.4g} {each.unit} rms before and {each.after:.4g} after"
            for each in self.residuals
            if each.used
        )
        return ", ".join(parts) + (f"; {seams}." if seams else ".")


def summarize(result: RunResult, *, peak_memory: float) -> Summary:
    """Return the summary of a run; `peak_memory` in megabytes."""
    return Summary(
        program=result.request.program,
        band=result.request.settings.band,
        output=str(result.request.output),
        changed=result.changed,
        complete=result.complete,
        counts=result.record.counts,
        residuals=tuple(residual_of(match) for match in result.matches),
        problems=tuple(_problems(result)),
        notes=result.record.notes,
        seconds=result.seconds,
        peak_memory=peak_memory,
    )


def residual_of(match: FieldMatch) -> Residual:
    """Return the pooled residuals of a field: each used pair of each stage counts once."""
    solutions = [solution for stage in match.stages for solution in stage.solutions]
    pairs = [pair for solution in solutions for pair in solution.pairs]
    counts = [sum(pair.rejected is None for pair in solution.pairs) for solution in solutions]
    used = sum(counts)

    def pooled(rms: Iterable[float]) -> float:
        return math.sqrt(sum(n * value**2 for n, value in zip(counts, rms, strict=True)) / used) if used else 0.0

    return Residual(
        field=match.field.name,
        unit=match.field.unit,
        before=pooled(solution.status.residual_before for solution in solutions),
        after=pooled(solution.status.residual_after for solution in solutions),
        used=used,
        rejected=dict(sorted(Counter(pair.rejected.value for pair in pairs if pair.rejected is not None).items())),
        components=len({correction.component for correction in match.corrections if correction.component is not None}),
    )


def _problems(result: RunResult) -> Iterable[Problem]:
    named = set()
    for failure in result.failures:
        named |= {failure.name, *failure.exposures}
        yield Problem(name=failure.name, status=Status.FAILED, step=failure.step, reason=failure.reason)
    for match in result.matches:
        for correction in match.corrections:
            name = correction.exposure.name
            if correction.status is Status.UNTIED:
                yield Problem(name=name, status=Status.UNTIED, reason=_why_untied(name, match))
            elif correction.status is Status.FAILED and name not in named:
                yield Problem(name=name, status=Status.FAILED, reason=f"lost with its tile {correction.exposure.tile}")


def _why_untied(exposure: str, match: FieldMatch) -> str:
    """Say what became of the pairs that an exposure is in."""
    reasons: Counter[str] = Counter()
    for pair in _pairs_with(exposure, match):
        reasons[pair.rejected.value if pair.rejected else "used, but tied to nothing else"] += 1
    found = ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
    return f"every pair with it was rejected: {found}"


def _pairs_with(exposure: str, match: FieldMatch) -> Iterable[PairResult]:
    for stage in match.stages:
        names = {member.name for member in stage.members if exposure in member.exposures}
        for solution in stage.solutions:
            for pair in solution.pairs:
                if names & {pair.fit.first, pair.fit.second}:
                    yield pair
