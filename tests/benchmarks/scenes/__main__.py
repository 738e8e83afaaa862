"""Print the table: python -m tests.benchmarks.scenes [--seeds 5] [--first 100] [--scene NAME ...] [--peers].

A row for each scene: the median over seeds of the rms errors of the levels, 1e-3 MJy/sr, of levelmatch with both
presets, of an oracle that sees no sky (`oracle`), of least squares of the means of all pixels (`means`), and of the
peers that are installed; the error of `best` over that of the oracle; the median and the range of its pulls (error over
stated error); and its grades.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from levelmatch_core import MatchSettings
from tests.benchmarks.scenes import score
from tests.benchmarks.scenes.program import SCENES, Truth, write

Row = Mapping[str, float | str]


def measured(folder: Path, truth: Sequence[Truth], *, peers: bool) -> Row:
    """Return what all ways make of one program, errors in 1e-3 MJy/sr."""
    row: dict[str, float | str] = {}
    for preset in ("pjpipe", "best"):
        settings = MatchSettings.from_mapping({"preset": preset, "figures": "none"})
        found = score.ours(folder, truth, settings)
        row |= {preset: 1e3 * found.error, f"pull of {preset}": found.pull, f"grade of {preset}": found.grade.value}
        row[f"components of {preset}"] = found.components
    images = [np.asarray(fits.getdata(folder / one.name, "SCI"), dtype=float) for one in truth]
    row["oracle"] = 1e3 * score.oracle(truth)
    row["means"] = 1e3 * score.dense(images, truth)
    if peers:
        row |= {peer: 1e3 * value for peer, value in score.peers(images, truth).items()}
    return row


def shown(name: str, rows: Sequence[Row]) -> str:
    """Return a row of the table."""
    errors = [way for way in rows[0] if not way.startswith(("pull", "grade", "components"))]
    cells = [f"{np.median([float(row[way]) for row in rows]):.3g}" for way in errors]
    ratio = np.median([float(row["best"]) / float(row["oracle"]) for row in rows])
    pulls = sorted(float(row["pull of best"]) for row in rows)
    grades = Counter(str(row["grade of best"]) for row in rows)
    cells += [f"{ratio:.2f}", f"{np.median(pulls):.2f} ({pulls[0]:.2f} to {pulls[-1]:.2f})"]
    cells.append(", ".join(f"{count} {grade}" for grade, count in grades.most_common()))
    return f"| {name} | " + " | ".join(cells) + " |"


def heading(row: Row) -> str:
    """Return the heading of the table."""
    errors = [way for way in row if not way.startswith(("pull", "grade", "components"))]
    names = ["scene", *errors, "best / oracle", "pulls of best", "grades of best"]
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def main() -> None:
    """Print a row for each scene."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--scene", nargs="*", default=[*SCENES], choices=[*SCENES])
    parser.add_argument("--peers", action="store_true", help="ask MontagePy and stcal, too, where they are installed")
    parser.add_argument("--rows", type=Path, help="append each program's numbers to this file, a line of JSON each")
    asked = parser.parse_args()
    for number, name in enumerate(asked.scene):
        rows = []
        for seed in range(asked.first, asked.first + asked.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                truth = write(SCENES[name], Path(scratch) / "raw", seed, size=asked.size)
                rows.append(measured(Path(scratch) / "raw", truth, peers=asked.peers))
            if asked.rows:
                with asked.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"scene": name, "seed": seed, **rows[-1]}) + "\n")
        if number == 0:
            print(heading(rows[0]))
        print(shown(name, rows), flush=True)


if __name__ == "__main__":
    main()
