"""The weakest modes, drawn and told: patterns of corrections that the overlaps hardly see."""

from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import shapely

from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.matching.results import Component, Solution, WeakMode
from levelmatch_core.products.drawings.modes import cells_of, mode_lines, mode_words, modes, patterns
from levelmatch_core.products.drawings.svg import as_file
from levelmatch_core.products.figures import draw_figures
from levelmatch_core.settings import MatchSettings


def with_modes(match: FieldMatch, *, split: int | None = None) -> FieldMatch:
    """Return the field with two modes a component; `split` members are a component of their own."""
    stage = match.stages[-1]
    (solution,) = stage.solutions
    names = solution.components[0].members
    parts = [names] if split is None else [names[split:], names[:split]]
    found = []
    for number, members in enumerate(parts):
        ramp = np.linspace(-1, 1, len(members)) if len(members) > 1 else np.ones(1)
        for rank, pattern in enumerate((ramp, ramp**2)):
            levels = tuple((pattern / np.sqrt(np.mean(pattern**2))).tolist())
            sigma = 0.02 / (1 + rank) * (1 + number)
            found.append(WeakMode(component=number, sigma=sigma, share=0.6 / (1 + rank), pattern=levels))
    components = tuple(Component(members=members, reference=members[0]) for members in parts)
    status = solution.status.model_copy(update={"modes": tuple(found)})
    changed = solution.model_copy(update={"status": status, "components": components})
    return match.model_copy(update={"stages": (*match.stages[:-1], stage.model_copy(update={"solutions": (changed,)}))})


def solutions(match: FieldMatch) -> tuple[Solution, ...]:
    return match.stages[-1].solutions


def test_modes_of_one_rank_are_one_pattern(make: Any) -> None:
    match = with_modes(make.match(3, 2), split=2)
    weakest, second = patterns(solutions(match))
    assert set(weakest.levels) == {member.name for member in match.stages[-1].members}
    assert (weakest.components, weakest.largest.sigma, second.largest.sigma) == (2, 0.02, 0.01)
    levels = np.array(list(weakest.levels.values()))
    assert np.sqrt(np.mean(levels[:4] ** 2)) == pytest.approx(0.02)  # the larger component's
    assert np.sqrt(np.mean(levels[4:] ** 2)) == pytest.approx(0.04)
    assert (
        mode_words(weakest, "MJy/sr")
        == "0.02 MJy/sr rms at 1 sigma\n60% of the levels' variance, of the largest of 2 components"
    )
    assert "components" not in mode_words(patterns(solutions(with_modes(make.match())))[0], "")


@pytest.mark.parametrize(
    ("columns", "rows", "split"), [(3, 2, None), (3, 2, 2), (9, 1, None), (2, 1, 1), (12, 8, None)]
)
def test_the_figure_is_drawn_the_same_each_time(make: Any, columns: int, rows: int, split: Any) -> None:
    match = with_modes(make.match(columns, rows), split=split)
    first, second = (as_file("a field", [("", modes(match.stages[-1], make.unit))]) for _ in range(2))
    root = ET.fromstring(first)  # noqa: S314 - our own
    shapes = [each for each in root.iter() if each.get("class") == "cell"]
    assert len(shapes) == 2 * columns * rows
    assert len({each.get("fill") for each in shapes}) > 1
    assert first == second


def test_it_is_among_the_figures_where_there_are_modes(make: Any, tmp_path: Any) -> None:
    def write(name: str, draw: Any) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        draw(tmp_path / name)
        return name

    plain, more = (
        draw_figures(match, [], MatchSettings(), write) for match in (make.match(), with_modes(make.match()))
    )  # type: ignore[arg-type]
    assert set(more) - set(plain) == {"figures/f770w_modes.svg"}


@pytest.mark.parametrize("step", [100.0, 30.0, 8.0])
def test_cells_stay_apart_however_much_members_overlap(step: float) -> None:
    outlines = {
        f"{x}{y}": np.add(shapely.box(0, 0, 100, 60).exterior.coords[:-1], (step * x, step * y))
        for x in range(3)
        for y in range(3)
    }
    cells = [shapely.Polygon(cell) for cell in cells_of(outlines).values()]
    assert all(cells[i].disjoint(cells[j]) for i in range(9) for j in range(i))
    assert all(cell.area > 0 for cell in cells)
    (alone,) = cells_of({"a": outlines["00"]}).values()
    assert shapely.Polygon(alone).area > 0.8 * 100 * 60


def test_the_page_draws_and_tells_them(make: Any) -> None:
    stage = with_modes(make.match()).stages[-1]
    drawing = modes(stage, make.unit)
    assert drawing is not None
    assert drawing.in_page().count("<path") == 2 * len(stage.members)
    (line,) = mode_lines(stage, make.unit)
    assert line.startswith("The pattern of corrections that the overlaps see least may be off by 0.02 ")
    assert "60% of the levels' variance; the next: 0.01" in line
    without = make.match().stages[-1]
    assert modes(without, make.unit) is None
    assert mode_lines(without, make.unit) == ()
