"""Montage and reproject beside the library on the same tiles in the same run: CPU seconds, wall time, peak memory.

    python -m tests.benchmarks.peers [--tiles 10x10] [--size 512] [--rounds 2]

Each runs in a process of its own. Its work is counted (CPU seconds of the process and its children), not its imports,
and the best of a few rounds is taken; memory is the peak of the process. Montage (MontagePy, the extra `peers`):
mProjExec, mOverlaps, mDiffFitExec for levels, mBgModel, mBgExec. reproject: `reproject_and_coadd` with
match_background, each tile read by astropy. The library: :func:`levelmatch_core.match_levels` with default settings
but no figures, its corrected files and mosaic written.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from levelmatch_core.simulate import SimulatedProgram, simulate


def montage(folder: Path, place: Path) -> None:
    """Run Montage's background matching."""
    from MontagePy import main as m  # noqa: PLC0415 - only in the process that measures it

    for name in ("projected", "differences", "corrected"):
        (place / name).mkdir(parents=True)

    def table(name: str) -> str:
        return str(place / name)

    def done(result: dict[str, object]) -> None:
        if str(result.get("status")) != "0":
            message = f"Montage failed: {result}"
            raise RuntimeError(message)

    done(m.mImgtbl(str(folder), table("raw.tbl")))
    done(m.mMakeHdr(table("raw.tbl"), table("field.hdr")))
    done(m.mProjExec(str(folder), table("raw.tbl"), table("field.hdr"), projdir=table("projected")))
    done(m.mImgtbl(table("projected"), table("projected.tbl")))
    done(m.mOverlaps(table("projected.tbl"), table("overlaps.tbl")))
    done(
        m.mDiffFitExec(
            table("projected"),
            table("overlaps.tbl"),
            table("field.hdr"),
            table("differences"),
            table("fits.tbl"),
            levelOnly=True,
        )
    )
    done(m.mBgModel(table("projected.tbl"), table("fits.tbl"), table("corrections.tbl"), noslope=True))
    done(m.mBgExec(table("projected"), table("projected.tbl"), table("corrections.tbl"), table("corrected")))


def reproject(folder: Path, place: Path) -> None:
    """Coadd with matched backgrounds."""
    from astropy.io import fits  # noqa: PLC0415 - as above
    from reproject import reproject_interp  # noqa: PLC0415
    from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        images = [stack.enter_context(fits.open(path))[0] for path in sorted(folder.glob("*.fits"))]
        wcs, shape = find_optimal_celestial_wcs(images)
        mosaic, _ = reproject_and_coadd(
            images, wcs, shape_out=shape, reproject_function=reproject_interp, match_background=True
        )
    place.mkdir(parents=True)
    fits.PrimaryHDU(mosaic, wcs.to_header()).writeto(place / "mosaic.fits")


def library(folder: Path, place: Path) -> None:
    """Match with default settings."""
    from levelmatch_core import MatchSettings, match_levels  # noqa: PLC0415 - as above

    os.environ["LEVELMATCH_HOME"] = str(place / "home")  # cutouts of its own: nothing is found there
    match_levels(folder, output=place / "out", settings=MatchSettings(figures="none"))


WAYS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "levelmatch": ("levelmatch_core", library),
    "MontagePy": ("MontagePy", montage),
    "reproject": ("reproject", reproject),
}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured_here(way: str, folder: Path, place: Path) -> dict[str, float]:
    """Do the work twice over in this process, first on nothing but one tile to have all imported and compiled."""
    _, work = WAYS[way]
    with contextlib.suppress(Exception):
        one = place / "one"
        one.mkdir(parents=True)
        for path in sorted(folder.glob("*.fits"))[:2]:
            (one / path.name).symlink_to(path)
        work(one, place / "first")
    started, cpu = time.monotonic(), _cpu()
    work(folder, place / "work")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"cpu": _cpu() - cpu, "wall": time.monotonic() - started, "peak": peak / 1024}


def measured(way: str, folder: Path, place: Path) -> dict[str, float]:
    """Measure one way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", "--one", way, str(folder), str(place)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", default="10x10")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "INPUT", "PLACE"), help="measure one way in this process")
    asked = parser.parse_args()
    if asked.one:
        way, folder, place = asked.one
        print(json.dumps(measured_here(way, Path(folder), Path(place))))
        return
    across, up = (int(part) for part in asked.tiles.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        program = SimulatedProgram.of(instrument="generic", tiles=(across, up), size=asked.size)
        simulate(root / "in", program)
        best: dict[str, dict[str, float]] = {}
        for number in range(asked.rounds):
            for way, (package, _) in WAYS.items():
                if find_spec(package) is None:
                    print(f"{way} is skipped: install the extra `peers`")
                    continue
                found = measured(way, root / "in", root / f"{way}{number}")
                best[way] = min(best.get(way, found), found, key=lambda each: each["cpu"])
    ours = best["levelmatch"]["cpu"]
    print(f"{across * up} tiles of {asked.size} pixels, best of {asked.rounds} rounds")
    print(f"{'':12} {'CPU s':>7} {'wall s':>7} {'peak MB':>8} {'CPU over ours':>14}")
    for way, found in best.items():
        print(f"{way:12} {found['cpu']:7.2f} {found['wall']:7.2f} {found['peak']:8.0f} {found['cpu'] / ours:14.1f}")


if __name__ == "__main__":
    main()
