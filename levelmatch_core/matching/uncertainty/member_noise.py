"""The pixel noise of each member from the scatter of its pairs, for the weights of a robust stack."""

from collections.abc import Sequence

import numpy as np

from levelmatch_core.matching.model.problem import RMS_FLOOR
from levelmatch_core.matching.results import Member, PairFit
from levelmatch_core.matching.uncertainty.pair_noise import split_variances


def member_noise(members: Sequence[Member], fits: Sequence[PairFit]) -> tuple[float, ...]:
    """Return 1 sigma of the pixels of each member, from the scatter of all pairs; empty if there is no noise.

    Parameters
    ----------
    members
        The participants of a match.
    fits
        Pairs among them; other pairs are ignored.
    """
    number = {member.name: place for place, member in enumerate(members)}
    mine = [fit for fit in fits if fit.first in number and fit.second in number]
    rms = np.array([fit.rms for fit in mine])
    if not rms.size or not np.median(rms) > 0:
        return ()
    first = np.array([number[fit.first] for fit in mine])
    second = np.array([number[fit.second] for fit in mine])
    centres = np.array([member.cutout.centre for member in members])
    variances = split_variances(np.maximum(rms, RMS_FLOOR * float(np.median(rms))), first, second, centres)
    return tuple(np.sqrt(variances).tolist())
