"""What all figures share: a canvas without global state, colours that all eyes can tell apart, fixed bytes.

matplotlib's figures are imported by who draws one: a run without changes needs its colours only.
"""

import math
import threading
import zlib
from contextlib import ContextDecorator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
COMPRESSION = 3
"""Of PNG files: images of noise hardly shrink with more, and a third of the time of a figure goes there."""
IMAGE, DIFFERENCE, SEQUENCE = "cividis", "RdBu_r", "viridis"
"""Colour maps for images of the sky, for differences about 0, and for sizes."""
BEFORE, AFTER, FAINT = "#d55e00", "#0072b2", "#c8c8c8"
"""Colours (Okabe and Ito's vermilion and blue, and greys)."""
MISSING = "#e9e9e9"
"""Where there are no data."""
MANY = 60
"""More members than this, and only some are named."""
ROUNDING = 1e-9
"""What is left of a difference is rounding below this fraction of it."""
_LONGEST, _LABEL = 44, 24


class _OwnLook(ContextDecorator):
    """Draws as matplotlib does without settings of a user or a folder, in any number of threads at once.

    `text.usetex` in a file `matplotlibrc` beside the data would run TeX, on names that TeX cannot set. The first thread
    in sets the defaults and the last one out restores what was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept = mpl.rc_context()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._kept = mpl.rc_context()
                self._kept.__enter__()
                mpl.rcdefaults()
                mpl.rcParams["axes.titley"] = 1.0  # where it is anyway: to find that out takes a fifteenth of a figure
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._kept.__exit__(None, None, None)


own_look = _OwnLook()
"""Decorates what draws a figure of a file."""


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure, sizes in inches, on a canvas of its own.

    Its axes are put in their places by :func:`axes_at`: a figure that finds room for labels by itself is drawn twice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - see the module
    from matplotlib.figure import Figure  # noqa: PLC0415 - see the module

    fig = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(fig)
    return fig


def axes_at(fig: "Figure", left: float, bottom: float, width: float, height: float, **options: Any) -> "Axes":  # noqa: ANN401 - matplotlib's
    """Add axes to a figure, in inches from its lower left corner."""
    across, up = fig.get_size_inches()
    return fig.add_axes((left / across, bottom / up, width / across, height / up), **options)


def save(fig: "Figure", path: Path | BytesIO) -> None:
    """Write a PNG that names neither time nor software."""
    from PIL import Image  # noqa: PLC0415 - see the module

    fig.canvas.draw()
    seen = np.ascontiguousarray(np.asarray(fig.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]
    # nothing shines through; of noise, runs are all that zlib finds, in two thirds of the time
    Image.fromarray(seen).save(path, format="png", dpi=(DPI, DPI), compress_level=COMPRESSION, compress_type=zlib.Z_RLE)


def colour_map(name: str) -> Colormap:
    """Return a colour map that shows missing data in light grey."""
    return mpl.colormaps[name].with_extremes(bad=MISSING)


def shown_unit(unit: str) -> str:
    """Return the unit as labels show it."""
    return unit or "data unit"


def short(name: str, longest: int = _LONGEST) -> str:
    """Return a name, its middle left out where it is long, with nothing that would be set as a formula."""
    plain = name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"
    return plain.replace("$", r"\$")


def distinct(names: list[str]) -> list[str]:
    """Return the names without what they all begin and end with, cut at separators: short labels that still differ.

    Where that leaves too much, all that they share in front gives way to dots.
    """
    if len(names) < 2:
        return [short(name, _LABEL) for name in names]
    head = _common(names)
    tail = _common([name[len(head) :][::-1] for name in names])
    cut = [name[len(head) : len(name) - len(tail)] or name for name in names]
    shared = _shared(cut) if max(map(len, cut)) > _LABEL else 0
    return [short(f"…{label[shared:]}" if shared > 1 else label, _LABEL) for label in cut]


def _common(names: list[str]) -> str:
    """Return the longest beginning that all share, ending with a separator."""
    length = _shared(names)
    cut = max(names[0].rfind(separator, 0, length) for separator in "_./+ ") + 1
    return names[0][:cut]


def _shared(names: list[str]) -> int:
    """Return how many letters all begin with."""
    first, last = min(names), max(names)
    ends = min(len(first), len(last))
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), ends)


def number(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def power_of_ten(limit: float) -> tuple[float, str]:
    """Return a factor that numbers up to `limit` are divided by to be short, and how a label names it."""
    if 0.1 <= limit < 1e4:
        return 1.0, ""
    power = math.floor(math.log10(limit))
    return 10.0**power, f"$10^{{{power}}}$ "


def grid_lines(axes: "Axes") -> None:
    """Draw faint lines behind the data."""
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
