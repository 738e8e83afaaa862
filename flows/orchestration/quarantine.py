"""The final state of a flow run that finished without some of its tiles or combinations.

Prefect resolves the data of a failed state into an exception, which it raises at the end of the process of a deployed
run. This one says that nothing unexpected happened, and carries the summary; its traceback would only mislead.
"""

import logging
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.orchestration.log_lines import FlowRunLines
from levelmatch_core.errors import LevelMatchError

QUARANTINED = "Quarantined"
"""Name of the failed state of a flow run that finished without some of the tiles."""

REMEDY = "mend, replace or remove it, and press Retry: only this and what depends on it is done again"


class QuarantinedError(LevelMatchError):
    """A flow run finished without some of its tiles or combinations.

    Parameters
    ----------
    message
        What was left out, why, and what to do.
    summary
        The summary of the run, plain JSON.
    """

    def __init__(self, message: str, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary


def quarantined(message: str, summary: dict[str, Any]) -> State[Any]:
    """Return the final state; the summary is for the process of the flow run only."""
    return Failed(name=QUARANTINED, message=message, data=QuarantinedError(message, summary))


def content_of(state: State[Any]) -> Any:  # noqa: ANN401 - a summary, plain JSON, or an error
    """Return the summary with which a flow run ended, or the error."""
    content: Any = state.result(raise_on_failure=False)
    return content.summary if isinstance(content, QuarantinedError) and content.summary is not None else content


for _name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(FlowRunLines(QuarantinedError))
