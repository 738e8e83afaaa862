"""Members that show another sky than their neighbours: a wrong WCS, a mirrored or inverted image, another band."""

from collections import Counter
from collections.abc import Sequence

from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.summaries import StageSummary, Unlike
from levelmatch_core.text.naming import some_of

ALIKE = 0.7
"""Correlation of what both members show, with three of its sigmas, below which a pair shows different skies."""


def unlike_pairs(pairs: Sequence[PairResult]) -> list[Unlike]:
    """Return the used pairs of which both members show different skies, the least alike first."""
    found = [
        Unlike(
            first=pair.fit.first, second=pair.fit.second, correlation=pair.fit.likeness[0], sigma=pair.fit.likeness[1]
        )
        for pair in pairs
        if pair.rejected is None and pair.fit.likeness is not None
    ]
    found = [one for one in found if one.correlation + 3 * one.sigma < ALIKE]
    return sorted(found, key=lambda one: (one.correlation, one.first, one.second))


def strangers(pairs: Sequence[PairResult], unlike: Sequence[Unlike]) -> list[str]:
    """Return the members that are unlike several neighbours, or more than half of them, the worst first.

    A pair with one of them says nothing of its other member. Where neither member has another pair, both are named.
    """
    used = Counter(name for pair in pairs if pair.rejected is None for name in (pair.fit.first, pair.fit.second))
    left = list(unlike)
    found: list[str] = []
    while left:
        bad = Counter(name for one in left for name in (one.first, one.second))
        sizes = {name: (bad[name], bad[name] / used[name]) for name in sorted(bad)}
        most = max(sizes.values())
        if most[0] == 1 and most[1] <= 0.5:
            break
        worst = [name for name, size in sizes.items() if size == most]
        found += worst
        left = [one for one in left if one.first not in worst and one.second not in worst]
    return found


def words_of(stage: StageSummary) -> str:
    """Say which members show another sky, or which pairs do so if no member stands out; '' if there are none."""
    if not stage.unlike_found:
        return ""
    why = "look at the WCS, orientation, sign, scale and band"
    if stage.strangers:
        many = len(stage.strangers) > 1
        return f"{some_of(stage.strangers)} {'show' if many else 'shows'} another sky than what overlaps: {why}"
    named = some_of([f"{one.first} and {one.second}" for one in stage.unlike])
    return f"{named} show different skies: {why}"
