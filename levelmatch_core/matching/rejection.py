"""The choice of pairs: rules on area, extent and noise, which must not break the spanning forest of overlaps.

Rejecting the only pair between two parts of a field would leave a step of unknown height in the result, which is worse
than any noise of that pair. The accepted pairs are therefore completed to a spanning forest of all overlaps with
Kruskal's algorithm (1956, Proc. Amer. Math. Soc. 7, 48): accepted pairs come before rejected ones, and these are sorted
by the standard error of the level.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from levelmatch_core.matching.pairs import Pair, rounding_floor
from levelmatch_core.matching.results import PairFit, Rejection
from levelmatch_core.settings import MatchSettings

CHANCE = 4.0
"""Deviation of an rms that may be due to chance, in standard deviations for its number of pixels."""
SPARED = frozenset({Rejection.TOO_SHORT, Rejection.TOO_NOISY})
"""Reasons that do not apply if nothing else connects the members of a pair; too few pixels are not a measurement."""


def reject(fits: Sequence[PairFit], settings: MatchSettings) -> dict[Pair, Rejection]:
    """Return the pairs that must not be used, each with its reason.

    Too few pixels: fewer than `min_area_percent` of the mean over all pairs. Too short: on neither detector axis
    `min_linear_frac` of either member's extent. Too noisy: rms above the mean by `rms_sig_limit` standard deviations,
    both over the pairs that pass the first two rules, since the rms of a narrow overlap is meaningless and would widen
    the limit. With fewer than three such pairs, or without spread, no pair is rejected for noise. Nor is a pair whose
    excess rms may be due to chance for its number of pixels: among identical pairs a fortieth is beyond two standard
    deviations, and a strip would be cut in two by the loss of one.
    """
    rejected: dict[Pair, Rejection] = {}
    if not fits:
        return rejected
    smallest = settings.min_area_percent * float(np.mean([fit.npix for fit in fits]))
    kept: list[PairFit] = []
    for fit in sorted(fits, key=lambda fit: (fit.first, fit.second)):  # so that sums do not depend on the order
        if fit.npix < smallest:
            rejected[fit.first, fit.second] = Rejection.TOO_FEW_PIXELS
        elif max(fit.linear) < settings.min_linear_frac:
            rejected[fit.first, fit.second] = Rejection.TOO_SHORT
        else:
            kept.append(fit)
    if len(kept) < 3:
        return rejected
    rms = np.maximum([fit.rms for fit in kept], rounding_floor(kept))
    mean, spread = float(np.mean(rms)), float(np.std(rms))
    if spread <= 1e-9 * mean:
        return rejected
    for fit, value in zip(kept, rms.tolist(), strict=True):
        chance = CHANCE * mean * math.sqrt(fit.correlation / (2 * max(1, fit.n_used)))
        if value > mean + max(settings.rms_sig_limit * spread, chance):
            rejected[fit.first, fit.second] = Rejection.TOO_NOISY
    return rejected


def spared(
    fits: Sequence[PairFit], rejected: Mapping[Pair, Rejection], tied: Iterable[Pair] = ()
) -> dict[Pair, Rejection]:
    """Return the rejected pairs that are used nevertheless, because nothing else connects their members.

    Parameters
    ----------
    fits
        All measured pairs.
    rejected
        The pairs that must not be used, with their reasons; only the rules on extent and noise can be overruled.
    tied
        Members that are connected without a pair.

    Returns
    -------
    dict
        For each such pair, the rule that it fails.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def joins(pair: Pair) -> bool:
        """Connect the members of a pair; return whether they had not been connected yet."""
        a, b = root(pair[0]), root(pair[1])
        parent[max(a, b)] = min(a, b)
        return a != b

    for pair in tied:
        joins(pair)
    doubtful = []
    for fit in fits:
        pair = fit.first, fit.second
        if pair not in rejected:
            joins(pair)
        elif rejected[pair] in SPARED:
            doubtful.append((fit.stderr, pair))
    return {pair: rejected[pair] for _, pair in sorted(doubtful) if joins(pair)}
