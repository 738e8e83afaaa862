"""What the grade of a field rests on: measured quantities, each with its limits."""

import math
from collections import Counter
from collections.abc import Iterator
from statistics import NormalDist

from levelmatch_core.matching.loop_closure import LIMIT
from levelmatch_core.products.grade import Criterion, Grade
from levelmatch_core.products.strangers import words_of
from levelmatch_core.products.summaries import FieldSummary, StageSummary

FAIR_RESIDUAL = 5.0
"""Rms of the residuals in their expected sigmas up to which a result is fair."""
CHANCE = 2.8
"""A result is good whose rms of the residuals is within so many standard deviations of 1."""
LEAST_GOOD, MOST_GOOD = 1.25, 2.0
"""Bounds of that limit: many residuals say little of a deviation of some per cent, few forgive no large one."""
LOOPS_BY_CHANCE = 0.05
"""Part of the loops (one at least) that may be beyond 4 sigma in a result that is fair."""
ONE_BY_CHANCE = 0.0025
"""Probability that noise makes the worst of all loops and pairs what is not good: one of 40 beyond 4 sigma."""
GAINS_BY_CHANCE = 0.05
"""Part of the differences (one at least) that may grow with brightness in a result that is fair."""
GOOD_STRUCTURE, FAIR_STRUCTURE = 2.0, 5.0
"""Error that the typical pair shows in addition to that of pixel noise, relative to it, in a good and a fair result."""
LAST = "mosaic_tiles"
"""The stage on which all levels of a field rest: an untested one makes the field doubtful."""


def criteria_of(field: FieldSummary) -> tuple[Criterion, ...]:
    """Return what the grade of a field rests on, the worst first.

    Parameters
    ----------
    field
        As run.json has it.
    """
    found = [*_pieces(field), *_scale(field), *_few_values(field)]
    for stage in field.stages:
        if stage.pairs:
            found += [*_residuals(stage, field.unit), *_worst_pair(stage, field.unit), *_loops(stage, field.unit)]
            found += [*_gain(stage, field.unit), *_structure(stage), *_untested(stage), *_unlike(stage)]
    counts = Counter(field.counts)
    if not counts["matched"] + counts["reference"] and counts.total() > counts["alone"]:
        words = "no exposure could be matched"
        found.append(
            Criterion(name="unmatched", grade=Grade.FAILED, value=sum(field.counts.values()), limit=0, words=words)
        )
    return tuple(sorted(found, key=lambda one: one.grade.rank))


def good_residual(freedom: float, tail: float = 0.0) -> float:
    """Return the rms of residuals, in their sigmas, up to which they are noise: of so many degrees of freedom.

    The rms of n independent standard normal variables has a standard deviation of about 1 / sqrt(2 n). The mean square
    may be as skewed as that of fewer, `tail`, if it is given.
    """
    freedom = max(freedom, 1.0)
    skewed = min(max(tail, 1.0), freedom) if tail else freedom
    square = 1 + ((1 + CHANCE / math.sqrt(2 * skewed)) ** 2 - 1) * math.sqrt(skewed / freedom)
    return min(MOST_GOOD, max(LEAST_GOOD, math.sqrt(square)))


def _residuals(stage: StageSummary, unit: str) -> Iterator[Criterion]:
    value = stage.seam_scatter
    if value is None or not stage.seams_tested:
        return
    limit = good_residual(
        stage.residual_freedom or stage.loops, stage.residual_tail
    )  # records of earlier versions have the loops alone
    grade = Grade.GOOD if value <= limit else Grade.FAIR if value <= FAIR_RESIDUAL else Grade.DOUBTFUL
    words = f"residuals of {stage.seams_tested} tested pairs are {value:.2g} times what pixel noise leaves"
    cost = stage.residual_after if grade is not Grade.GOOD else None
    if cost is not None:
        words += f" ({cost:.3g} {unit or 'data units'} rms)"
    yield Criterion(name="residuals", stage=stage.stage, grade=grade, value=value, limit=limit, cost=cost, words=words)


def good_worst(count: int) -> float:
    """Return how large, in its sigma, the worst of so many sums or residuals is by chance: 4, more for more than 40."""
    return max(LIMIT, NormalDist().inv_cdf(1 - ONE_BY_CHANCE / (2 * max(count, 1))))


def _compared(stage: StageSummary) -> int:
    """Return the number of sums over loops, and of residuals, of which the worst may be chance."""
    return stage.loops + (stage.worst_seam.among if stage.worst_seam is not None else 0)


def _worst_pair(stage: StageSummary, unit: str) -> Iterator[Criterion]:
    """Yield the pair that the others contradict by more than chance: in the rms of many residuals it would be lost."""
    worst = stage.worst_seam
    limit = good_worst(_compared(stage))
    if worst is None or worst.size <= limit:
        return
    words = (
        f"{worst.first} - {worst.second} is off by {abs(worst.off):.3g} {unit or 'data units'} from what all other "
        f"pairs say, {worst.size:.2g} sigma"
    )
    yield Criterion(
        name="pair",
        stage=stage.stage,
        grade=Grade.FAIR,
        value=worst.size,
        limit=limit,
        cost=abs(worst.off),
        words=words,
    )


def _loops(stage: StageSummary, unit: str) -> Iterator[Criterion]:
    if not stage.loops:
        return
    allowed = max(1.0, LOOPS_BY_CHANCE * stage.loops)
    # what few pairs show is theirs; where the typical pair shows it, the model is wrong
    open_ = stage.loops_unexplained if stage.structure <= GOOD_STRUCTURE else stage.loops_failed
    worst = stage.worst_loops[0] if stage.worst_loops else None
    by_chance = worst is not None and 0 < abs(worst.sum) <= good_worst(_compared(stage)) * worst.sigma
    grade = Grade.GOOD if not open_ or by_chance else Grade.FAIR if open_ <= allowed else Grade.DOUBTFUL
    words, cost = f"all {stage.loops} loops of overlaps close", None
    if stage.loops_failed and not open_:
        words = (
            f"{stage.loops_failed} of {stage.loops} loops of overlaps do not close to pixel noise, but all to what "
            "their pairs show in addition, which the stated errors contain"
        )
    elif open_:
        words = f"{stage.loops_failed} of {stage.loops} loops of overlaps do not close"
        if worst is not None:
            cost = abs(worst.sum)
            words += f", the worst by {cost:.3g} {unit or 'data units'}, {cost / worst.sigma:.2g} sigma"
        if by_chance:
            words, cost = f"{words}, as chance makes of so many", None
    yield Criterion(name="loops", stage=stage.stage, grade=grade, value=open_, limit=0, cost=cost, words=words)


def _gain(stage: StageSummary, unit: str) -> Iterator[Criterion]:
    if not stage.gains_found:
        return
    allowed = max(1.0, GAINS_BY_CHANCE * stage.gains_tested)
    grade = Grade.FAIR if stage.gains_found <= allowed else Grade.DOUBTFUL
    cost = max((abs(one.false_level) for one in stage.gains), default=0.0)
    words = (
        f"{stage.gains_found} of {stage.gains_tested} differences grow with brightness: an error of gain, which stands "
        f"for up to {cost:.3g} {unit or 'data units'}"
    )
    yield Criterion(
        name="gain", stage=stage.stage, grade=grade, value=stage.gains_found, limit=0, cost=cost, words=words
    )


def _unlike(stage: StageSummary) -> Iterator[Criterion]:
    words = words_of(stage)
    if words:
        yield Criterion(
            name="unlike", stage=stage.stage, grade=Grade.DOUBTFUL, value=stage.unlike_found, limit=0, words=words
        )


def _structure(stage: StageSummary) -> Iterator[Criterion]:
    if stage.structure <= GOOD_STRUCTURE:
        return
    grade = Grade.FAIR if stage.structure <= FAIR_STRUCTURE else Grade.DOUBTFUL
    words = (
        f"the typical pair shows an error {stage.structure:.2g} times that of pixel noise: what is left of the sky, "
        "noise that neighbours share (drizzled or smoothed images), wrong pixels too close to the noise to be "
        "clipped, a slope across the overlap, or a gain"
    )
    yield Criterion(
        name="structure", stage=stage.stage, grade=grade, value=stage.structure, limit=GOOD_STRUCTURE, words=words
    )


def _untested(stage: StageSummary) -> Iterator[Criterion]:
    if not stage.used or stage.seams_tested:
        return
    grade = Grade.DOUBTFUL if stage.stage == LAST else Grade.FAIR
    pairs = "the only pair" if stage.used == 1 else f"the {stage.used} pairs"
    words = f"nothing tests {pairs} of {stage.stage.replace('_', ' ')}: each level depends on a single one"
    yield Criterion(name="untested", stage=stage.stage, grade=grade, value=stage.used, limit=0, words=words)


def _pieces(field: FieldSummary) -> Iterator[Criterion]:
    if field.pieces > 1:
        words = f"the field is in {field.pieces} pieces although their footprints touch"
        yield Criterion(name="pieces", grade=Grade.DOUBTFUL, value=field.pieces, limit=1, words=words)


def _scale(field: FieldSummary) -> Iterator[Criterion]:
    """Yield a doubt where values may be counts of different times: each has a sky of its own, which no level mends."""
    if field.scale_doubt and any(stage.used for stage in field.stages):
        words = f"the scale of the values is not known: {field.scale_doubt}"
        yield Criterion(name="scale", grade=Grade.DOUBTFUL, value=1, limit=0, words=words)


def few_values_of(field: FieldSummary) -> str:
    """Return what is wrong where photons are few, '' where they are not: of mostly zeros the median is 0."""
    if not field.few_values:
        return ""
    return (
        f"most pixels of {field.few_values} exposures hold one value, wherever they lie (few photons, coarse steps): "
        "medians and clipped means do not see their levels; bin or smooth them to several counts a pixel first"
    )


def _few_values(field: FieldSummary) -> Iterator[Criterion]:
    words = few_values_of(field)
    if words:
        yield Criterion(name="few values", grade=Grade.DOUBTFUL, value=field.few_values, limit=0, words=words)
