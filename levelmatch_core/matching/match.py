"""match(members, fit type, gauge) -> one correction per member, with its uncertainty and a report of the solve."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from levelmatch_core.errors import SolveError
from levelmatch_core.images.given import Given
from levelmatch_core.matching import graph
from levelmatch_core.matching.gauge import NAMED, GaugeChoice, gauge_of
from levelmatch_core.matching.graph_kernels import bridge_flags
from levelmatch_core.matching.loop_closure import closure
from levelmatch_core.matching.measure.efficiency import combined
from levelmatch_core.matching.measure.few_pixels import with_typical_noise
from levelmatch_core.matching.measure.noise_scale import scaled
from levelmatch_core.matching.measure.tilts import with_tilts
from levelmatch_core.matching.model.assembly import assemble
from levelmatch_core.matching.model.constraints import Constrained, Constraints, constraints_of
from levelmatch_core.matching.model.pair_arrays import PairArrays
from levelmatch_core.matching.model.problem import Problem
from levelmatch_core.matching.pairs import Pair
from levelmatch_core.matching.rejection import reject, spared
from levelmatch_core.matching.results import (
    Component,
    Gauge,
    GaugeCondition,
    Member,
    MemberResult,
    PairFit,
    PairResult,
    Rejection,
    Solution,
)
from levelmatch_core.matching.solvers import solve
from levelmatch_core.matching.solvers.outliers import find_outliers, may_be_left_out
from levelmatch_core.matching.solvers.slope_prior import slope_changes, slope_prior_of
from levelmatch_core.matching.status import (
    PairReport,
    Pairs,
    SolvedComponent,
    doubts,
    graph_notes,
    residual_planes,
    rms_of,
    status_of,
    untestable_members,
)
from levelmatch_core.matching.uncertainty.component import uncertainties
from levelmatch_core.matching.uncertainty.leave_one_out import LeaveOneOut, leave_one_out, pair_covariance
from levelmatch_core.matching.uncertainty.pair_noise import PairNoise
from levelmatch_core.process.blas_threads import one_blas_thread
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.sky.plane import Plane

__all__ = ["NOTHING", "match"]

NOTHING = Given()
"""No constraints from the user."""


@one_blas_thread()
def match(  # noqa: PLR0917 - the parts of the problem in their natural order
    stage: str,
    group: str,
    members: Sequence[Member],
    fits: Sequence[PairFit],
    gauge: Gauge,
    settings: MatchSettings,
    preferred: Sequence[str] = (),
    given: Given = NOTHING,
) -> Solution:
    """Find the corrections that make the differences of all pairs vanish together.

    The result does not depend on the order of `members` or `fits`, to the last bit.

    Parameters
    ----------
    stage
        Name of the stage, which determines the fit type, and the anchors of `Gauge.ANCHOR`.
    group
        Name of the group within the stage, which is stored in the solution.
    members
        The members of the group. One without a usable pair is a separate component with correction 0.
    fits
        Their measured pairs, each once, fitted with the stage's fit type.
    gauge
        How the zero is defined.
    settings
        Fit types, rejection, weights and solver are read.
    preferred
        Reference tiles of an earlier run, which are kept if they still exist (`Gauge.REFERENCE`).
    given
        The user's constraints: levels are used with `Gauge.REFERENCE`, rules for pairs wherever both members are.

    Raises
    ------
    SolveError
        If names are not unique, a pair names an unknown member, or there is no finite solution.
    """
    ordered = sorted(members, key=lambda member: member.name)
    by_name = {member.name: member for member in ordered}
    fit_type = settings.fit_type(stage)
    fits = with_tilts(scaled(combined(with_typical_noise(sorted(fits, key=_key), fit_type))))
    pairs = Pairs(fits, [_key(fit) for fit in fits], PairArrays.of(fits))
    _check(group, ordered, pairs.keys)
    known = constraints_of(ordered, given, with_levels=gauge is Gauge.REFERENCE)
    rejected = _rejected(pairs, known, settings)
    kept = spared(fits, rejected, known.ties)
    rejected = {key: why for key, why in rejected.items() if key not in kept}
    used = [i for i, key in enumerate(pairs.keys) if key not in rejected]
    found = graph.components(by_name, [*(pairs.keys[i] for i in used), *known.ties])
    where = {name: number for number, part in enumerate(found) for name in part}
    shares: list[list[int]] = [[] for _ in found]
    for i in used:
        shares[where[pairs.keys[i][0]]].append(i)
    parts = []
    reports: dict[int, PairReport] = {}
    for names, share in zip(found, shares, strict=True):
        inside, mine = [by_name[name] for name in names], pairs.at(share)
        choice = gauge_of(inside, mine.fits, stage, gauge, settings, preferred, known)
        part = _solve_part(inside, mine, choice, fit_type, settings, known)
        parts.append(part)
        rejected |= {mine.keys[i]: Rejection.OUTLIER for i in part.outliers}
        inliers = (i for number, i in enumerate(share) if number not in part.outliers)
        reports |= dict(zip(inliers, part.pairs, strict=True))
    used = [i for i in used if pairs.keys[i] not in rejected]
    used_keys = {pairs.keys[i] for i in used}
    planes = {name: plane for part in parts for name, (plane, _) in part.results.items()}
    is_bridge = graph.bridges(
        [*(pairs.keys[i] for i in used), *(key for key in known.ties if key not in used_keys)], known.locked
    )
    is_bridge &= used_keys
    # the only pair of two members is always a bridge, which needs no note
    noteworthy = {pair for pair in is_bridge if len(found[where[pair[0]]]) > 2}
    left, left_rms = residual_planes(pairs, planes, ordered)
    results = tuple(
        PairResult(
            fit=fit,
            rejected=rejected.get(key),
            spared=kept.get(key),
            bridge=key in is_bridge,
            residual=residual,
            residual_rms=rms,
            **reports.get(number, PairReport())._asdict(),
        )
        for number, (fit, key, residual, rms) in enumerate(
            zip(pairs.fits, pairs.keys, left.tolist(), left_rms.tolist(), strict=True)
        )
    )
    few = untestable_members(used_keys).difference(known.locked)
    notes = graph_notes(found, rejected, pairs.at(used), noteworthy, few if settings.robust else set(), spared=kept)
    before = rms_of(pairs.arrays.plane_rms(pairs.arrays.planes)[used])
    return Solution(
        stage=stage,
        group=group,
        fit_type=fit_type,
        members=tuple(
            MemberResult(
                name=name,
                component=where[name],
                plane=planes[name],
                sigma=parts[where[name]].results[name][1],
                slope_change=parts[where[name]].slope_changes.get(name),
            )
            for name in by_name
        ),
        components=tuple(part.component for part in parts),
        pairs=results,
        status=status_of(
            parts,
            notes,
            settings,
            few.union(name for pair in is_bridge for name in pair),
            (before, rms_of(left_rms[used])),
        ),
    )


def _key(fit: PairFit) -> Pair:
    return fit.first, fit.second


def _check(group: str, members: Sequence[Member], keys: Sequence[Pair]) -> None:
    names = Counter(member.name for member in members)
    wrong = {
        "given twice": [name for name, count in names.items() if count > 1]
        + [f"{a} - {b}" for (a, b), after in pairwise(keys) if (a, b) == after],
        "a pair of members that were not given": [f"{a} - {b}" for a, b in keys if a not in names or b not in names],
        "not ordered by name": [f"{a} - {b}" for a, b in keys if a >= b],
    }
    for what, found in wrong.items():
        if found:
            message = f"match of {group}: {', '.join(found[:NAMED])}: {what}"
            raise SolveError(message)


def _rejected(pairs: Pairs, known: Constraints, settings: MatchSettings) -> dict[Pair, Rejection]:
    """Return the pairs that must not be used, including those that the user forbids."""
    forbidden = known.forbidden
    asked = [fit for fit, key in zip(pairs.fits, pairs.keys, strict=True) if key not in forbidden]
    rejected = {key: why for key, why in reject(asked, settings).items() if key not in known.forced}
    return rejected | {key: Rejection.FORBIDDEN for key in pairs.keys if key in forbidden}


# -- one component ----------------------------------------------------------------------------------------------------
def _solve_part(  # noqa: PLR0917 - private, called once
    members: Sequence[Member],
    pairs: Pairs,
    choice: GaugeChoice,
    fit_type: FitType,
    settings: MatchSettings,
    known: Constraints,
) -> SolvedComponent:
    gauge_condition = _gauge_condition(choice)
    component = Component(
        members=tuple(member.name for member in members),
        reference=choice.reference,
        reference_reason=choice.reason,
        given=choice.given,
        gauge_condition=gauge_condition,
    )
    if not pairs and len(members) == 1:
        return _lone(component, members[0], choice, known)
    if not pairs and not known.ties:
        nothing = {member.name: (_plane_at(member, (0.0, 0.0, 0.0)), (0.0, 0.0, 0.0)) for member in members}
        return SolvedComponent(component, nothing, notes=choice.notes)
    asked = assemble(members, pairs.fits, fit_type, gauge_condition, settings, known, pairs.arrays)
    noise = PairNoise.of(asked.pairs)
    covariance = pair_covariance(asked.pairs, noise)
    structured = bool(asked.pairs.structure_variance.any())
    loops = closure(
        asked.pairs, covariance, pair_covariance(asked.pairs, noise, structure=True) if structured else None
    )
    outliers, notes = frozenset[int](), choice.notes
    if settings.robust and settings.solver == "least_squares":
        found = find_outliers(asked.whole.problem, slope_prior_of(asked.whole.problem, settings))
        bad = np.flatnonzero(found.outliers[: len(pairs)]).tolist()
        suspects = frozenset(i for i in bad if pairs.keys[i] not in known.forced)
        if found.trusted and may_be_left_out(len(suspects), len(pairs), len(members)):
            outliers = suspects
        notes += doubts(pairs, suspects, left_out=outliers == suspects)
    everything, left_out = asked.whole.problem, np.array(sorted(outliers), dtype=np.int64)
    if outliers:
        pairs = pairs.at([i for i in range(len(pairs)) if i not in outliers])
        asked = assemble(members, pairs.fits, fit_type, gauge_condition, settings, known, pairs.arrays)
    both = asked.whole
    problem = both.problem
    if outliers or len(problem.rms) > len(asked.pairs.rms):
        noise = PairNoise.of(problem)
    if problem.structure_variance.any() or noise.problem is not asked.pairs:
        covariance = pair_covariance(problem, noise, structure=True)
    answer = solve(problem, settings)
    is_bridge = bridge_flags(len(problem.names), *problem.tied_ends)
    unused = everything.residuals(answer.corrections)[left_out, 0], np.sqrt(everything.variance[left_out])
    left = leave_one_out(problem, answer, is_bridge, covariance, unused)
    if left.excess_scatter and settings.weight_method == "error":
        # where pairs disagree by more than their noise, the most precise ones must not decide alone
        problem = problem.evened(left.excess_scatter)
        both = replace(both, problem=problem)
        if problem.slope_weight < 1:
            noise = PairNoise.of(problem)
        answer = solve(problem, settings)
        left = replace(
            leave_one_out(problem, answer, is_bridge, covariance, unused), excess_scatter=left.excess_scatter
        )
    errors, modes = uncertainties(
        problem,
        prior=answer.prior,
        seed=settings.seed,
        equations=answer.equations,
        noise=noise.with_structure().with_excess_scatter(left.excess_scatter),
    )
    count = len(members)  # the ground, if there is one, comes last and belongs to no member
    full = np.zeros((2, count, 3))
    full[:, :, : problem.k] = answer.corrections[:count], errors[:count]
    full *= np.array([1.0, 1 / problem.scale, 1 / problem.scale])
    full[0, :, 0] += both.known
    planes, sigmas = full.tolist()
    results = {
        member.name: (_plane_at(member, plane), (sigma[0], sigma[1], sigma[2]))
        for member, plane, sigma in zip(members, planes, sigmas, strict=True)
    }
    changes = slope_changes(problem, answer)
    learned = {
        "slope_prior": answer.prior and (answer.prior.sd, answer.prior.width),
        "excess_scatter": left.excess_scatter,
    }
    return SolvedComponent(
        component=component.model_copy(update=learned),
        results=results,
        answer=replace(answer, equations=None),  # its factors are large
        unknowns=problem.unknowns,
        notes=notes,
        outliers=outliers,
        slope_changes={} if changes is None else dict(zip(results, (changes / problem.scale).tolist(), strict=False)),
        modes=tuple((sigma, share, pattern[:count]) for sigma, share, pattern in modes),
        loops=loops,
        pairs=_reports(both, left, pairs, _stated_weights(problem, settings)[: len(pairs)]),
        freedom=left.freedom,
        tail=left.tail,
        exact=left.exact,
    )


def _gauge_condition(choice: GaugeChoice) -> GaugeCondition:
    return GaugeCondition(
        fixed=tuple(sorted(choice.fixed)),
        level_reference=choice.reference if choice.level_only else None,
        plane_reference=choice.reference if choice.taken_out else None,
        slopes_of=choice.slopes_of,
    )


def _lone(component: Component, member: Member, choice: GaugeChoice, known: Constraints) -> SolvedComponent:
    """Return the component of a single member: correction 0, or the level that the user gave."""
    level, error = known.levels.get(member.name, (known.locked.get(member.name, 0.0), 0.0))
    alone = {member.name: (_plane_at(member, (level, 0.0, 0.0)), (error, 0.0, 0.0))}
    return SolvedComponent(component, alone, notes=choice.notes)


def _reports(both: Constrained, found: LeaveOneOut, pairs: Pairs, weights: Sequence[float]) -> list[PairReport]:
    """Return the report on each pair."""
    problem, known = both.problem, both.known
    count = len(pairs)  # the rows after those of the pairs are levels that the user gave
    unseen = np.zeros((count, 3))
    unseen[:, : problem.k] = (problem.delta - found.predicted)[:count]
    unseen *= np.array([1.0, 1 / problem.scale, 1 / problem.scale])
    unseen[:, 0] += known[problem.second[:count]] - known[problem.first[:count]]
    tested = np.all(np.isfinite(found.predicted[:count]), axis=1).tolist()
    places, sigmas = pairs.arrays.centroids.tolist(), found.sigma[:count].tolist()
    own = zip(
        found.left_out_optimism[:count].tolist(),
        found.redundancy[:count].tolist(),
        found.fit_optimism[:count].tolist(),
        strict=True,
    )
    each = weights, sigmas, tested, unseen.tolist(), places, own
    return [
        PairReport(weight, sigma or None, Plane(level=a, slope_x=b, slope_y=c, x0=x0, y0=y0) if sure else None, *rest)
        for weight, sigma, sure, (a, b, c), (x0, y0), rest in zip(*each, strict=True)
    ]


def _plane_at(member: Member, coefficients: Sequence[float]) -> Plane:
    level, slope_x, slope_y = coefficients
    x0, y0 = member.cutout.centre
    return Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=x0, y0=y0)


def _stated_weights(problem: Problem, settings: MatchSettings) -> list[float]:
    """Return the weights as the weight method defines them: 1, pixels, 1/rms^2, or the inverse whole variance."""
    if settings.weight_method == "equal":
        return [1.0] * len(problem.weights)
    if settings.weight_method == "npix":
        return problem.n_used.tolist()
    if settings.weight_method == "rms":
        return (problem.rms**-2.0).tolist()
    return problem.weights.tolist()
