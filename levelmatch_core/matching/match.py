"""match(members, fit type, gauge) -> one correction a member, with its uncertainty and the story of the solve."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_array

from levelmatch_core.errors import SolveError
from levelmatch_core.images.given import Given
from levelmatch_core.matching import graph
from levelmatch_core.matching.closure import closure
from levelmatch_core.matching.constraints import Constraints, constrained, constraints_of
from levelmatch_core.matching.kernels import bridge_flags
from levelmatch_core.matching.onethread import one_blas_thread
from levelmatch_core.matching.pairs import Pair, reject
from levelmatch_core.matching.results import (
    Component,
    LoopClosure,
    Member,
    MemberResult,
    PairFit,
    PairResult,
    Rejection,
    Solution,
    SolveStatus,
    WeakMode,
)
from levelmatch_core.matching.solvers import robust, solve
from levelmatch_core.matching.solvers.noise import PairNoise
from levelmatch_core.matching.solvers.prior import slope_prior
from levelmatch_core.matching.solvers.problem import Answer, Array, Problem, build, numbers
from levelmatch_core.matching.solvers.seams import pair_covariance, seams
from levelmatch_core.matching.solvers.uncertainty import uncertainties
from levelmatch_core.matching.zero import NAMED, Gauge, Zero, some, zero_of
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.sky.plane import Plane

__all__ = ["NOTHING", "Gauge", "match"]

NOTHING = Given()
"""What a user gives who gives nothing."""
UNTESTABLE = 2
"""With so few pairs a member's bad one cannot be told from its good one."""


@dataclass(frozen=True)
class _Part:
    """A component and what the solver said of it (no answer where there was nothing to solve)."""

    component: Component
    results: Mapping[str, tuple[Plane, tuple[float, float, float]]]
    weights: Mapping[Pair, float]
    answer: Answer | None
    unknowns: int
    notes: tuple[str, ...]
    outliers: frozenset[Pair] = frozenset()
    modes: tuple[tuple[float, float, Array], ...] = ()
    loops: LoopClosure | None = None
    seams: Mapping[Pair, tuple[float | None, Plane | None]] = field(default_factory=dict)
    """Each pair's expected 1 sigma of what is left, and the difference that all others foretell."""


def match(  # noqa: PLR0917 - a whole problem, in the order in which one would tell it
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
        Name of the stage; it selects the fit type, and the anchors of `Gauge.ANCHOR`.
    group
        Name of the group within the stage: it goes into the solution.
    members
        The participants. One without a usable pair is a component of its own, with correction 0.
    fits
        Their measured pairs, each once, fitted with the stage's fit type.
    gauge
        What holds the zero.
    settings
        Fit types, rejection, weights and solver are read.
    preferred
        Tiles that an earlier run took as references (`Gauge.REFERENCE`): kept where they are still there.
    given
        What the user knows: levels count where the gauge is `Gauge.REFERENCE`, rules of pairs wherever both are.

    Raises
    ------
    SolveError
        If names are not unique, a pair names a stranger, or no finite answer exists.
    """
    ordered = sorted(members, key=lambda member: member.name)
    pairs = sorted(fits, key=lambda fit: (fit.first, fit.second))
    _check(group, ordered, pairs)
    fit_type = settings.fit_type(stage)
    known = constraints_of(ordered, given, with_levels=gauge is Gauge.REFERENCE)
    rejected = reject([fit for fit in pairs if _key(fit) not in known.forbidden], settings)
    rejected = {key: why for key, why in rejected.items() if key not in known.forced}
    rejected |= {_key(fit): Rejection.FORBIDDEN for fit in pairs if _key(fit) in known.forbidden}
    used = [fit for fit in pairs if _key(fit) not in rejected]
    used_keys = [_key(fit) for fit in used]
    by_name = {member.name: member for member in ordered}
    found = graph.components(by_name, [*used_keys, *known.ties])
    where = {name: number for number, part in enumerate(found) for name in part}
    shares: list[list[PairFit]] = [[] for _ in found]
    for fit in used:
        shares[where[fit.first]].append(fit)
    parts = []
    for names, share in zip(found, shares, strict=True):
        inside = [by_name[name] for name in names]
        zero = zero_of(inside, share, stage, gauge, settings, preferred, known)
        with one_blas_thread():
            parts.append(_solve_part(inside, share, zero, fit_type, settings, known))
    rejected |= {pair: Rejection.OUTLIER for part in parts for pair in part.outliers}
    used = [fit for fit in used if _key(fit) not in rejected]
    used_keys = [_key(fit) for fit in used]
    planes = {name: plane for part in parts for name, (plane, _) in part.results.items()}
    hung = graph.bridges([*used_keys, *(key for key in known.ties if key not in used_keys)]) & set(used_keys)
    # Two members hang together by one pair as a matter of course: no news.
    news = {pair for pair in hung if len(found[where[pair[0]]]) > 2}
    weights = {key: weight for part in parts for key, weight in part.weights.items()}
    told = {key: seam for part in parts for key, seam in part.seams.items()}
    unknown = (None, None)
    left, left_rms = _left(pairs, planes)
    results = tuple(
        PairResult(
            fit=fit,
            weight=weights.get(key, 0.0),
            rejected=rejected.get(key),
            bridge=key in hung,
            residual=residual,
            residual_rms=rms,
            sigma=told.get(key, unknown)[0],
            foretold=told.get(key, unknown)[1],
        )
        for fit, key, residual, rms in zip(pairs, map(_key, pairs), left, left_rms, strict=True)
    )
    notes = _graph_notes(found, rejected, used, news, robust_wanted=settings.robust)
    return Solution(
        stage=stage,
        group=group,
        fit_type=fit_type,
        members=tuple(
            MemberResult(
                name=name, component=where[name], plane=planes[name], sigma=parts[where[name]].results[name][1]
            )
            for name in by_name
        ),
        components=tuple(part.component for part in parts),
        pairs=results,
        status=_status(parts, results, notes, settings, _untestable(used, hung)),
    )


def _key(fit: PairFit) -> Pair:
    return fit.first, fit.second


def _check(group: str, members: Sequence[Member], fits: Sequence[PairFit]) -> None:
    names = Counter(member.name for member in members)
    twice = [name for name, count in names.items() if count > 1]
    twice += [f"{a} - {b}" for (a, b), count in Counter(map(_key, fits)).items() if count > 1]
    strange = [f"{fit.first} - {fit.second}" for fit in fits if fit.first not in names or fit.second not in names]
    turned = [f"{fit.first} - {fit.second}" for fit in fits if fit.first >= fit.second]
    for what, found in (
        ("given twice", twice),
        ("a pair of members that were not given", strange),
        ("not ordered by name", turned),
    ):
        if found:
            message = f"match of {group}: {', '.join(found[:NAMED])}: {what}"
            raise SolveError(message)


# -- one component ----------------------------------------------------------------------------------------------------
def _solve_part(  # noqa: PLR0917 - private, called once
    members: Sequence[Member],
    fits: Sequence[PairFit],
    zero: Zero,
    fit_type: FitType,
    settings: MatchSettings,
    known: Constraints,
) -> _Part:
    component = Component(
        members=tuple(member.name for member in members),
        reference=zero.reference,
        reference_reason=zero.reason,
        given=zero.given,
    )
    if not fits and len(members) == 1:
        return _lone(component, members[0], zero, known)
    if not fits and not known.ties:
        nothing = {member.name: (_plane_at(member, (0.0, 0.0, 0.0)), (0.0, 0.0, 0.0)) for member in members}
        return _Part(component, nothing, {}, None, 0, zero.notes)
    pairs_alone = build(members, fits, fit_type, zero.held, settings, zero.reference if zero.level_only else None)
    outliers, doubts = frozenset[Pair](), zero.notes
    noise = PairNoise.of(pairs_alone)
    covariance = pair_covariance(pairs_alone, noise)
    loops = closure(pairs_alone, covariance)
    both = constrained(pairs_alone, known, zero.slopes_of)
    problem = both.problem
    if settings.robust and settings.solver == "least_squares":
        found = robust.verdict(problem, slope_prior(problem, settings))
        bad = dict(zip(map(_key, fits), found.outliers[: len(fits)].tolist(), strict=True))
        outliers = frozenset(key for key, out in bad.items() if out and key not in known.forced)
        doubts += _doubts(fits, outliers, trusted=found.trusted)
    if outliers:
        fits = [fit for fit in fits if _key(fit) not in outliers]
        pairs_alone = build(members, fits, fit_type, zero.held, settings, zero.reference if zero.level_only else None)
        both = constrained(pairs_alone, known, zero.slopes_of)
        problem = both.problem
    if outliers or len(problem.rms) > len(pairs_alone.rms):
        noise = PairNoise.of(problem)
        covariance = pair_covariance(problem, noise)
    answer = solve(problem, settings)
    errors, modes = uncertainties(
        problem, prior=answer.prior, seed=settings.seed, equations=answer.equations, noise=noise
    )
    count = len(members)  # the ground, if there is one, comes last and is nobody's
    full = np.zeros((2, count, 3))
    full[:, :, : problem.k] = answer.corrections[:count], errors[:count]
    full *= np.array([1.0, 1 / problem.scale, 1 / problem.scale])
    full[0, :, 0] += both.known
    planes, sigmas = full.tolist()
    results = {
        member.name: (_plane_at(member, plane), (sigma[0], sigma[1], sigma[2]))
        for member, plane, sigma in zip(members, planes, sigmas, strict=True)
    }
    weights = {_key(fit): weight for fit, weight in zip(fits, _stated_weights(pairs_alone, settings), strict=True)}
    return _Part(
        component=component,
        results=results,
        weights=weights,
        answer=replace(answer, equations=None),  # its factors are large
        unknowns=problem.unknowns,
        notes=doubts,
        outliers=outliers,
        modes=tuple((sigma, share, pattern[:count]) for sigma, share, pattern in modes),
        loops=loops,
        seams=_seams(problem, answer, fits, both.known, covariance),
    )


def _lone(component: Component, member: Member, zero: Zero, known: Constraints) -> _Part:
    """Return a component of one: 0, or what is given of it."""
    level, error = known.levels.get(member.name, (known.locked.get(member.name, 0.0), 0.0))
    alone = {member.name: (_plane_at(member, (level, 0.0, 0.0)), (error, 0.0, 0.0))}
    return _Part(component, alone, {}, None, 0, zero.notes)


def _seams(
    problem: Problem, answer: Answer, fits: Sequence[PairFit], known: Array, covariance: csr_array
) -> dict[Pair, tuple[float | None, Plane | None]]:
    hung = bridge_flags(len(problem.names), problem.first, problem.second)
    found = seams(problem, answer, hung, covariance)
    count = len(fits)  # rows behind the pairs are what the user gave
    unseen = np.zeros((count, 3))
    unseen[:, : problem.k] = (problem.delta - found.foretold)[:count]
    unseen *= np.array([1.0, 1 / problem.scale, 1 / problem.scale])
    unseen[:, 0] += known[problem.second[:count]] - known[problem.first[:count]]
    tested = np.all(np.isfinite(found.foretold[:count]), axis=1).tolist()
    told: dict[Pair, tuple[float | None, Plane | None]] = {}
    for fit, sigma, sure, values in zip(fits, found.sigma[:count].tolist(), tested, unseen.tolist(), strict=True):
        at = fit.plane
        plane = Plane(level=values[0], slope_x=values[1], slope_y=values[2], x0=at.x0, y0=at.y0) if sure else None
        told[_key(fit)] = (sigma or None, plane)
    return told


def _doubts(fits: Sequence[PairFit], outliers: Collection[Pair], *, trusted: bool) -> tuple[str, ...]:
    """Return what the user should know of the outliers."""
    out = [f"{first} - {second}" for first, second in sorted(outliers)]
    notes: tuple[str, ...] = ()
    if out:
        notes += (f"{len(out)} of {len(fits)} pairs contradict the others and were left out: {some(out)}",)
    if not trusted:
        notes += ("so many pairs contradict each other that this solve cannot be trusted",)
    return notes


def _untestable(used: Sequence[PairFit], hung: set[Pair]) -> tuple[str, ...]:
    """Return the members with so few pairs that a bad one cannot be told, and those on either side of a bridge."""
    degree = Counter(name for fit in used for name in (fit.first, fit.second))
    few = {name for name, count in degree.items() if count <= UNTESTABLE}
    return tuple(sorted(few.union(name for pair in hung for name in pair)))


def _plane_at(member: Member, coefficients: Sequence[float]) -> Plane:
    level, slope_x, slope_y = coefficients
    x0, y0 = member.cutout.centre
    return Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=x0, y0=y0)


def _stated_weights(problem: Problem, settings: MatchSettings) -> list[float]:
    """Return the weights as the weight method defines them: 1, the pixels, 1/rms^2, or the inverse variance."""
    if settings.weight_method == "equal":
        return [1.0] * len(problem.weights)
    if settings.weight_method == "npix":
        return problem.n_used.tolist()
    if settings.weight_method == "rms":
        return (problem.rms**-2.0).tolist()
    return problem.weights.tolist()


# -- the story --------------------------------------------------------------------------------------------------------
def _left(fits: Sequence[PairFit], planes: Mapping[str, Plane]) -> tuple[list[float], list[float]]:
    """Return the level at each pair's centroid that the corrections leave, and the rms over the overlap."""
    if not fits:
        return [], []
    place = {name: number for number, name in enumerate(planes)}
    at = np.array([(plane.level, plane.slope_x, plane.slope_y, plane.x0, plane.y0) for plane in planes.values()])
    table = numbers(fits)
    corrected = table[:, 5:8].copy()
    for end, sign in (("second", -1.0), ("first", 1.0)):
        mine = at[[place[getattr(fit, end)] for fit in fits]]
        corrected += sign * mine[:, :3]
        corrected[:, 0] += sign * np.sum(mine[:, 1:3] * (table[:, 8:10] - mine[:, 3:]), axis=1)
    return corrected[:, 0].tolist(), _plane_rms(table, corrected).tolist()


def _plane_rms(table: Array, planes: Array) -> Array:
    """Return (K,) the rms of planes (K, 3) about the pairs' centroids over the pixels that the fits used."""
    moments = table[:, 10:].reshape(-1, 3, 3) / table[:, 0, None, None]
    return np.asarray(np.sqrt(np.maximum(0.0, np.einsum("ka,kab,kb->k", planes, moments, planes))))


def _graph_notes(
    parts: Sequence[tuple[str, ...]],
    rejected: Mapping[Pair, Rejection],
    used: Sequence[PairFit],
    hung: set[Pair],
    *,
    robust_wanted: bool,
) -> list[str]:
    notes: list[str] = []
    cut = graph.cut_by(parts, rejected)
    if cut:
        named = [f"{a} - {b} ({rejected[a, b]})" for a, b in cut]
        notes.append(f"rejected pairs that would have joined components: {some(named)}")
    if hung:
        named = [f"{a} - {b}" for a, b in sorted(hung)]
        notes.append(f"bridges, whose levels no other pair can test: {some(named)}")
    few = _untestable(used, set()) if robust_wanted else ()
    if few and len({name for fit in used for name in (fit.first, fit.second)}) > 2:
        notes.append(f"{len(few)} members with two pairs or fewer, whose bad pairs cannot be told: {some(few)}")
    restless = [f"{fit.first} - {fit.second}" for fit in used if not fit.converged]
    if restless:
        notes.append(f"pair fits that did not settle within their iterations: {some(restless)}")
    return notes


def _status(
    parts: Sequence[_Part],
    pairs: Sequence[PairResult],
    notes: Sequence[str],
    settings: MatchSettings,
    untestable: tuple[str, ...],
) -> SolveStatus:
    answers = [(number, part.answer) for number, part in enumerate(parts) if part.answer is not None]
    several = len(answers) > 1
    history = [
        story.model_copy(update={"coefficient": f"{story.coefficient} {number}"}) if several else story
        for number, answer in answers
        for story in answer.history
    ]
    own = [
        f"component {number}: {note}" if several else note
        for number, part in enumerate(parts)
        for note in (*part.notes, *(part.answer.notes if part.answer else ()))
    ]
    conditions = [answer.condition for _, answer in answers if answer.condition is not None]
    used = [pair for pair in pairs if pair.rejected is None]
    table = numbers([pair.fit for pair in used])
    return SolveStatus(
        converged=all(answer.converged for _, answer in answers),
        solver=settings.solver,
        iterations=max((answer.iterations for _, answer in answers), default=0),
        residual_before=_rms(_plane_rms(table, table[:, 5:8])),
        residual_after=_rms(np.array([pair.residual_rms for pair in used])),
        rank=sum(answer.rank for _, answer in answers),
        unknowns=sum(part.unknowns for part in parts),
        condition=max(conditions, default=None),
        nullity=sum(part.unknowns - part.answer.rank for part in parts if part.answer is not None),
        slope_prior=tuple(answer.prior.width for _, answer in answers if answer.prior is not None),
        modes=tuple(
            WeakMode(component=number, sigma=sigma, share=share, pattern=tuple(pattern.tolist()))
            for number, part in enumerate(parts)
            for sigma, share, pattern in part.modes
        ),
        loops=tuple(part.loops for part in parts if part.loops is not None),
        untestable=untestable,
        history=tuple(history),
        notes=(*notes, *own),
    )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
