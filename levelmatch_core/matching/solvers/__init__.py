"""The solvers: least squares, the iterative method, robust rejection of pairs, and the prior on slopes."""

from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.model.problem import Problem
from levelmatch_core.matching.solvers import iterative, least_squares
from levelmatch_core.matching.solvers.slope_prior import slope_prior_of
from levelmatch_core.settings import MatchSettings


def solve(problem: Problem, settings: MatchSettings) -> Answer:
    """Solve one component with the solver named in the settings; the iterative solver does not use a prior."""
    if settings.solver == "iterative":
        return iterative.solve(problem, settings)
    return least_squares.solve(problem, slope_prior_of(problem, settings))
