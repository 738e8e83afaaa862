"""PSFs that differ, misregistration, and what must be left alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from levelmatch_core.matching.measure import crowds, pair_fit, psf_kernels, psf_match
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import PairFit
from tests.matching.fakes import make_cutout, settings_for

LEVEL = 7.0
SHAPE = (150, 160)
BOX = (0, 0, 0, 0, *SHAPE)
NO_SLOPE = (LEVEL, 0.0, 0.0)


def stars(rng: np.random.Generator, count: int = 500) -> NDArray[np.float64]:
    """Point sources of a power law, as they fall on pixels."""
    light = np.zeros(SHAPE)
    np.add.at(light, tuple(rng.integers(0, side, count) for side in SHAPE), 20 * rng.uniform(size=count) ** -1.2)
    return np.minimum(light, 2e4)


def images(
    seed: int, widths: tuple[float, float] = (1.0, 1.0), moved: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One scene through two PSFs, in noise of 1; the second `LEVEL` above the first."""
    rng = np.random.default_rng(seed)
    light = stars(rng)
    first, second = (gaussian_filter(light, width, mode="wrap") for width in widths)
    second = shift(second, (0.0, moved), order=5, mode="grid-wrap") if moved else second
    return first + rng.normal(size=SHAPE), second + LEVEL + rng.normal(size=SHAPE)


def fitted(first: NDArray[Any], second: NDArray[Any], fit_type: str = "level", *, match: bool = True) -> PairFit:
    options = settings_for("dithers", fit_type, match_psf=match)
    fit = fit_pair(make_cutout("a", first), make_cutout("b", second), fit_type, options)  # type: ignore[arg-type]
    assert fit is not None
    return fit


def frozen(image: NDArray[np.float64]) -> NDArray[np.float64]:
    image = image.copy()
    image.flags.writeable = False
    return image


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize(
    ("widths", "moved"), [((1.0, 1.3), 0.0), ((1.5, 1.0), 0.0), ((1.2, 1.2), 0.25)], ids=["wider", "sharper", "moved"]
)
def test_what_a_psf_or_a_shift_leaves_does_not_move_the_level(
    fit_type: str, widths: tuple[float, float], moved: float
) -> None:
    pairs = [images(seed, widths, moved) for seed in range(12)]
    error = {
        match: np.array([fitted(*pair, fit_type, match=match).plane.level for pair in pairs]) - LEVEL
        for match in (False, True)
    }
    white = np.sqrt(2 / np.prod(SHAPE))
    assert np.sqrt(np.mean(error[True] ** 2)) < 3 * white
    if not moved:  # a shift is antisymmetric: the median feels little of it
        assert np.abs(np.mean(error[False])) > 4 * np.abs(np.mean(error[True]))


def test_the_kernel_takes_most_of_the_difference_away() -> None:
    first, second = (frozen(image) for image in images(3, (1.0, 1.3)))
    matched = psf_match.psf_matched(first, second, BOX, NO_SLOPE, np.sqrt(2))
    assert matched is not None
    before, after = second - first - LEVEL, matched.image - first - LEVEL
    inner = np.s_[3:-3, 3:-3]
    assert np.std(after[inner]) < 0.35 * np.std(before[inner])
    # flux goes nowhere
    assert after[inner].mean() == pytest.approx(before[inner].mean(), abs=0.05)


@pytest.mark.parametrize("what", ["nothing", "one scene", "cosmic rays", "latent image"])
def test_nothing_is_done_where_there_is_nothing_to_match(what: str) -> None:
    """Not a bit changes: what is bright in one image alone tells of no PSF."""
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=(2, *SHAPE))
    if what == "one scene":
        first, second = images(6)
    second = second + LEVEL * (what != "one scene")
    if what == "cosmic rays":
        for image in (first, second):
            image[rng.random(SHAPE) < 0.03] += 30
    if what == "latent image":
        second = second + gaussian_filter(stars(rng), 2.0)
    assert psf_match.psf_matched(frozen(first), frozen(second), BOX, NO_SLOPE, np.sqrt(2)) is None
    assert fitted(first, second, match=True) == fitted(first, second, match=False)


@pytest.mark.parametrize("moved", [4.0, 6.0, 9.0])
def test_something_soft_that_moves_takes_no_sky_along(moved: float) -> None:
    """A kernel that follows its gradient shifts the sky, too: levels were off by its gradient times the shift."""
    y, x = np.indices(SHAPE).astype(float)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        first, second = (
            0.03 * x + 100 * np.exp(-((x - 80 - at) ** 2 + (y - 75) ** 2) / (2 * 15.0**2)) + rng.normal(size=SHAPE)
            for at in (0.0, moved)
        )
        fit = fitted(first, second + LEVEL)
        assert fit.plane.level == pytest.approx(LEVEL, abs=4 * fit.stderr)


def test_a_kernel_says_by_how_much_it_shifts() -> None:
    for moved in (0.1, 0.3):  # to first order, as for any kernel
        first, second = (frozen(image) for image in images(3, (1.5, 1.5), moved))
        places, _ = psf_match.places_with_structure(first, second, BOX, 1.0)
        mean = np.empty(tuple(side + 2 * psf_match.REACH for side in SHAPE))
        psf_match.mean_image(first, second, BOX, NO_SLOPE, mean)
        where = mean, places, np.ones(len(places))
        rows = psf_match.regression(first, second, BOX, NO_SLOPE, where, psf_match.NEAR)
        assert rows is not None
        kernel = psf_match.fit_kernel(rows)
        assert kernel is not None
        assert kernel.moves(psf_match.NEAR) == pytest.approx(moved, rel=0.15)


@pytest.mark.parametrize(("contrast", "soft", "hits"), [(3.0, 3.0, 0.0), (4.5, 3.0, 0.02), (8.0, 8.0, 0.0)])
def test_what_a_kernel_explains_by_chance_is_no_reason_for_it(contrast: float, soft: float, hits: float) -> None:
    """One PSF; few pixels have structure, or cosmic rays are in it, or it is soft: up to a fifth got a kernel."""
    shape = 80, 90
    for seed in range(40):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(2, *shape))
        scene = gaussian_filter(rng.normal(size=shape), soft)
        first, second = noise + contrast * scene / scene.std()
        for image in (first, second):
            struck = rng.random(shape) < hits
            image[struck] += 18 * rng.pareto(1.0, int(struck.sum())) + 5
        scatter = 1.4826 * float(np.median(np.abs(second - first)))
        box = 0, 0, 0, 0, *shape
        assert psf_match.psf_matched(frozen(first), frozen(second), box, (0.0, 0.0, 0.0), scatter) is None


def test_invalid_pixels_and_offset_boxes() -> None:
    """The images overlap in part, with holes: what is measured is what whole images have there."""
    first, second = images(8, (1.0, 1.3))
    rng = np.random.default_rng(9)
    holed = first.copy()
    holed[rng.random(SHAPE) < 0.01] = np.nan
    a = make_cutout("a", holed[:, :120], 5, 7)
    b = make_cutout("b", second[20:, 30:], 35, 27)
    fit = fit_pair(a, b, "level", settings_for(match_psf=True))
    assert fit is not None
    assert fit.plane.level == pytest.approx(LEVEL, abs=0.08)
    assert 0.9 < fit.npix / (130 * 90) < 1.0


def test_compiled_sums_are_those_of_numpy() -> None:
    first, second = (frozen(image) for image in images(11, (1.0, 1.2)))
    places, strength = psf_match.places_with_structure(first, second, BOX, 1.0)
    gradients = [np.stack(np.gradient(image)) for image in (first, second)]
    product = np.sum(gradients[0] * gradients[1], axis=0)
    reach = psf_kernels.WINDOW
    expected = [product[r - reach : r + reach + 1, c - reach : c + reach + 1].mean() for r, c in places[:200].tolist()]
    np.testing.assert_allclose(strength[:200], expected, rtol=1e-9)
    mean = np.empty(tuple(side + 2 * psf_match.REACH for side in SHAPE))
    psf_match.mean_image(first, second, BOX, NO_SLOPE, mean)
    inner = np.s_[psf_match.REACH : -psf_match.REACH, psf_match.REACH : -psf_match.REACH]
    np.testing.assert_allclose(mean[inner], (first + second - LEVEL) / 2, rtol=1e-9)
    out = np.empty(SHAPE)
    kernel = np.random.default_rng(1).normal(size=2 * len(psf_match.SHIFTS))
    psf_match.take_out(second, BOX, mean, psf_match.SHIFTS, kernel, out)
    made = np.zeros(SHAPE)
    for (dy, dx), odd, even in zip(psf_match.SHIFTS.tolist(), kernel[::2], kernel[1::2], strict=True):
        ahead, behind = (np.roll(mean, (-sign * dy, -sign * dx), (0, 1))[inner] for sign in (1, -1))
        made += odd * (ahead - behind) + even * (ahead + behind - 2 * mean[inner])
    np.testing.assert_allclose(out[2:-2, 2:-2], (second - made)[2:-2, 2:-2], rtol=1e-9)


def test_normal_equations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(2)
    rows, values, weight = rng.normal(size=(50, 9)), rng.normal(size=50), rng.uniform(size=50)
    matrix, right = psf_match.normal_equations(rows, values, weight)
    np.testing.assert_allclose(matrix, (rows * weight[:, None]).T @ rows, rtol=1e-12)
    np.testing.assert_allclose(right, (rows * weight[:, None]).T @ values, rtol=1e-12)


def test_a_quarter_of_what_matching_changes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of smoothed images it is a hundredth, and their errors are stated all the same."""
    smooth = [fitted(*images(seed, (1.0, 1.3))) for seed in range(8)]
    pulls = [(fit.plane.level - LEVEL) / np.hypot(fit.stderr, fit.structure) for fit in smooth]
    assert np.sqrt(np.mean(np.square(pulls))) < 1.5
    monkeypatch.setattr(crowds, "CROWD", np.inf)
    for seed in range(4):
        pair = images(seed, (1.0, 1.3))
        with_, without = fitted(*pair), fitted(*pair, match=False)
        moved = abs(with_.plane.level - without.plane.level)
        assert moved > with_.stderr
        assert with_.structure >= 0.99 * 0.25 * moved
    same = images(5)
    assert fitted(*same).structure == fitted(*same, match=False).structure


def stacks(seed: int, widths: tuple[float, float] = (0.47, 0.6)) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two stacks of four undersampled exposures, resampled from places that differ by parts of a pixel."""
    rng = np.random.default_rng(seed)
    light = np.zeros([3 * side for side in SHAPE])
    np.add.at(light, tuple(rng.integers(0, side, 1500) for side in light.shape), rng.uniform(size=1500) ** -1.2 - 0.95)
    light, found = 9 * 200 * np.minimum(light, 4e3), []
    for width in widths:
        fine, parts = gaussian_filter(light, 3 * width, mode="wrap"), []
        for off in rng.integers(-1, 2, (4, 2)):
            seen = np.roll(fine, off, (0, 1)).reshape(SHAPE[0], 3, SHAPE[1], 3).mean(axis=(1, 3))
            parts.append(shift(seen + rng.normal(size=SHAPE), -off / 3, order=3, mode="grid-wrap"))
        found.append(np.mean(parts, axis=0))
    return found[0], found[1] + LEVEL


def test_where_no_kernel_will_do_pixels_count_that_it_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [stacks(seed) for seed in range(8)]
    smooth = [fitted(*pair) for pair in pairs]
    monkeypatch.setattr(crowds, "CROWD", np.inf)  # smoothed, these crowds have a kernel that will do
    fits = [fitted(*pair) for pair in pairs]
    monkeypatch.setattr(pair_fit, "CONTRADICTS", np.inf)
    whole = [fitted(*pair) for pair in pairs]
    error, before, best = (
        np.sqrt(np.mean([(fit.plane.level - LEVEL) ** 2 for fit in some])) for some in (fits, whole, smooth)
    )
    assert best < 0.5 * error
    assert sum(fit.npix < 0.8 * one.npix for fit, one in zip(fits, whole, strict=True)) >= 4
    assert error < 0.9 * before
    pulls = [(fit.plane.level - LEVEL) / np.hypot(fit.stderr, fit.structure) for fit in fits]
    assert np.sqrt(np.mean(np.square(pulls))) < 1.5


def test_where_a_kernel_will_do_all_pixels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of faint light the pixels that are changed little are those with a bias."""
    pair = images(1, (1.0, 1.3))
    found = fitted(*pair)
    monkeypatch.setattr(pair_fit, "CALMER", 1.0)
    monkeypatch.setattr(pair_fit, "CONTRADICTS", 0.0)
    assert fitted(*pair).npix < 0.95 * found.npix
    monkeypatch.setattr(pair_fit, "CONTRADICTS", np.inf)
    assert fitted(*pair) == found


def test_the_noise_of_a_kernel_is_that_of_its_convolution_with_noise() -> None:
    rng = np.random.default_rng(0)
    kernel = psf_match.Kernel(rng.normal(size=2 * len(psf_match.SHIFTS)), 0.0)
    mean = rng.normal(size=tuple(side + 2 * psf_match.REACH for side in SHAPE))
    out = np.zeros(SHAPE)
    psf_match.take_out(frozen(np.zeros(SHAPE)), BOX, mean, psf_match.SHIFTS, kernel.coefficients, out)
    assert np.std(out) == pytest.approx(kernel.noise, rel=0.03)
