"""The record of a run that Python code made, without a flow: kept for `levelmatch log`, and sent where asked."""

import time
from uuid import uuid4

from flows.home import prepare_environment
from flows.summary import FlowFacts, summarize
from flows.tracking.outbox import keep
from levelmatch_core.pipeline import RunResult, peak_memory
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.output.folder import note_in_log

logger = logger_of(__name__)


def record(result: RunResult, send: bool) -> None:
    """Keep the record of a run in LEVELMATCH_HOME, and send it to MLflow where asked.

    Parameters
    ----------
    result
        The run.
    send
        Whether to send it now. If the store is unreachable, a warning tells so.
    """
    home = prepare_environment(quiet=True)
    request = result.request
    name = " ".join(filter(None, (request.program, request.settings.band)))
    facts = FlowFacts(flow_run_id=f"none-{uuid4()}", name=name, started=time.time() - result.seconds)
    summary = summarize(result, peak_memory=peak_memory())
    if not send:
        if result.changed:
            keep(home, result, summary, facts)
        return
    from flows.tracking.tracker import Tracker  # noqa: PLC0415 - MLflow takes seconds to import

    tracking = Tracker(home).log(result, summary, facts)
    if tracking.lost:
        logger.warning("%s", tracking.lost)
    elif result.changed:
        note_in_log(request.output, {"mlflow_run": tracking.run_id})
