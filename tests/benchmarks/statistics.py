"""Which statistic of a pair's pixels to choose: its bias and its scatter, where pixels are not white noise.

    python -m tests.benchmarks.statistics [--programs 60]

Two exposures see one scene, each through its own PSF and at its own place on its pixels, in white noise; both are
resampled bilinearly to one grid, and their difference, whose true level is known, is measured. What is left of the
scene is what sampling makes of it: the difference of two PSFs has no mean, but every bright core of it is narrow and
the opposite ring around it is wide, so that whatever clips or weighs down the cores is drawn towards the rings.

Bias and scatter over programs are told in units of the error that the mean of as many pixels of white noise has; the
pull is the scatter about the truth, bias and all, over the stated error: 1 where a fit knows how good it is.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.sky.cutouts import Cutout
from tests.matching.fakes import make_cutout, settings_for

Array = NDArray[np.float64]

SIDE = 128
"""Pixels along the overlap."""
FINE = 5
"""Points of the scene a pixel, along either axis."""
MARGIN = 8
"""Pixels of the scene around the overlap."""
LEVEL = 7.0
"""True difference."""
STATISTICS: dict[str, dict[str, object]] = {
    "median": {"statistic": "median"},
    "clipped mean": {"statistic": "clipped_mean"},
    "huber": {"statistic": "huber"},
    "mean, not clipped": {"statistic": "clipped_mean", "sigma": 1000.0},
}


@dataclass(frozen=True)
class Scene:
    """What is seen, and how."""

    light: Callable[[int, np.random.Generator], Array]
    """Brightness on the fine grid of so many points a side, noise being 1."""
    widths: tuple[float, float] = (0.9, 0.9)
    """1 sigma of the two exposures' PSFs, pixels."""
    wild: float = 0.0
    """Part of the second exposure's pixels that are hit, by up to a thousand times the noise."""


def empty(points: int, _: np.random.Generator) -> Array:
    """Return a scene of nothing."""
    return np.zeros((points, points))


def emission(points: int, rng: np.random.Generator) -> Array:
    """Return filaments: the exponential of a smooth random field, of 100 times the noise in the mean."""
    k = np.hypot(fft.fftfreq(points)[:, None], fft.rfftfreq(points)) * points
    scale = (k**2 + 4) ** -0.75 * np.exp(-((k / (points / FINE / 8)) ** 2))  # no finer than eight pixels
    field = fft.irfft2(fft.rfft2(rng.standard_normal((points, points))) * scale, s=(points, points))
    return np.asarray(100 * np.exp(1.2 * field / field.std() - 0.72))


def stars(points: int, rng: np.random.Generator) -> Array:
    """Return a star a hundred pixels, with fluxes from 10 to 10,000 times a pixel's noise, as a power law."""
    light = np.zeros((points, points))
    count = rng.poisson((points / FINE) ** 2 / 100)
    flux = np.minimum(10 * rng.uniform(size=count) ** -1.0, 1e4)
    np.add.at(light, tuple(rng.integers(0, points, (2, count))), flux * FINE**2)
    return light


SCENES = {
    "white noise": Scene(empty),
    "1 % wild pixels": Scene(empty, wild=0.01),
    "bright emission, one PSF": Scene(emission),
    "bright emission, PSFs of 0.8 and 1.2 pixels": Scene(emission, (0.8, 1.2)),
    "stars, one PSF": Scene(stars),
    "stars, PSFs of 0.8 and 1.2 pixels": Scene(stars, (0.8, 1.2)),
    "undersampled stars (PSF of 0.4 pixels)": Scene(stars, (0.4, 0.4)),
    "undersampled stars and 1 % wild pixels": Scene(stars, (0.4, 0.4), wild=0.01),
}


def exposure(light: Array, width: float, place: tuple[int, int], rng: np.random.Generator, wild: float) -> Array:
    """Return (SIDE, SIDE) an exposure, resampled bilinearly from its pixels, which are `place` / FINE off."""
    k = 2 * np.pi * fft.fftfreq(len(light))[:, None], 2 * np.pi * fft.rfftfreq(len(light))
    square = [np.sinc(FINE * one / (2 * np.pi)) for one in k]  # a pixel takes the mean over itself
    seen = fft.rfft2(light) * np.exp(-0.5 * (width * FINE) ** 2 * (k[0] ** 2 + k[1] ** 2)) * square[0] * square[1]
    image = fft.irfft2(seen, s=light.shape)
    dy, dx = place
    size = SIDE + 2
    start = (MARGIN - 1) * FINE
    pixels = image[start + dy : start + dy + size * FINE : FINE, start + dx : start + dx + size * FINE : FINE]
    pixels = pixels + rng.standard_normal(pixels.shape)
    if wild:
        hit = rng.uniform(size=pixels.shape) < wild
        pixels[hit] += 10 * 100 ** rng.uniform(size=int(hit.sum()))
    # the grid's pixel lies between two of the exposure's, which are so far below and above it
    v, u = dy / FINE, dx / FINE
    rows = v * pixels[:-2] + (1 - v) * pixels[1:-1]
    return np.asarray(u * rows[:, :-2] + (1 - u) * rows[:, 1:-1])


def gain_of(place: tuple[int, int]) -> float:
    """Return the sum of the squared weights of a bilinear step: the noise gain."""
    weights = [(part / FINE, 1 - part / FINE) for part in place]
    return float(np.prod([a**2 + b**2 for a, b in weights]))


def pair_of(scene: Scene, rng: np.random.Generator) -> tuple[Cutout, Cutout]:
    """Return two cutouts of a scene, the second `LEVEL` above the first."""
    light = scene.light((SIDE + 2 * MARGIN) * FINE, rng)
    cutouts = []
    for number, width in enumerate(scene.widths):
        place = int(rng.integers(FINE)), int(rng.integers(FINE))
        data = exposure(light, width, place, rng, scene.wild * number) + LEVEL * number
        cutouts.append(make_cutout("ab"[number], data, noise_gain=gain_of(place)))
    return cutouts[0], cutouts[1]


@dataclass(frozen=True)
class Found:
    """What a statistic does in a scene."""

    bias: float
    scatter: float
    pull: float


def measured(scene: Scene, statistic: str, programs: int, fit_type: str = "level") -> Found:
    """Measure programs with other scenes, places on the pixels and noise each."""
    errors, pulls = [], []
    unit = np.sqrt(2) / SIDE
    for seed in range(programs):
        cutouts = pair_of(scene, np.random.default_rng(seed))
        fit = fit_pair(*cutouts, fit_type, settings_for(**STATISTICS[statistic]))  # type: ignore[arg-type]
        if fit is None:
            message = "the exposures do not overlap"
            raise RuntimeError(message)
        errors.append((fit.plane.level - LEVEL) / unit)
        pulls.append((fit.plane.level - LEVEL) / fit.stderr)
    return Found(float(np.mean(errors)), float(np.std(errors)), float(np.sqrt(np.mean(np.square(pulls)))))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=60)
    asked = parser.parse_args()
    for fit_type in ("level", "level+slope"):
        print(f"\n{fit_type:<44}" + "".join(f"{statistic:>27}" for statistic in STATISTICS))
        print(f"{'':<44}" + f"{'bias':>11}{'scatter':>9}{'pull':>7}" * len(STATISTICS))
        for name, scene in SCENES.items():
            row = [measured(scene, statistic, asked.programs, fit_type) for statistic in STATISTICS]
            cells = "".join(f"{one.bias:11.2f}{one.scatter:9.2f}{one.pull:7.2f}" for one in row)
            print(f"{name:<44}{cells}", flush=True)


if __name__ == "__main__":
    main()
