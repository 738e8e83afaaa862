"""What is left of the pair differences, and how an iterative solve got there."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.products.figures import style

_LOWEST = 1e-6
"""Smallest residual that is shown, as a fraction of the largest difference."""


def draw_residuals(path: Path, stages: list[StageMatch], unit: str, title: str) -> None:
    """Draw, for each stage, every pair's difference before and after, with its expected error."""
    fig, panels = _stacked(len(stages), beside=2.1, title=title)
    for axes, stage in zip(panels, stages, strict=True):
        _panel(axes, stage, unit)
    style.save(fig, path)


def _stacked(count: int, *, beside: float, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title and panels below each other, with room beside them, inches."""
    left, width, high, each, top = 0.85, 6.4, 1.9, 2.7, 0.4
    fig = style.figure(left + width + beside, count * each + top)
    fig.suptitle(style.short(title, 90), y=1 - 0.1 / fig.get_figheight(), va="top", fontsize=11)
    return fig, [style.axes_at(fig, left, (count - 1 - number) * each + 0.5, width, high) for number in range(count)]


def _panel(axes: Axes, stage: StageMatch, unit: str) -> None:
    pairs = sorted(
        (pair for solution in stage.solutions for pair in solution.pairs),
        key=lambda pair: (pair.rejected is not None, -abs(pair.fit.plane.level), pair.fit.first, pair.fit.second),
    )
    used = np.array([pair.rejected is None for pair in pairs])
    before = np.abs([pair.fit.plane.level for pair in pairs])
    after = np.abs([pair.residual for pair in pairs])
    error = np.array([pair.fit.stderr for pair in pairs])
    largest = float(before.max()) or 1.0
    floor = max(_LOWEST * largest, float(error[error > 0].min(initial=largest)) / 100)
    x = np.arange(1, len(pairs) + 1)
    size = 5 if len(pairs) <= 100 else 2
    kept: dict[str, Any] = {"ls": "", "ms": size}
    axes.plot(
        x, np.maximum(before, floor), "o", color=style.BEFORE, mfc="none", label=_rms("before", before[used]), **kept
    )
    axes.plot(x, np.maximum(error, floor), "_", color=style.REJECTED, label="1 sigma of the pair", **kept)
    axes.plot(x[used], np.maximum(after, floor)[used], "o", color=style.AFTER, label=_rms("after", after[used]), **kept)
    if not used.all():
        label = f"after, {np.count_nonzero(~used)} rejected"
        axes.plot(x[~used], np.maximum(after, floor)[~used], "x", color=style.REJECTED, label=label, **kept)
    axes.set_yscale("log")
    axes.set_ylim(floor / 1.5, None)
    axes.set_xlim(0, len(pairs) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"|difference| [{style.shown_unit(unit)}]")
    axes.set_xlabel("pair, by its difference before")
    axes.set_title(stage.stage.replace("_", " "), fontsize=10, loc="left")
    style.grid_lines(axes)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _rms(name: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    return f"{name}, rms {style.number(float(np.sqrt(np.mean(values**2))))}" if values.size else name


def draw_convergence(path: Path, stages: list[StageMatch], unit: str, title: str) -> None:
    """Draw the largest change of each sweep of an iterative solve, a line a group and coefficient."""
    fig, panels = _stacked(len(stages), beside=0.3, title=title)
    for axes, stage in zip(panels, stages, strict=True):
        colours: dict[str, str] = {}
        for solution in stage.solutions:
            for history in solution.status.history:
                label = None if history.coefficient in colours else history.coefficient
                colour = colours.setdefault(history.coefficient, (style.AFTER, style.BEFORE)[len(colours) % 2])
                steps = np.array(history.steps)
                sweeps = np.arange(1, len(steps) + 1)
                axes.plot(sweeps[steps > 0], steps[steps > 0], "-", color=colour, lw=1, label=label)
        failed = sum(not solution.status.converged for solution in stage.solutions)
        verdict = f"{failed} of {len(stage.solutions)} not converged" if failed else "converged"
        axes.set_title(f"{stage.stage.replace('_', ' ')}: {verdict}", fontsize=10, loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("sweep")
        axes.set_ylabel(f"largest change [{style.shown_unit(unit)}]")
        style.grid_lines(axes)
        axes.legend(fontsize=8)
    style.save(fig, path)


def with_history(stages: list[StageMatch]) -> list[StageMatch]:
    """Return the stages whose solves have a history to show."""
    return [
        stage
        for stage in stages
        if any(any(history.steps) for solution in stage.solutions for history in solution.status.history)
    ]
