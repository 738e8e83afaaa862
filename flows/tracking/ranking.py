"""The ranking of the combinations of a sweep: as a table, as a figure, and as a link to MLflow's comparison."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure
from pydantic import Field as Described

from flows.summary import Tracking
from levelmatch_core.files.ecsv import write_ecsv
from levelmatch_core.products.drawings import style
from levelmatch_core.products.output.folder import put
from levelmatch_core.records import Record

CRITERION = "rms of the seams of left-out pairs"


class Combination(Record):
    """One combination of settings, and its merit."""

    values: dict[str, Any]
    seam: float = Described(default=0.0, description="leave-one-pair-out seam rms, data unit")
    unit: str = ""
    tested: int = Described(default=0, description="number of pairs that are predicted by others")
    used: int = Described(default=0, description="pairs kept")
    residual: float = Described(default=0.0, description="residual rms, the worst field's, data unit")
    left_out: int = Described(default=0, description="exposures that are untied, or failed")
    executed: dict[str, int] = Described(default={}, description="jobs done, by step")
    output: str = ""
    tracking: Tracking | None = None
    failed: str = Described(default="", description="why there is no result")

    @property
    def merit(self) -> tuple[bool, bool, int, float, int]:
        """Sort key, best first: not failed, tested, fewest exposures left out, smallest seam, most pairs."""
        return bool(self.failed), self.tested == 0, self.left_out, self.seam, -self.used

    @property
    def outcome(self) -> tuple[int, str, int, int]:
        """What two combinations that tie have in common; seams that differ by rounding only are equal."""
        return self.left_out, f"{self.seam:.8g}", self.used, self.tested

    @property
    def run_id(self) -> str:
        """The MLflow run, '' if there is none."""
        return self.tracking.run_id if self.tracking else ""


class Ranking(Record):
    """All combinations of a sweep, best first."""

    program: str
    sweep_id: str
    varied: tuple[str, ...]
    rows: tuple[Combination, ...]
    compare: str = Described(default="", description="address of MLflow's comparison of all runs")

    @classmethod
    def of(
        cls, program: str, sweep_id: str, varied: Sequence[str], rows: Iterable[Combination], compare: str = ""
    ) -> Self:
        """Return the ranking of the combinations."""
        ordered = tuple(sorted(rows, key=lambda row: row.merit))
        return cls(program=program, sweep_id=sweep_id, varied=tuple(varied), rows=ordered, compare=compare)

    @property
    def ties(self) -> tuple[int, ...]:
        """For each row the number of the first one that is as good: its own, unless it ties with one above."""
        first: dict[tuple[Any, ...], int] = {}
        return tuple(
            number if row.failed or not row.tested else first.setdefault(row.outcome, number)
            for number, row in enumerate(self.rows, start=1)
        )

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The varied settings that changed no combination's outcome."""
        done = [row for row in self.rows if not row.failed and row.tested]
        return tuple(name for name in self.varied if _changes_nothing(name, done))

    @property
    def verdict(self) -> str:
        """One sentence on the best combination and on failures."""
        failed = [row for row in self.rows if row.failed]
        best = self.rows[0]
        parts = [f"{len(self.rows)} combinations"]
        if not best.failed and best.tested:
            named = ", ".join(f"{name}={value}" for name, value in best.values.items())
            parts.append(f"the smallest {CRITERION} is {best.seam:.4g} {best.unit} at {named}, {best.used} pairs kept")
            tied = self.ties.count(1) - 1
            if tied:
                parts.append(f"{tied} other{'s tie' if tied > 1 else ' ties'} with it")
        elif not best.failed:
            parts.append("none can be ranked: no pair is predicted by others")
        if self.without_effect:
            parts.append(f"{', '.join(self.without_effect)} changed nothing")
        if failed:
            parts.append(f"{len(failed)} failed: {'; '.join(list(dict.fromkeys(row.failed for row in failed))[:3])}")
        return "; ".join(parts) + "."

    def text(self) -> str:
        """Return the ranking as lines of text, followed by the verdict."""
        heads = ["rank", *self.varied, "seam rms", "pairs kept", "predicted", "left out"]
        lines = [heads]
        for number, (row, first) in enumerate(zip(self.rows, self.ties, strict=True), start=1):
            seam = "failed" if row.failed else f"{row.seam:.5g}" if row.tested else "-"
            shown = [str(row.values[name]) for name in self.varied]
            rank = f"{number} = {first}" if first < number else str(number)
            lines.append([rank, *shown, seam, str(row.used), str(row.tested), str(row.left_out)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        table = ["  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*table, self.verdict])

    def table(self) -> list[dict[str, Any]]:
        """Return one row of plain values per combination."""
        return [
            {
                "rank": number,
                "ties_with": first,
                **{name: str(row.values[name]) for name in self.varied},
                "seam_rms_left_out": None if row.failed or not row.tested else row.seam,
                "unit": row.unit,
                "pairs_kept": row.used,
                "pairs_predicted": row.tested,
                "residual_rms": None if row.failed else row.residual,
                "left_out": row.left_out,
                "failed": row.failed,
                "mlflow_run": row.run_id,
            }
            for number, (row, first) in enumerate(zip(self.rows, self.ties, strict=True), start=1)
        ]


def _changes_nothing(name: str, rows: Sequence[Combination]) -> bool:
    """Return whether rows that differ in one setting only, of which there are some, have the same outcome."""
    alike: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        others = {key: value for key, value in row.values.items() if key != name}
        alike.setdefault(json.dumps(others, sort_keys=True, default=str), []).append(row.outcome)
    return any(len(each) > 1 for each in alike.values()) and all(len(set(each)) == 1 for each in alike.values())


def compare_address(rows: Iterable[Combination]) -> str:
    """Return the address of MLflow's comparison with all runs selected; '' if there are none."""
    tracked = [row.tracking for row in rows if row.tracking is not None and row.tracking.url]
    if not tracked:
        return ""
    server, _, place = tracked[0].url.partition("/#/")
    pages = place.partition("?")[2]
    runs = json.dumps([each.run_id for each in tracked], separators=(",", ":"))
    experiments = json.dumps(sorted({each.experiment_id for each in tracked}), separators=(",", ":"))
    return f"{server}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}{pages and f'&{pages}'}"


def write_ranking(folder: Path, ranking: Ranking) -> None:
    """Write ranking.ecsv, ranking.json and ranking.png to the folder of the sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ranking.table()
    columns = {name: [math.nan if row[name] is None else row[name] for row in rows] for name in rows[0]}
    table = Table(columns, meta={"program": ranking.program, "sweep_id": ranking.sweep_id, "criterion": CRITERION})
    put(folder, "ranking.ecsv", lambda path: write_ecsv(path, table))
    text = json.dumps(ranking.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
    put(folder, "ranking.json", lambda path: path.write_text(text, encoding="utf-8"))
    put(folder, "ranking.png", lambda path: _draw(ranking, path))


@style.own_look
def _draw(ranking: Ranking, path: Path) -> None:
    style.save(parallel_coordinates(ranking), path)


def parallel_coordinates(ranking: Ranking) -> Figure:
    """Draw each combination as a line through its settings, its seam rms and its number of pairs."""
    rows = [row for row in ranking.rows if not row.failed and row.tested]
    axes_of = [*ranking.varied, f"seam rms\n[{style.shown_unit(rows[0].unit if rows else '')}]", "pairs kept"]
    figure = style.figure(2.2 * len(axes_of) + 1, 5)
    axes = figure.subplots()
    title = f"{ranking.program}: {len(rows)} combinations, {CRITERION}; thick the best, the darker the better"
    axes.set_title(title, fontsize=10)
    heights, labels = _heights(ranking, rows)
    colours = style.colour_map(style.SEQUENCE).reversed()
    for order, line in reversed(list(enumerate(heights))):
        colour = colours(1 - order / max(1, len(heights) - 1))
        axes.plot(range(len(axes_of)), line, color=style.BEFORE if order == 0 else colour, lw=3 if order == 0 else 1)
    for place, ticks in enumerate(labels):
        axes.axvline(place, color="0.4", lw=0.8)
        for height, text in ticks:
            axes.annotate(
                text,
                (place, height),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=9,
                va="center",
                zorder=5,  # above the lines of all combinations, which meet here
                bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1},
            )
    axes.set_xticks(range(len(axes_of)), axes_of)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(axes_of) - 0.5)
    axes.spines[:].set_visible(False)
    return figure


def _heights(ranking: Ranking, rows: Sequence[Combination]) -> tuple[list[list[float]], list[list[tuple[float, str]]]]:
    """Return the heights (0 to 1) of each combination on the axes, and the ticks of each axis."""
    columns: list[list[float]] = []
    ticks: list[list[tuple[float, str]]] = []
    for name in ranking.varied:
        values = list(dict.fromkeys(row.values[name] for row in ranking.rows))
        if all(isinstance(value, int | float) for value in values):
            values.sort()
        at = dict(zip(values, np.linspace(0, 1, len(values)) if len(values) > 1 else [0.5], strict=True))
        columns.append([float(at[row.values[name]]) for row in rows])
        ticks.append([(float(height), str(value)) for value, height in at.items()])
    for numbers in ([row.seam for row in rows], [float(row.used) for row in rows]):
        low, high = min(numbers, default=0.0), max(numbers, default=0.0)
        span = high - low if high - low > style.ROUNDING * high else 0.0
        columns.append([(number - low) / span if span else 0.5 for number in numbers])
        ticks.append([(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")] if span else [(0.5, f"{low:.4g}")])
    return [list(heights) for heights in zip(*columns, strict=True)], ticks
