"""What every solver returns."""

from dataclasses import dataclass

from levelmatch_core.matching.linear.normal_equations import NormalEquations
from levelmatch_core.matching.model.problem import Array, SlopePrior
from levelmatch_core.matching.results import Convergence


@dataclass(frozen=True)
class Answer:
    """The solution of a component."""

    corrections: Array
    """(N, k) the corrections c, to be subtracted: about each member's centre, slopes over `scale` pixels, data unit."""
    converged: bool
    iterations: int
    rank: int
    """Number of coefficients that the differences determine, out of `Problem.unknowns`."""
    condition: float | None
    """Estimated 2-norm (dense) or 1-norm (sparse) condition of the diagonally scaled normal matrix."""
    history: tuple[Convergence, ...] = ()
    notes: tuple[str, ...] = ()
    prior: SlopePrior | None = None
    """The prior on slopes that was used."""
    equations: NormalEquations | None = None
    """The normal equations with their factors, so that later steps need not factor them again."""
