"""What makes MLflow runs comparable: names, the order of metrics, inputs as a dataset, tables as CSV."""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from astropy.io import fits
from mlflow.entities import Dataset, DatasetInput, InputTag
from numpy.typing import NDArray

from flows.home import Home
from flows.secrets import without_secrets
from flows.summary import FlowFacts
from levelmatch_core.files.ecsv import FAULTS, read_ecsv
from levelmatch_core.jobs.products import mosaic_name
from levelmatch_core.pipeline import Request, RunResult
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.records import content_key

logger = logger_of(__name__)

LOCAL_UI = "http://127.0.0.1:5000"
"""Address at which `mlflow ui` shows a local store, if none was started."""

PAGES_VARIABLE = "LEVELMATCH_MLFLOW_PAGES"

FIRST = (
    "seam_rms_left_out",
    "residual_in_sigmas",
    "residual_rms_after",
    "grade",
    "pairs_used",
    "loop_scatter",
    "gain_in_sigmas",
    "pull_largest",
)
"""Metrics that tell runs of a program apart: logged first, since MLflow's page of comparison opens on the first one."""

_LAST = re.compile(r"^(exposures|fields|components|failures|duration_|peak_memory|coverage|pairs$|loops$|convergence)")
"""Metrics that are the same for all settings, or not about the result: logged last."""

PAGES = "workflowType=machine_learning"
"""Part of an address that makes MLflow open its pages on runs instead of those on language models."""

COLUMNS = (
    *(f"metrics.`{name}`" for name in ("grade", *FIRST[:3], "pairs_used")),
    *(f"params.`{name}`" for name in ("weight_method", "do_sigma_clip", "rms_sig_limit", "fit_type_mosaic_tiles")),
    "tags.`levelmatch.unit`",
)
"""Columns of MLflow's table of runs, as its pages name them."""

_VIEW = "levelmatch"

_STRIP = 1 << 22
"""Pixels of a mosaic that are counted at a time."""

_ADDRESS = re.compile(r"http://127\.0\.0\.1:[0-9]{1,5}")


def ordered(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics with those first that tell runs apart, and those last that rarely differ."""

    def place(name: str) -> tuple[int, int]:
        if name in FIRST:
            return 0, FIRST.index(name)
        return (2 if _LAST.match(name) else 1), 0

    return {name: metrics[name] for name in sorted(metrics, key=place)}


def view_of_runs() -> dict[str, str]:
    """Return the tag by which MLflow's pages know a shared view of an experiment: its runs with :data:`COLUMNS`."""
    return {f"mlflow.sharedViewState.{_VIEW}": json.dumps({"selectedColumns": COLUMNS})}


def table_of_runs(experiment: str) -> str:
    """Return where that view is, from the address of MLflow's pages on."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={_VIEW}&{PAGES}"


def run_name(program: str, band: str | None, facts: FlowFacts) -> str:
    """Return the name of a run: program, band and time; the combination of a sweep comes before them."""
    plain = " ".join(filter(None, (program, band)))
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(facts.started))
    return f"{plain} {when}" if facts.name == plain else f"{facts.name}, {plain} {when}"


def dataset(result: RunResult) -> DatasetInput:
    """Return the inputs of a run as MLflow's dataset: their name, a digest of all contents, and their number."""
    record, request = result.record, result.request
    digest = content_key([[one.file, one.sha256] for one in record.inputs])
    profile = {"files": len(record.inputs), "exposures": sum(record.counts.values())}
    return DatasetInput(
        Dataset(
            name=" ".join(filter(None, (request.program, request.settings.band)))[:500],
            digest=digest[:36],
            source_type="local",
            source=json.dumps({"inputs": _shown_inputs(request)}),
            profile=json.dumps(profile),
        ),
        [InputTag("mlflow.data.context", "matching")],
    )


def _shown_inputs(request: Request) -> list[str]:
    shown = [str(path) for path in request.inputs[:20]]
    return [*shown, *([f"and {len(request.inputs) - 20} more"] if request.inputs[20:] else [])]


def write_csv(folder: Path, scratch: Path) -> None:
    """Write the tables of an output as CSV, which MLflow's pages show; one that was damaged since is left out."""
    for name in ("pairs.ecsv", "corrections.ecsv"):
        try:
            read_ecsv(folder / name).write(scratch / Path(name).with_suffix(".csv").name, format="ascii.csv")
        except FAULTS as error:
            logger.warning("%s: no table any more (%s): it is not in MLflow as CSV", folder / name, error)


def coverage_of(result: RunResult) -> dict[str, float]:
    """Return how often the pixels of the mosaics were seen: their mean number of exposures, and the share seen once."""
    made = {file.name for file in result.record.files}
    seen = exposures = once = 0
    for match in result.matches:
        name = mosaic_name(match.field.name)
        if name not in made:
            continue
        try:
            with fits.open(result.request.output / name, memmap=True) as hdus:
                counts = _numbers_in(hdus["COVERAGE"].data)
        except FAULTS as error:
            logger.warning("%s: no mosaic any more (%s): MLflow lacks its coverage", name, error)
            return {}
        seen += int(counts[1:].sum())
        exposures += int(counts @ np.arange(len(counts)))
        once += int(counts[1:2].sum())
    return {"coverage_mean": exposures / seen, "coverage_once": once / seen} if seen else {}


def _numbers_in(coverage: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return how many pixels have 0, 1, ... exposures; a mosaic may be larger than memory."""
    counts = np.zeros(1, np.int64)
    rows = max(1, _STRIP // max(1, coverage.shape[1]))
    for row in range(0, len(coverage), rows):
        found = np.bincount(coverage[row : row + rows].astype(np.int64).reshape(-1), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts


def pages_of(home: Home, uri: str) -> str:
    """Return the address at which a browser finds MLflow's pages.

    That is what `LEVELMATCH_MLFLOW_PAGES` says, such as behind a proxy or in containers, whose servers have names of
    their own; else the address of the server `uri`, without secrets; for a local store, where `levelmatch ui` started
    the pages last.
    """
    named = os.environ.get(PAGES_VARIABLE)
    if named:
        return named.rstrip("/")
    if urlsplit(uri).scheme in {"http", "https"}:
        return without_secrets(uri).rstrip("/")
    try:
        address = home.mlflow_pages.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return LOCAL_UI
    return address if _ADDRESS.fullmatch(address) else LOCAL_UI
