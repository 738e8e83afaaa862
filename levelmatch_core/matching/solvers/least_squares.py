"""Weighted least squares over all pairs of a component jointly: the default solver, which is exact and direct.

The equations are in section 5 of matching/MODEL.md.
"""

import numpy as np

from levelmatch_core.errors import SolveError
from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.linear.normal_equations import NormalEquations, right_hand_side
from levelmatch_core.matching.model.problem import Problem, SlopePrior

REFINEMENTS = 3
"""Largest number of steps of iterative refinement: normal equations lose half of the digits, which these steps
recover."""
SETTLED, UNSETTLED = 1e-8, 1e-6
"""Refinement stops when a step, in units of the pairs' median error, is below the first number: the next step would be
smaller by the same factor. If the last step is above the second number, the refinement has not converged."""
ROUNDING = 1e-5
"""The unit of a refinement step is at least this fraction of the largest correction, because of rounding."""
ILL_CONDITIONED = 1e13
"""Above this condition number the weakest mode is dominated by rounding errors."""


def solve(problem: Problem, prior: SlopePrior | None = None) -> Answer:
    """Solve for all corrections of a component together.

    Levels and slopes are solved jointly, with the moment matrix of each pair: a thin overlap determines the level and
    the slope along it, but not the slope across it.

    Parameters
    ----------
    problem
        The component.
    prior
        Gaussian prior on every slope; None for no prior.

    Raises
    ------
    SolveError
        If the solution is not finite.
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
        message = f"the solve of {problem.names[0]} and {shape[0] - 1} more members has no finite solution"
        raise SolveError(message)
    notes = []
    if equations.rank < problem.unknowns:
        missing = problem.unknowns - equations.rank
        notes.append(f"{missing} of {problem.unknowns} unknowns are not measured by any overlap; they were set to 0")
    condition = equations.condition
    well = condition is None or condition < ILL_CONDITIONED
    if not well:
        notes.append(f"the normal matrix is nearly singular (condition {condition:.1e}): its weakest mode is rounding")
    if step > UNSETTLED:
        notes.append(f"the solution did not converge: its last refinement was {step:.1e} of the pairs' median error")
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
