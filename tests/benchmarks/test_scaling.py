"""Cost against size: ratios that no noise of a shared machine explains in CI, the issues' numbers in the full tests."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from levelmatch_core.images.given import Action, Given, GivenLevel, PairRule
from levelmatch_core.matching.model.constraints import constraints_of
from levelmatch_core.matching.solvers import solve
from levelmatch_core.matching.uncertainty.component import uncertainties
from tests.benchmarks.pairs import WHAT, cost, on_the_sky
from tests.benchmarks.solver import SETTINGS, ask
from tests.benchmarks.surveys import KINDS, survey

LEAST = 0.02
"""CPU seconds below which the clock says nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("what", list(WHAT))
def test_ten_times_the_footprints_cost_far_less_than_a_hundred_times(what: str) -> None:
    make = WHAT[what]
    make(500)()
    small, large = cost(make(2000), 5), cost(make(20_000), 5)  # the least of five: others use the processors, too
    assert large < 30 * max(small, LEAST)


@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.full)])
def test_ten_times_the_tiles_cost_far_less_than_a_hundred_times(k: int) -> None:
    """Beyond the sizes that are solved densely; the prior looks at a part of large problems only."""
    small, large = (survey("scans", n, slope=0.3 if k == 3 else 0.0).problem(k) for n in (1600, 16_000))
    solve(small, SETTINGS)
    assert cost(lambda: solve(large, SETTINGS), 1) < 35 * max(LEAST, cost(lambda: solve(small, SETTINGS)))
    uncertainties(small, modes=0)
    assert cost(lambda: uncertainties(large, modes=0), 1) < 35 * cost(lambda: uncertainties(small, modes=0))


@pytest.mark.slow
def test_given_levels_and_ties_are_looked_up_and_not_searched_for() -> None:
    def known(n: int) -> Callable[[], object]:
        members, _ = survey("chain", n).records(pairs=False)
        names = [member.name for member in members]
        levels = tuple(GivenLevel(tile=name, level=0.0, error=1.0) for name in names)
        ties = tuple(
            PairRule(action=Action.TIE, first=a, second=b, difference=0.0, error=1.0) for a, b in pairwise(names)
        )
        return lambda: constraints_of(members, Given(levels=levels, rules=ties), with_levels=True)

    small, large = cost(known(1000), 5), cost(known(10_000), 3)  # the least of several: others use the processors, too
    assert large < 30 * max(small, LEAST)


@pytest.mark.full
def test_100_000_footprints_in_five_seconds() -> None:
    on_the_sky(500)()
    assert cost(on_the_sky(100_000), 1) < 5


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("who", "tiles", "seconds"),
    [
        ("levels", 100_000, 2),
        ("planes", 100_000, 20),
        ("levels", 1_000_000, 15),
        ("levels + errors", 100_000, 20),
        ("planes + errors", 100_000, 60),
        ("levels + errors", 1_000_000, 120),
        ("match, levels", 100_000, 60),
    ],
)
def test_surveys_are_solved_in_time_and_memory(kind: str, who: str, tiles: int, seconds: float) -> None:
    found = ask(who, kind, tiles, patience=120)
    assert isinstance(found, dict), found
    assert found["cpu"] < seconds
    assert found["memory"] < 4
