"""The summary of a run for the user, at the end of the command, in Prefect and in MLflow."""

from collections import Counter
from collections.abc import Iterable

from pydantic import Field as Described

from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.inventory import PENDING
from levelmatch_core.matching.corrections import Status
from levelmatch_core.pipeline import RunResult
from levelmatch_core.products.grade import Grade, told
from levelmatch_core.products.summaries import FieldSummary
from levelmatch_core.products.verdict import Residual, residual_of, verdict, why_untied
from levelmatch_core.records import Record

MOST_TOLD = 20
"""Largest number of failures that are told with the state of a flow run; the artifacts and run.json have all."""

STALE = "stale"
"""Status of a corrected file whose input is missing or damaged now."""


class Unmatched(Record):
    """An exposure or file that was not matched, or a product that was not written."""

    name: str
    status: str = Described(description="untied, failed, pending, or stale")
    step: str = Described(default="", description="the step that failed")
    reason: str
    tile: str = Described(default="", description="the affected tile, '' if it is not known")


class Tracking(Record):
    """Location of the MLflow record, or the reason why there is none."""

    store: str = Described(description="address of the tracking store")
    run_id: str = ""
    experiment_id: str = ""
    url: str = Described(default="", description="address of the run in MLflow's UI")
    new: bool = Described(default=True, description="whether this flow run created it: False if it was only tagged")
    lost: str = Described(default="", description="what could not be recorded, and why; '' if nothing")


class FlowFacts(Record):
    """Properties of the flow run, which are its tags in MLflow."""

    flow_run_id: str = Described(description="the id, which a retried flow run keeps")
    name: str
    started: float = Described(description="Unix time, seconds")
    attempt: int = 1
    tags: tuple[str, ...] = Described(default=(), description="those of the flow run: of its program")


class Summary(Record):
    """The summary of a run."""

    program: str
    band: str | None
    output: str
    changed: bool
    complete: bool
    grade: Grade = Described(default=Grade.GOOD, description="how far the result may be trusted")
    counts: dict[str, int] = Described(description="exposures by status; files that could not be read are failed ones")
    residuals: tuple[Residual, ...] = Described(description="by field")
    fields: tuple[FieldSummary, ...] = Described(description="as in run.json: references, missing tiles")
    partial: bool = Described(description="whether inputs are missing in the products, as in run.json")
    problems: tuple[Unmatched, ...]
    notes: tuple[str, ...]
    seconds: float
    peak_memory: float = Described(description="largest memory use, megabytes")
    executed: dict[str, int] = Described(default={}, description="jobs that were run, by step")
    cached: dict[str, int] = Described(default={}, description="jobs whose stored results were used, by step")
    tracking: Tracking | None = None
    left: str = Described(default="", description="digest of the state of all files of the output when it was let go")

    @property
    def quarantined(self) -> tuple[Unmatched, ...]:
        """The failures."""
        return tuple(problem for problem in self.problems if problem.status == Status.FAILED)

    @property
    def failed_tiles(self) -> str:
        """The tiles with failures, and the failures with their reasons and what to do, '' if nothing failed."""
        tiles: dict[str, list[str]] = {}
        for problem in self.quarantined[:MOST_TOLD]:
            why = problem.reason.removeprefix(f"{problem.name}: ")
            tiles.setdefault(problem.tile, []).append(f"{problem.name}: {why}")
        parts = [f"tile {tile}: {', '.join(named)}" if tile else ", ".join(named) for tile, named in tiles.items()]
        more = len(self.quarantined) - MOST_TOLD
        return "; ".join([*parts, *([f"and {more} more"] if more > 0 else [])])

    @property
    def told(self) -> str:
        """The grade, and the quantities that it is based on."""
        return told(self.grade, [one for field in self.fields for one in field.criteria])

    @property
    def verdict(self) -> str:
        """One sentence: whether it worked."""
        left_out = Counter(problem.status for problem in self.problems)
        return verdict(self.counts, left_out, self.residuals, self.fields)


def summarize(result: RunResult, *, peak_memory: float) -> Summary:
    """Return the summary of a run; `peak_memory` is in megabytes."""
    return Summary(
        program=result.request.program,
        band=result.request.settings.band,
        output=str(result.request.output),
        changed=result.changed,
        complete=result.complete,
        grade=result.record.grade,
        counts=_counts(result),
        residuals=tuple(residual_of(match) for match in result.matches),
        fields=tuple(_shortened(field) for field in result.record.fields),
        partial=result.record.partial,
        problems=tuple(_problems(result)),
        notes=result.record.notes,
        seconds=result.seconds,
        peak_memory=peak_memory,
    )


def _counts(result: RunResult) -> dict[str, int]:
    counts, unread = result.record.counts, len(result.inventory.failures)
    return {**counts, Status.FAILED.value: counts[Status.FAILED] + unread}


def _shortened(field: FieldSummary) -> FieldSummary:
    """Return a field without the data on each exposure that only the next run needs."""
    parts = tuple(part.model_copy(update={"levels": {}}) for part in field.components)
    return field.model_copy(update={"components": parts})


def _problems(result: RunResult) -> Iterable[Unmatched]:
    named = set()
    for waiting in result.inventory.pending:
        yield _problem(waiting, PENDING)
    for failure in result.failures:
        named |= {failure.name, *failure.exposures}
        yield _problem(failure, Status.FAILED)
    for product in result.record.stale:
        yield Unmatched(name=product.name, status=STALE, reason=f"{product.reason}; {product.fate}")
    for match in result.matches:
        for correction in match.corrections:
            name, tile = correction.exposure.name, correction.exposure.tile
            if correction.status is Status.UNTIED:
                yield Unmatched(name=name, status=Status.UNTIED, reason=why_untied(name, match), tile=tile)
            elif correction.status is Status.FAILED and name not in named:
                yield Unmatched(name=name, status=Status.FAILED, reason=f"lost with its tile {tile}", tile=tile)


def _problem(failure: Failure, status: str) -> Unmatched:
    return Unmatched(name=failure.name, status=status, step=failure.step, reason=failure.reason, tile=failure.tile)
