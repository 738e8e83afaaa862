"""Montage and reproject beside the library on the same tiles in the same run: CPU seconds, wall time, peak memory.

    python -m tests.benchmarks.peers [--tiles 10x10] [--size 512] [--rounds 2] [--without WAY ...]

Each runs in a process of its own, in turn; its work is counted (CPU seconds of the process and its children), and
neither imports nor compilation: all of them do a small piece of the same work first. The best of a few rounds is
taken; memory is the peak of the process. Compared is like with like:

- levels without a co-added image: Montage's (MontagePy, the extra `peers`) mProjExec, mOverlaps, mDiffFitExec for
  levels, mBgModel and mBgExec, beside the library without its mosaic (files read and digested, resampled, matched,
  corrected files, tables and record written). Montage's tables of images and its header are not counted.
- with a co-added image: `reproject_and_coadd` with match_background, each tile read by astropy, its mosaic written, and
  Montage's steps with mAdd, beside the library with its mosaic.
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

from levelmatch_core.process.small_work import everything_compiled
from levelmatch_core.simulate import SimulatedProgram, simulate

MATCH, COADD, ASIDE = "match", "co-add", "aside"
"""What a step is of: the matching of levels, the co-added image, or what is not counted."""

Spent = dict[str, float]
"""Kind of step -> CPU seconds."""


def cpu() -> float:
    """Return the CPU seconds of this process and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def montage(folder: Path, place: Path) -> Spent:
    """Run Montage's background matching, and its co-addition."""
    from MontagePy import main as m  # noqa: PLC0415 - only in the process that measures it

    for name in ("projected", "differences", "corrected"):
        (place / name).mkdir(parents=True)
    spent = dict.fromkeys((MATCH, COADD, ASIDE), 0.0)

    def at(name: str) -> str:
        return str(place / name)

    def done(kind: str, step: Callable[..., dict[str, object]], *arguments: object, **options: object) -> None:
        started = cpu()
        result = step(*arguments, **options)
        spent[kind] += cpu() - started
        if str(result.get("status")) != "0":
            message = f"Montage failed: {result}"
            raise RuntimeError(message)

    done(ASIDE, m.mImgtbl, str(folder), at("raw.tbl"))
    done(ASIDE, m.mMakeHdr, at("raw.tbl"), at("field.hdr"))
    done(MATCH, m.mProjExec, str(folder), at("raw.tbl"), at("field.hdr"), projdir=at("projected"))
    done(ASIDE, m.mImgtbl, at("projected"), at("projected.tbl"))
    done(MATCH, m.mOverlaps, at("projected.tbl"), at("overlaps.tbl"))
    pairs = at("projected"), at("overlaps.tbl"), at("field.hdr"), at("differences"), at("fits.tbl")
    done(MATCH, m.mDiffFitExec, *pairs, levelOnly=True)
    done(MATCH, m.mBgModel, at("projected.tbl"), at("fits.tbl"), at("corrections.tbl"), noslope=True)
    done(MATCH, m.mBgExec, at("projected"), at("projected.tbl"), at("corrections.tbl"), at("corrected"))
    done(ASIDE, m.mImgtbl, at("corrected"), at("corrected.tbl"))
    done(COADD, m.mAdd, at("corrected"), at("corrected.tbl"), at("field.hdr"), at("mosaic.fits"))
    return spent


def reproject(folder: Path, place: Path) -> Spent:
    """Coadd with matched backgrounds: the two cannot be told apart."""
    from astropy.io import fits  # noqa: PLC0415 - as above
    from reproject import reproject_interp  # noqa: PLC0415
    from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd  # noqa: PLC0415

    started = cpu()
    with contextlib.ExitStack() as stack:
        images = [stack.enter_context(fits.open(path))[0] for path in sorted(folder.glob("*.fits"))]
        wcs, shape = find_optimal_celestial_wcs(images)
        mosaic, _ = reproject_and_coadd(
            images, wcs, shape_out=shape, reproject_function=reproject_interp, match_background=True
        )
    place.mkdir(parents=True)
    fits.PrimaryHDU(mosaic, wcs.to_header()).writeto(place / "mosaic.fits")
    return {COADD: cpu() - started}


def library(folder: Path, place: Path) -> Spent:
    """Match with default settings, without figures."""
    from tests.benchmarks import speed  # noqa: PLC0415 - as above

    place.mkdir(parents=True)
    os.environ["LEVELMATCH_HOME"] = str(place / "home")
    steps, _ = speed.library(folder, place)
    coadded = steps.pop("mosaic")
    return {MATCH: sum(steps.values()), COADD: coadded}


WAYS: dict[str, tuple[str, Callable[[Path, Path], Spent]]] = {
    "levelmatch": ("levelmatch_core", library),
    "MontagePy": ("MontagePy", montage),
    "reproject": ("reproject", reproject),
}


def measured_here(way: str, folder: Path, place: Path) -> Spent:
    """Do the work twice over in this process, first on a few tiles, to have all imported and compiled."""
    _, work = WAYS[way]
    few = place / "few"
    few.mkdir(parents=True)
    for path in sorted(folder.glob("*.fits"))[:2]:
        (few / path.name).symlink_to(path)
    with everything_compiled():
        work(few, place / "first")
    started = time.monotonic()
    spent = work(folder, place / "work")
    wall = time.monotonic() - started
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {**spent, "wall": wall, "peak": peak / 1024}


def measured(way: str, folder: Path, place: Path) -> Spent:
    """Measure one way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", "--one", way, str(folder), str(place)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Spent = json.loads(done.stdout.splitlines()[-1])
    return found


def total(spent: Spent, kinds: tuple[str, ...]) -> float:
    """Return the CPU seconds of some kinds of steps."""
    return sum(spent.get(kind, 0.0) for kind in kinds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", default="10x10")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], choices=[*WAYS], metavar="WAY", help="leave one out")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "INPUT", "PLACE"), help="measure one way in this process")
    asked = parser.parse_args()
    if asked.one:
        way, folder, place = asked.one
        print(json.dumps(measured_here(way, Path(folder), Path(place))))
        return
    across, up = (int(part) for part in asked.tiles.split("x"))
    found: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        simulate(root / "in", SimulatedProgram.of(instrument="generic", tiles=(across, up), size=asked.size))
        for number in range(asked.rounds):
            for way, (package, _) in WAYS.items():
                if way in asked.without or find_spec(package) is None:
                    print(f"{way} is left out{'' if find_spec(package) else ': install the extra `peers`'}")
                    continue
                found.setdefault(way, []).append(measured(way, root / "in", root / f"{way}{number}"))
    print(f"{across * up} tiles of {asked.size} pixels, CPU s, best of {asked.rounds} rounds, imports not counted")
    for title, kinds in (("levels, nothing co-added", (MATCH,)), ("levels and co-added image", (MATCH, COADD))):
        print(f"{title:28} {'CPU s':>7} {'over ours':>10}")
        ours = min(total(spent, kinds) for spent in found["levelmatch"]) if "levelmatch" in found else float("nan")
        for way, rounds in found.items():
            if way != "reproject" or COADD in kinds:
                theirs = min(total(spent, kinds) for spent in rounds)
                print(f"    {way:24} {theirs:7.2f} {theirs / ours:10.1f}")
    print(f"{'all that was run':28} {'wall s':>7} {'peak MB':>8}")
    for way, rounds in found.items():
        print(f"    {way:24} {min(s['wall'] for s in rounds):7.1f} {min(s['peak'] for s in rounds):8.0f}")


if __name__ == "__main__":
    main()
