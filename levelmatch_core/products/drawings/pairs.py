"""Which pairs a drawing shows, and the words that it shows of one."""

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.products.drawings import style

MOST_PAIRS = 1500
"""Pairs in one drawing: beyond, those used that fit best are left out."""


def pairs_of(stage: StageMatch) -> list[PairResult]:
    """Return all pairs of a stage."""
    return [pair for solution in stage.solutions for pair in solution.pairs]


def shown_pairs(stage: StageMatch) -> list[PairResult]:
    """Return the pairs that drawings show: all, or the rejected ones and those with the largest residuals."""
    worst = sorted(
        pairs_of(stage), key=lambda pair: (pair.rejected is None, -pair.residual_rms, pair.fit.first, pair.fit.second)
    )
    return worst[:MOST_PAIRS]


def pair_tip(pair: PairResult, unit: str) -> str:
    """Return a pair's numbers, as hovering shows them."""
    fit = pair.fit
    state = f"rejected: {pair.rejected.value}" if pair.rejected else "used, a bridge" if pair.bridge else "used"
    sigmas = in_sigmas(pair)
    expected = "" if sigmas is None else f", {sigmas:.2g} times what is expected"
    return (
        f"{fit.second}\n\N{MINUS SIGN} {fit.first}\n{state}; {fit.npix} pixels\n"
        f"before {style.number(fit.plane.level)} ± {style.number(fit.stderr)}, "
        f"after {style.number(pair.residual)} {style.shown_unit(unit)}{expected}\n"
        f"rms of its pixels {style.number(fit.rms)}"
    )


def in_sigmas(pair: PairResult) -> float | None:
    """Return a used pair's residual over its expected 1 sigma; None where nothing tests the pair."""
    if pair.rejected is not None or not pair.sigma:
        return None
    return abs(pair.residual) / pair.sigma


def references_of(stage: StageMatch) -> set[str]:
    """Return the members that are the references of their components."""
    named = {component.reference for solution in stage.solutions for component in solution.components}
    return {name for name in named if name is not None}


def groups_with_pairs(stage: StageMatch) -> list[Solution]:
    """Return the solutions of the groups that have pairs."""
    return [solution for solution in stage.solutions if solution.pairs]
