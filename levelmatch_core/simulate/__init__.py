"""Simulated observing programs with known truth, written as FITS files for the demo, the tests and the benchmarks."""

from levelmatch_core.simulate.program import SimulatedProgram
from levelmatch_core.simulate.score import Recovery, score
from levelmatch_core.simulate.survey import SkySurvey
from levelmatch_core.simulate.truth import TrueExposure, Truth
from levelmatch_core.simulate.write import simulate, simulate_survey

__all__ = ["Recovery", "SimulatedProgram", "SkySurvey", "TrueExposure", "Truth", "score", "simulate", "simulate_survey"]
