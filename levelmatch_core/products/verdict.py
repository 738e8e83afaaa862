"""Whether it worked, in one sentence and a few numbers: the same words after the command and in every report."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import Field as Described

from levelmatch_core.images.inventory import INVENTORY
from levelmatch_core.matching.corrections import FieldMatch, Status
from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.grading import few_values_of
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.strangers import words_of
from levelmatch_core.products.summaries import ComponentSummary, FieldSummary
from levelmatch_core.records import Record


class Residual(Record):
    """How much the members of a field's used pairs differ, before and after, all stages together."""

    field: str
    unit: str
    before: float = Described(description="rms of the pairs' differences before, data unit")
    after: float = Described(description="the same after")
    used: int = Described(description="pairs used")
    tested: int = Described(default=1, description="of these, those whose residual others test: 0 of a tree of pairs")
    rejected: dict[str, int] = Described(description="pairs rejected, by reason")
    components: int

    @property
    def left(self) -> str:
        """What is left after, in words: of pairs that nothing tests, the solve leaves nothing, which says nothing."""
        return f"{self.after:.4g} after" if self.tested else "nothing tests what is left after"


def residual_of(match: FieldMatch) -> Residual:
    """Return the pooled residuals of a field: each used pair of each stage counts once."""
    solutions = [solution for stage in match.stages for solution in stage.solutions]
    pairs = [pair for solution in solutions for pair in solution.pairs]
    counts = [sum(pair.rejected is None for pair in solution.pairs) for solution in solutions]
    return Residual(
        field=match.field.name,
        unit=match.field.unit,
        before=pooled(counts, (solution.status.residual_before for solution in solutions)),
        after=pooled(counts, (solution.status.residual_after for solution in solutions)),
        used=sum(counts),
        tested=sum(bool(pair.sigma) for pair in pairs),
        rejected=dict(sorted(Counter(pair.rejected.value for pair in pairs if pair.rejected is not None).items())),
        components=len({correction.component for correction in match.corrections if correction.component is not None}),
    )


def residual_of_summary(field: FieldSummary) -> Residual:
    """Return the same from a field of run.json."""
    counts = [stage.used for stage in field.stages]
    rejected = sum((Counter(stage.rejected) for stage in field.stages), start=Counter[str]())
    return Residual(
        field=field.name,
        unit=field.unit,
        before=pooled(counts, (stage.residual_before for stage in field.stages)),
        after=pooled(counts, (stage.residual_after for stage in field.stages)),
        used=sum(counts),
        tested=sum(stage.seams_tested for stage in field.stages),
        rejected=dict(sorted(rejected.items())),
        components=len(field.components),
    )


UNREAD = "unread"
"""What :func:`verdict` takes as the number of failures that are files which could not be read."""


def left_out_of(record: RunRecord) -> dict[str, int]:
    """Return what a run left out, by status, as :func:`verdict` tells it."""
    return {
        UNREAD: sum(failure.step == INVENTORY for failure in record.failures),
        Status.UNTIED: record.counts[Status.UNTIED],
        Status.FAILED: len(record.failures),
        "pending": len(record.pending),
        "stale": len(record.stale),
    }


def pooled(counts: Sequence[int], rms: Iterable[float]) -> float:
    """Return the rms over all pairs from each group's rms and number of pairs; 0 where there are none."""
    used = sum(counts)
    return math.sqrt(sum(n * value**2 for n, value in zip(counts, rms, strict=True)) / used) if used else 0.0


def verdict(
    counts: Mapping[str, int],
    left_out: Mapping[str, int],
    residuals: Iterable[Residual],
    fields: Iterable[FieldSummary],
) -> str:
    """Return one sentence: whether it worked.

    Parameters
    ----------
    counts
        Exposures by status.
    left_out
        What to tell as untied, failed, pending and stale, by status: exposures, and what never became one; and how many
        of those that failed are not in `counts`, since they could not be read.
    residuals
        Of the fields.
    fields
        Of run.json: whether their zeros are provisional.
    """
    good = sum(counts.get(status, 0) for status in (Status.MATCHED, Status.REFERENCE))
    alone = counts.get(Status.ALONE, 0)
    parts = [f"{good} of {sum(counts.values()) + left_out.get(UNREAD, 0)} exposures are matched"]
    if alone:
        parts.append(f"{alone} had nothing to match with")
    parts += [
        f"{left_out[status]} {status}"
        for status in (Status.UNTIED, Status.FAILED, "pending", "stale")
        if left_out.get(status)
    ]
    seams = "; ".join(
        f"{each.field}: overlaps differ by {each.before:.4g} {each.unit or 'data units'} rms before and {each.left}"
        for each in residuals
        if each.used
    )
    fields = list(fields)
    parts += [f"{one.name} has fallen into {one.pieces} pieces that touch" for one in fields if one.pieces > 1]
    scales = "; ".join(f"{one.name}: the scale is not known, {one.scale_doubt}" for one in fields if one.scale_doubt)
    scales = "; ".join(
        filter(None, [scales, *(f"{one.name}: {few_values_of(one)}" for one in fields if one.few_values)])
    )
    unlike = "; ".join(f"{one.name}: {words}" for one in fields for words in filter(None, map(words_of, one.stages)))
    zeros = "; ".join(filter(None, map(_provisional, fields)))
    widest = "; ".join(filter(None, map(_largest_scales, fields)))
    return "; ".join(filter(None, [", ".join(parts), scales, unlike, seams, widest, zeros])) + "."


def _largest_scales(field: FieldSummary) -> str:
    """Say how uncertain the largest scales of a wide field are, '' for one of a single tangent plane."""
    mode = field.weakest
    if not field.patches or mode is None:
        return ""
    unit = field.unit or "data units"
    return (
        f"{field.name}: its largest scales, of which overlaps see least, are uncertain by {mode.sigma:.2g} {unit} rms "
        f"({mode.share:.0%} of the levels' variance)"
    )


def _provisional(field: FieldSummary) -> str:
    """Say that zeros of a field are provisional, '' where none is."""
    parts = [part for part in field.components if part.provisional]
    if not parts:
        return ""
    first, more = parts[0], len(parts) - 1
    others = f", and those of {more} more components are too" if more else ""
    return f"{field.name}: the zero is provisional, {first.shown_reference} stands in for {missing_of(first)}{others}"


def missing_of(part: ComponentSummary) -> str:
    """Name what the provisional reference of a component stands in for."""
    return f"{part.stands_for}, which is missing or cut off" if part.stands_for else "a tile that is missing"


def told_changes(part: ComponentSummary, unit: str) -> list[str]:
    """Say how the zero of a component changed, a sentence a change."""
    now = f"that of {part.shown_reference}" if part.reference else "its mean"
    return [
        f"Its zero changed from that of {change.reference}{'? (provisional)' if change.provisional else ''} to {now}: "
        f"{abs(change.level):.5g} {unit or 'data units'} {'more' if change.level >= 0 else 'less'} is subtracted than "
        f"before (median of {change.exposures} exposures)."
        for change in part.zero_changes
    ]


def why_untied(exposure: str, match: FieldMatch) -> str:
    """Say what became of the pairs that an exposure is in."""
    reasons: Counter[str] = Counter()
    for pair in _pairs_with(exposure, match):
        reasons[pair.rejected.value if pair.rejected else "used, but tied to nothing else"] += 1
    found = ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
    return f"every pair with it was rejected: {found}"


def _pairs_with(exposure: str, match: FieldMatch) -> Iterator[PairResult]:
    for stage in match.stages:
        names = {member.name for member in stage.members if exposure in member.exposures}
        for solution in stage.solutions:
            for pair in solution.pairs:
                if names & {pair.fit.first, pair.fit.second}:
                    yield pair
