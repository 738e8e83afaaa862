"""The four exposures of MODEL.md, section 10: by hand, by plain numpy, and by `match`."""

from importlib import resources

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, Solution
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import NO_REJECTION, made_up_fit, make_cutout, member, settings_for

PAIRS = {"AB": 1.1, "AC": 1.9, "BD": 3.1, "CD": 1.9}
CORNERS = {"A": (0, 16), "B": (16, 16), "C": (0, 0), "D": (16, 0)}
ERROR = 0.1

CORRECTIONS = [-1.75, -0.75, 0.25, 2.25]
RESIDUALS = [0.1, -0.1, 0.1, -0.1]
PREDICTED = [0.7, 2.3, 2.7, 2.3]
LEVERAGE = 3 / 4
RESIDUAL_SIGMA = 0.05
EXCESS_SCATTER = 0.03**0.5
SIGMA = (0.04 * 5 / 16) ** 0.5
MODE_SIGMAS, MODE_SHARES = [0.005**0.5, 0.005**0.5, 0.05], [0.4, 0.4, 0.2]


@pytest.fixture(scope="module")
def solution() -> Solution:
    members = {name: member(make_cutout(name, np.zeros((20, 20)), *corner)) for name, corner in CORNERS.items()}
    box = (14.0, 14.0, 22.0, 22.0)
    fits = [
        made_up_fit(members[first], members[second], Plane(level=level), box).model_copy(
            update={"stderr": ERROR, "shared": 0.0}
        )
        for (first, second), level in PAIRS.items()
    ]
    options = settings_for("dithers", "level", **NO_REJECTION)
    return match("dithers", "square", list(members.values()), fits, Gauge.MEAN, options)


def test_the_numbers_by_hand_are_those_of_plain_numpy() -> None:
    design, delta = np.zeros((4, 4)), np.array(list(PAIRS.values()))
    for row, (first, second) in enumerate(PAIRS):
        design[row, "ABCD".index(first)], design[row, "ABCD".index(second)] = -1, 1
    found, *_ = np.linalg.lstsq(design, delta, rcond=None)  # of least norm: mean 0
    residuals = delta - design @ found
    np.testing.assert_allclose(found, CORRECTIONS, atol=1e-12)
    np.testing.assert_allclose(residuals, RESIDUALS, atol=1e-12)
    keeps = np.eye(4) - design @ np.linalg.pinv(design)
    np.testing.assert_allclose(1 - np.diag(keeps), LEVERAGE)
    np.testing.assert_allclose(ERROR * np.sqrt(np.diag(keeps @ keeps.T)), RESIDUAL_SIGMA)
    for row in range(4):
        others = np.delete(np.arange(4), row)
        without, *_ = np.linalg.lstsq(design[others], delta[others], rcond=None)
        assert design[row] @ without == pytest.approx(PREDICTED[row])
    tested = residuals @ residuals / RESIDUAL_SIGMA**2 - 4
    assert tested > 2 * np.sqrt(2 * 4 / (1 / 4))
    assert np.sqrt(tested / np.sum(np.diag(keeps @ keeps.T) / RESIDUAL_SIGMA**2)) == pytest.approx(EXCESS_SCATTER)
    covariance = (ERROR**2 + EXCESS_SCATTER**2) * np.linalg.pinv(design.T @ design)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), SIGMA)
    np.testing.assert_allclose(covariance[0] / 0.04, [5 / 16, -1 / 16, -1 / 16, -3 / 16])
    values = np.linalg.eigvalsh(covariance)[:0:-1]
    np.testing.assert_allclose(np.sqrt(values / 4), MODE_SIGMAS)
    np.testing.assert_allclose(values / values.sum(), MODE_SHARES)


def test_match_finds_the_numbers_by_hand(solution: Solution) -> None:
    assert [one.plane.level for one in solution.members] == pytest.approx(CORRECTIONS)
    assert [one.sigma[0] for one in solution.members] == pytest.approx([SIGMA] * 4)
    assert [one.residual for one in solution.pairs] == pytest.approx(RESIDUALS)
    assert [one.sigma for one in solution.pairs] == pytest.approx([RESIDUAL_SIGMA] * 4)
    assert [one.predicted and one.predicted.level for one in solution.pairs] == pytest.approx(PREDICTED)
    assert [one.redundancy for one in solution.pairs] == pytest.approx([1 - LEVERAGE] * 4)
    assert [one.left_out_optimism for one in solution.pairs] == pytest.approx([0.0] * 4, abs=1e-12)
    assert [one.fit_optimism for one in solution.pairs] == pytest.approx([2 * LEVERAGE] * 4)
    assert [one.rejected for one in solution.pairs] == [None] * 4
    assert solution.components[0].excess_scatter == pytest.approx(EXCESS_SCATTER)
    assert [mode.sigma for mode in solution.status.modes] == pytest.approx(MODE_SIGMAS)
    assert [mode.share for mode in solution.status.modes] == pytest.approx(MODE_SHARES)
    (loops,) = solution.status.loops
    assert (abs(loops.worst[0].sum), loops.worst[0].sigma) == pytest.approx((0.4, 0.2))
    assert solution.status.residual_freedom == pytest.approx(1)


def test_the_page_is_installed_and_holds_the_same_numbers() -> None:
    page = resources.files("levelmatch_core.matching").joinpath("MODEL.md").read_text(encoding="utf-8")
    assert "(-1.75, -0.75, 0.25, 2.25)" in page
    for number in ("= 0.1118", "h = 1 * 3 / (1 + 3) = 3/4", "= 0.03", "0.7 = 1.9 + 1.9 - 3.1"):
        assert number in page
