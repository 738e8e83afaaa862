"""What a solve costs against the number of tiles, beside the solvers of MontagePy, reproject and stcal.

Run it as `python -m tests.benchmarks.solver [--kind scans] [--most 100000] [--figure FILE.png]`. Every solver is given
the same measured differences of a simulated survey and runs in a process of its own, whose CPU seconds (of the solve
alone, a slope prior learned included) and peak memory are told. One that takes longer than `--patience` seconds, or
more than `--memory` GB, is not asked for more tiles, and what stopped it is told. A peer that is not installed is
passed over, and said so. "+ errors" are solves with the uncertainties of all corrections; "match" is all that the
product does with the pairs: records of every tile and pair, errors, loops and seams, on top of the solve.
"""

import argparse
import contextlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge
from levelmatch_core.matching.solvers import solve
from levelmatch_core.matching.uncertainty.component import uncertainties
from levelmatch_core.settings import MatchSettings
from tests.benchmarks.surveys import KINDS, Survey, survey

SETTINGS = MatchSettings(weight_method="error", fit_type_mosaic_tiles="level")
LONGEST = 10
"""CPU seconds of a whole process, preparation included, over those of its solve that patience allows."""
SIZES = (100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


def ours(given: Survey, k: int) -> Callable[[], object]:
    problem = given.problem(k, fixed=0)
    return lambda: solve(problem, SETTINGS).corrections[:, 0]


def our_errors(given: Survey, k: int) -> Callable[[], object]:
    problem = given.problem(k, fixed=0)

    def run() -> object:
        answer = solve(problem, SETTINGS)
        return uncertainties(problem, prior=answer.prior, equations=answer.equations)[0][:, 0]

    return run


def our_records(given: Survey, k: int) -> Callable[[], object]:
    members, fits = given.records()
    options = SETTINGS.model_copy(update={"fit_type_mosaic_tiles": "level" if k == 1 else "level+slope"})
    return lambda: match("mosaic_tiles", "field", members, fits, Gauge.REFERENCE, options)


def montage(given: Survey, k: int) -> Callable[[], object]:
    from MontagePy.main import mBgModel  # noqa: PLC0415 - a peer, not a dependency

    folder = Path(tempfile.mkdtemp(prefix="levelmatch-montage-"))
    corner = given.centres - 50
    lines = ["|  cntr|naxis1|naxis2|        crpix1|        crpix2|   fname|"]
    lines += [f" {i:6d}    100    100 {-x:14.4f} {-y:14.4f} i{i:06d} " for i, (x, y) in enumerate(corner.tolist())]
    (folder / "images.tbl").write_text("\n".join(lines) + "\n")
    names = ("plus", "minus", "a", "b", "c", "crpix1", "crpix2", "xmin", "xmax", "ymin", "ymax", "xcenter", "ycenter")
    names += ("npixel", "rms", "boxx", "boxy", "boxwidth", "boxheight", "boxang")
    lines = ["".join(f"|{name:>16}" for name in names) + "|"]
    for i, j, (x, y, w, h), (level, *_) in zip(
        given.first.tolist(), given.second.tolist(), given.boxes.tolist(), (-given.delta).tolist(), strict=True
    ):
        values = (i, j, 0.0, 0.0, level, 0.0, 0.0, x, x + w, y, y + h, x + w / 2, y + h / 2)
        values += (round(w * h), 1.41, x + w / 2, y + h / 2, w, h, 0.0)
        lines.append("".join(f" {value:16.8g}" for value in values) + " ")
    (folder / "fits.tbl").write_text("\n".join(lines) + "\n")

    def run() -> object:
        names = (str(folder / f"{name}.tbl") for name in ("images", "fits", "corrections"))
        status = mBgModel(*names, noslope=k == 1)
        if status["status"] != "0":
            raise RuntimeError(status["msg"])
        rows = (folder / "corrections.tbl").read_text().splitlines()
        found = {int(row.split()[0]): float(row.split()[3]) for row in rows if not row.startswith("|")}
        return -np.array([found.get(i, 0.0) for i in range(len(given.centres))])

    return run


def reproject(given: Survey, k: int) -> Callable[[], object]:
    from reproject.mosaicking._background import solve_corrections_sgd  # noqa: PLC0415 - a peer, not a dependency

    if k != 1:
        raise NotImplementedError
    n = len(given.centres)
    matrix = np.full((n, n), np.nan)
    matrix[given.second, given.first] = given.delta[:, 0]
    matrix[given.first, given.second] = -given.delta[:, 0]
    return lambda: solve_corrections_sgd(matrix)


def stcal(given: Survey, k: int) -> Callable[[], object]:
    skymatch = import_module("stcal.skymatch.skymatch")
    if k != 1:
        raise NotImplementedError
    n = len(given.centres)
    sky, weight = np.zeros((n, n)), np.zeros((n, n))
    sky[given.second, given.first] = given.delta[:, 0]
    weight[given.second, given.first] = weight[given.first, given.second] = 1.0
    skymatch._overlap_matrix = lambda *_, **__: (sky, weight)
    return lambda: skymatch._find_optimum_sky_deltas(list(range(n)))


WHO = {
    "levels": (ours, 1, None),
    "levels + errors": (our_errors, 1, None),
    "planes": (ours, 3, None),
    "planes + errors": (our_errors, 3, None),
    "match, levels": (our_records, 1, None),
    "match, planes": (our_records, 3, None),
    "MontagePy, levels": (montage, 1, "MontagePy"),
    "MontagePy, planes": (montage, 3, "MontagePy"),
    "reproject, levels": (reproject, 1, "reproject"),
    "stcal, levels": (stcal, 1, "stcal"),
}
COLOURS = {None: "tab:blue", "MontagePy": "tab:orange", "reproject": "tab:green", "stcal": "tab:red"}


def measure(who: str, kind: str, n: int) -> dict[str, float]:
    """Measure one solve in this process."""
    make, k, _ = WHO[who]
    with threadpool_limits(limits=1):
        if make in {ours, our_errors, our_records}:
            make(survey(kind, 900), k)()  # what is compiled at first use
        given = survey(kind, n, slope=0.3 if k == 3 else 0.0)
        work = make(given, k)
        cpu, wall = time.process_time(), time.perf_counter()
        found = work()
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    seam = float("nan")
    if "match" not in who and "errors" not in who:
        levels = np.asarray(found)
        if k == 1:
            left = given.delta[:, 0] - sign_of(levels, given) * (levels[given.second] - levels[given.first])
            seam = float(np.sqrt(np.mean(left**2)))
    return {"tiles": len(given.centres), "pairs": len(given.first), **spent, "memory": peak, "seam": seam}


def sign_of(levels: np.ndarray, given: Survey) -> float:
    """Return -1 where a solver's corrections are to be added."""
    return float(np.sign(np.sum(given.delta[:, 0] * (levels[given.second] - levels[given.first]))) or 1.0)


def ask(who: str, kind: str, n: int, patience: float, memory: float = math.inf) -> dict[str, float] | str:
    """Measure one solve in a process of its own; what stopped it, where it went beyond patience, memory or itself."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.solver", "--one", who, kind, str(n)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        started = subprocess.Popen(command, stdout=out, stderr=told, text=True)
        process, stopped = psutil.Process(started.pid), ""
        while started.poll() is None and not stopped:
            time.sleep(0.1)
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.memory_info().rss > memory * (1 << 30):
                    stopped = f"memory: above {memory:g} GB"
                if sum(process.cpu_times()[:2]) > LONGEST * patience:
                    stopped = f"time: above {LONGEST * patience:.0f} s with its preparation"
        if stopped:
            started.kill()
            started.wait()
            return stopped
        out.seek(0)
        told.seek(0)
        if started.returncode:
            return (told.read().strip().splitlines() or [f"exit code {started.returncode}"])[-1][:80]
        found = dict(json.loads(out.read().splitlines()[-1]))
    return f"memory: above {memory:g} GB" if found["memory"] > memory else found


def draw(figure: Path, rows: dict[str, list[dict[str, float]]], stopped: dict[str, str], kind: str) -> None:
    """Draw cost and memory against tiles; a cross where a solver was stopped, and by what."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only here

    picture = Figure(figsize=(11, 5.6), layout="constrained")
    axes = picture.subplots(1, 2, sharex=True)
    for who, found in rows.items():
        if not found:
            continue
        dashed = "planes" in who
        style = {
            "color": "black" if "match" in who else COLOURS[WHO[who][2]],
            "linestyle": "--" if dashed else "-",
            "marker": "o" if "errors" not in who else "^",
            "markerfacecolor": "white" if dashed else None,
            "markersize": 5,
            "linewidth": 1.3,
        }
        tiles = [row["tiles"] for row in found]
        reason = stopped.get(who, "")
        label = who if WHO[who][2] else f"levelmatch, {who}"
        for one, name in zip(axes, ("cpu", "memory"), strict=True):
            values = [max(row[name], 1e-4) for row in found]
            one.loglog(tiles, values, label=label, **style)
            if reason:
                one.loglog(tiles[-1:], values[-1:], "x", color=style["color"], ms=11, mew=2)
        if reason:
            axes[0].annotate(
                f" {reason.split(':')[0]}",
                (tiles[-1], max(found[-1]["cpu"], 1e-4)),
                color=style["color"],
                fontsize="small",
                ha="left",
                va="center",
                xytext=(5, 0),
                textcoords="offset points",
            )
    axes[0].set(xlabel="tiles", ylabel="CPU time of the solve [s]", title=f"simulated survey: {kind}")
    axes[1].set(
        xlabel="tiles", ylabel="peak memory of the process [GB]", title="crosses: stopped there by time or memory"
    )
    for one in axes:
        one.grid(alpha=0.3, which="major")
        one.set_xlim(60, 2.5e6)
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    picture.savefig(figure, dpi=130)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="scans")
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--who", nargs="*", choices=list(WHO), default=list(WHO))
    parser.add_argument("--patience", type=float, default=60.0, help="CPU seconds")
    parser.add_argument("--memory", type=float, default=8.0, help="GB")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--one", nargs=3)
    asked = parser.parse_args()
    if asked.one:
        who, kind, n = asked.one
        print(json.dumps(measure(who, kind, int(n))))
        return
    rows: dict[str, list[dict[str, float]]] = {who: [] for who in asked.who}
    stopped: dict[str, str] = {}
    print(f"{'solver':<20}{'tiles':>9}{'pairs':>9}{'CPU s':>9}{'wall s':>9}{'memory GB':>11}{'seam':>9}")
    for who in asked.who:
        needs = WHO[who][2]
        if needs is not None and find_spec(needs) is None:
            print(f"{who:<20} is not installed: passed over")
            continue
        for n in (size for size in SIZES if size <= asked.most):
            found = ask(who, asked.kind, n, asked.patience, asked.memory)
            if isinstance(found, str):
                stopped[who] = found
                print(f"{who:<20}{n:>9} stopped by {found}", flush=True)
                break
            rows[who].append(found)
            print(
                f"{who:<20}{found['tiles']:>9}{found['pairs']:>9}{found['cpu']:>9.3f}{found['wall']:>9.2f}"
                f"{found['memory']:>11.2f}{found['seam']:>9.4f}",
                flush=True,
            )
            if found["cpu"] > asked.patience and n < asked.most:
                stopped[who] = f"time: above {asked.patience:g} s"
                print(f"{who:<20}{'':>9} stopped by {stopped[who]}", flush=True)
                break
    if asked.figure is not None:
        draw(asked.figure, rows, stopped, asked.kind)


if __name__ == "__main__":
    main()
