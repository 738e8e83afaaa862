"""Weighted sparse joint least squares over all pairs of a component: the default solver, exact in one step."""

import numpy as np

from levelmatch_core.errors import SolveError
from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.linear.normal_equations import NormalEquations, right_hand_side
from levelmatch_core.matching.model.problem import Problem, SlopePrior

REFINEMENTS = 3
"""Most corrections of the solution by its own residuals: normal equations lose half of the digits, which these win
back."""
SETTLED, UNSETTLED = 1e-8, 1e-6
"""Corrections of the solution below the first, in units of the pairs' median error, are the last: the next would be as
much smaller again. Where the last is above the second, the solution has not settled."""
ROUNDING = 1e-5
"""Where the pairs' median error is below this part of the largest correction, that is the unit: rounding remains."""
ILL_CONDITIONED = 1e13
"""Above this condition the weakest mode is rounding."""


def solve(problem: Problem, prior: SlopePrior | None = None) -> Answer:
    """Solve for all corrections of a component together.

    Planes are solved jointly with each pair's moment matrix: a thin overlap fixes the level and the slope along it,
    and says nothing about the slope across it.

    Parameters
    ----------
    problem
        The component.
    prior
        Gaussian prior on every slope; None for none.

    Raises
    ------
    SolveError
        If the answer is not finite.
    """
    equations = NormalEquations(problem, prior.sd if prior else None)
    shape = (len(problem.names), problem.k)
    corrections = np.zeros(shape)
    noise, step = float(np.sqrt(np.median(problem.variance))), np.inf
    for _ in range(1 + REFINEMENTS):
        downhill = right_hand_side(problem, problem.residuals(corrections), problem.moments)
        downhill -= equations.prior * corrections.ravel()
        change = equations.apply_inverse(downhill).reshape(shape)
        corrections += change
        step = float(np.abs(change).max() / max(noise, ROUNDING * np.abs(corrections).max()))
        if step <= SETTLED:
            break
    if not np.all(np.isfinite(corrections)):
        message = f"the solve of {problem.names[0]} and {shape[0] - 1} more members gave no finite answer"
        raise SolveError(message)
    notes = []
    if equations.rank < problem.unknowns:
        missing = problem.unknowns - equations.rank
        notes.append(f"{missing} of {problem.unknowns} unknowns are not measured by any overlap; they were left at 0")
    condition = equations.condition
    well = condition is None or condition < ILL_CONDITIONED
    if not well:
        notes.append(f"the normal matrix is nearly singular (condition {condition:.1e}): its weakest mode is rounding")
    if step > UNSETTLED:
        notes.append(f"the solution did not settle: its last refinement was {step:.1e} of the pairs' median error")
    return Answer(
        corrections=problem.to_gauge(corrections),
        converged=well and step <= UNSETTLED,
        iterations=1,
        rank=equations.rank,
        condition=condition,
        notes=tuple(notes),
        prior=prior,
        equations=equations,
    )
