"""Imported before Prefect and MLflow, for its effect: both read their environment when they are imported."""

import logging
import os

from flows.home import LOGGERS, prepare_environment
from levelmatch_core.log_context import put_in_front


class TaskRunLines(logging.Filter):
    """Lets Prefect's own lines on a task run, such as that it will be retried, name its tile and stage, too.

    That a task run has ended is told by its state: a line each would bury the others, and is for debugging.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the task run's name and step in front, and drop the line on its end unless debug lines are wanted."""
        ended = record.getMessage().startswith(("Finished in state Completed", "Finished in state Cached"))
        if ended and logging.getLogger(LOGGERS[0]).getEffectiveLevel() > logging.DEBUG:
            return False
        name, step = getattr(record, "task_run_name", None), getattr(record, "task_name", None)
        if name and step:
            put_in_front(record, name, step)
        return True


prepare_environment()
for _name in LOGGERS:  # Prefect hands these on to the run's log, at the level that they have
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(os.environ.get("PREFECT_LOGGING_LEVEL", "INFO").upper())
logging.getLogger("prefect.task_runs").addFilter(TaskRunLines())
