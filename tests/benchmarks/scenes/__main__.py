"""Print the table: python -m tests.benchmarks.scenes [--seeds 5] [--scene NAME ...] [--size 256]."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits

from levelmatch_core import MatchSettings
from tests.benchmarks.scenes import score
from tests.benchmarks.scenes.program import SCENES, write


def measured(name: str, seed: int, size: int) -> dict[str, float]:
    """Return the errors of all ways in one scene, 1e-3 MJy/sr, and the pulls of ours."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        truth = write(SCENES[name], root / "raw", seed, size=size)
        found: dict[str, float] = {}
        for preset in ("pjpipe", "best"):
            settings = MatchSettings.from_mapping({"preset": preset, "figures": "none"})
            found[preset], found[f"pull of {preset}"] = score.ours(root / "raw", truth, settings)
        images = [np.asarray(fits.getdata(root / "raw" / one.name, "SCI"), dtype=float) for one in truth]
        found["means"] = score.dense(images, truth)
        found["oracle"] = score.oracle(truth)
    return {way: value if way.startswith("pull") else 1e3 * value for way, value in found.items()}


def main() -> None:
    """Print a row for each scene: the median over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--scene", nargs="*", default=[*SCENES], choices=[*SCENES])
    asked = parser.parse_args()
    for number, name in enumerate(asked.scene):
        rows = [measured(name, seed, asked.size) for seed in range(asked.first, asked.first + asked.seeds)]
        if number == 0:
            print(f"{'rms of levels, 1e-3 MJy/sr':<28}" + "".join(f"{way:>16}" for way in rows[0]))
        print(f"{name:<28}" + "".join(f"{np.median([row[way] for row in rows]):>16.2f}" for way in rows[0]), flush=True)


if __name__ == "__main__":
    main()
