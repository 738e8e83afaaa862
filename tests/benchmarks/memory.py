"""Peak memory: of one exposure, and of many, in processes of their own.

    python -m tests.benchmarks.memory [--quick]

Memory that is private or shared proportionally (PSS) is what counts: mapped cutouts that the system may drop at any
time are counted as long as they are there. A thread samples the process and its children.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from levelmatch_core.simulate import SimulatedProgram, simulate

_PAUSE = 0.01
"""Seconds between samples."""


class Watch:
    """Samples the memory of this process and its children while the context lasts; MB."""

    def __init__(self) -> None:
        self.most = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self.before = _memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(_PAUSE):
            self.most = max(self.most, _memory())


def _memory() -> float:
    here = psutil.Process()
    total = 0
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


def of_tiles(folder: Path, place: Path, workers: int) -> dict[str, float]:
    """Match a folder with some workers; the peak of it all, imports and compiled code included."""
    from levelmatch_core.pipeline import Request, run  # noqa: PLC0415 - counted in the process that is measured
    from levelmatch_core.runners import PlainRunner  # noqa: PLC0415
    from levelmatch_core.settings import MatchSettings  # noqa: PLC0415
    from levelmatch_core.sky.store import CutoutStore  # noqa: PLC0415
    from levelmatch_core.workers import Threads  # noqa: PLC0415

    request = Request(inputs=(folder,), output=place / "out", settings=MatchSettings(figures="none", procs=workers))
    with Watch() as watch:
        run(request, CutoutStore(place / "store"), lambda workspace: PlainRunner(workspace, Threads(workers)))
    return {"peak": watch.most, "before": watch.before}


def of_exposure(folder: Path, place: Path) -> dict[str, float]:
    """Cut out and write one exposure; what is added, in units of its SCI array, for each of the two."""
    from levelmatch_core.images.inventory import take_inventory  # noqa: PLC0415 - as above
    from levelmatch_core.matching.corrections import Correction, Status  # noqa: PLC0415
    from levelmatch_core.products.corrected.write import write_corrected  # noqa: PLC0415
    from levelmatch_core.settings import MatchSettings  # noqa: PLC0415
    from levelmatch_core.sky.cutouts import make_cutout  # noqa: PLC0415
    from levelmatch_core.sky.grid import choose_grid  # noqa: PLC0415
    from levelmatch_core.sky.plane import Plane  # noqa: PLC0415
    from levelmatch_core.sky.store import CutoutStore  # noqa: PLC0415

    settings = MatchSettings()
    field = take_inventory([folder], settings).fields[0]
    grid = choose_grid(field)
    first, second = field.exposures[:2]
    sci = first.shape[0] * first.shape[1] * 4 / 1e6
    make_cutout(first, grid, settings, CutoutStore(place / "store"))  # compiles
    found = {}
    with Watch() as watch:
        make_cutout(second, grid, settings, CutoutStore(place / "store"))
    found["cutout"] = (watch.most - watch.before) / sci
    for kind, plane in (("level", Plane(level=1.0)), ("plane", Plane(level=1.0, slope_x=1e-3, slope_y=1e-3))):
        correction = Correction(
            field=field.name, exposure=second, status=Status.MATCHED, plane=plane, component=1, reference="r"
        )
        for number in range(2):  # the first one compiles
            with Watch() as watch:
                write_corrected(place / f"{kind}{number}.fits", [correction], {field.name: grid}, settings)
        found[f"write {kind}"] = (watch.most - watch.before) / sci
    return found


def measured(what: str, folder: Path, place: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", what, str(folder), str(place)]
    place.mkdir(parents=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tiles(root: Path, side: int, size: int, workers: int = 2) -> float:
    """Return the peak (MB) of matching side x side tiles."""
    folder = root / f"in{side}"
    simulate(folder, SimulatedProgram.of(instrument="generic", tiles=(side, side), size=size))
    return measured(f"tiles{workers}", folder, root / f"work{side}")["peak"]


def exposure(root: Path, size: int) -> dict[str, float]:
    """Return what one exposure (SCI, ERR, DQ) costs, in units of its SCI array, by step."""
    program = SimulatedProgram.of(instrument="miri", tiles=(1, 1), dithers=2, size=size, columns=size)
    simulate(root / "exposures", program)
    return measured("exposure", root / "exposures", root / "one")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 and 16 tiles of 256 pixels, an exposure of 512")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "INPUT", "PLACE"), help="measure in this process")
    asked = parser.parse_args()
    if asked.one:
        what, folder, place = asked.one
        if what == "exposure":
            print(json.dumps(of_exposure(Path(folder), Path(place))))
        else:
            print(json.dumps(of_tiles(Path(folder), Path(place), int(what.removeprefix("tiles")))))
        return
    few, many, size, large = (2, 4, 256, 512) if asked.quick else (10, 20, 512, 2048)
    with tempfile.TemporaryDirectory() as scratch:
        for step, arrays in exposure(Path(scratch), large).items():
            print(f"one exposure of {large} pixels, {step}: {arrays:.1f} of its SCI array")
        for side in (few, many):
            print(f"{side**2} tiles of {size} pixels, two workers: {tiles(Path(scratch), side, size):.0f} MB")


if __name__ == "__main__":
    main()
