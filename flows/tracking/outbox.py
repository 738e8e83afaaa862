"""The content of the MLflow records of runs, kept in LEVELMATCH_HOME as one small file per output folder."""

import gzip
import hashlib
from pathlib import Path

from pydantic import ValidationError

from flows.home import Home
from flows.summary import FlowFacts, Summary
from levelmatch_core.errors import NoRoomError, UsageError
from levelmatch_core.files.writing import replacing
from levelmatch_core.images.exposure import Inventory
from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.pipeline import Request, RunResult
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.corrected.undo import finished_record
from levelmatch_core.products.output.folder import RUN
from levelmatch_core.products.runrecord import RunRecord, json_bytes
from levelmatch_core.records import Record

logger = logger_of(__name__)


class KeptRun(Record):
    """The content of the MLflow record of a run."""

    request: Request
    inventory: Inventory
    matches: tuple[FieldMatch, ...]
    record: RunRecord
    seconds: float
    summary: Summary
    facts: FlowFacts

    @property
    def result(self) -> RunResult:
        """The original result of the run."""
        return RunResult(self.request, self.inventory, self.matches, self.record, changed=True, seconds=self.seconds)


def keep(home: Home, result: RunResult, summary: Summary, facts: FlowFacts) -> None:
    """Store the content of the record of a run; if this fails, only a warning is logged."""
    kept = KeptRun(
        request=result.request,
        inventory=result.inventory,
        matches=result.matches,
        record=result.record,
        seconds=result.seconds,
        summary=summary,
        facts=facts,
    )
    place = record_path(home, result.request.output)
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        with replacing(place) as temporary:
            temporary.write_bytes(gzip.compress(json_bytes(kept.to_json()), compresslevel=4, mtime=0))
    except (OSError, NoRoomError) as error:
        logger.warning("the record of this run was not kept (%s): `levelmatch log` cannot send it later", error)


def record_path(home: Home, output: Path) -> Path:
    """Return the path of the stored record of the last run of an output."""
    return home.root / "records" / f"{output_id(output)}.json.gz"


def output_id(output: Path) -> str:
    """Return the digest that identifies an output folder; unlike a path, it can be used in a filter."""
    return hashlib.sha256(str(output.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def kept_run(home: Home, folder: Path) -> KeptRun:
    """Return the stored record of the run that made an output.

    Raises
    ------
    UsageError
        If the folder is not a finished output, or if there is no stored record, or that of another run.
    """
    record = finished_record(folder)
    place = record_path(home, folder)
    again = "run it again with the same settings: no work is repeated, and the record is sent"
    try:
        kept = KeptRun.model_validate_json(gzip.decompress(place.read_bytes()))
    except (OSError, EOFError, ValueError, ValidationError) as error:
        why = "contains no record of" if isinstance(error, FileNotFoundError) else "contains a damaged record of"
        message = f"LEVELMATCH_HOME {home.root} {why} the run that made {folder}; {again}"
        raise UsageError(message) from error
    if kept.record != record:
        message = f"{folder / RUN}: not of the run whose record is in LEVELMATCH_HOME {home.root}; {again}"
        raise UsageError(message)
    return kept
