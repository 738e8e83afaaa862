"""Sets the environment; to be imported before Prefect and MLflow, which read it when they are imported."""

import logging
import os

from flows.home import LOGGERS, prepare_environment
from levelmatch_core.errors import LevelMatchError
from levelmatch_core.process.log_context import make_plain, put_in_front


class TaskRunLines(logging.Filter):
    """Adds tile and stage to Prefect's own log lines on a task run, such as on a retry.

    The end of a task run is shown by its state; lines on it would hide the others, and are kept for debugging only. So
    are the tracebacks of errors of data and disks, whose messages say it all.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Prepend the name and step of the task run, and drop the line on its end unless debug lines are requested."""
        debugging = logging.getLogger(LOGGERS[0]).getEffectiveLevel() <= logging.DEBUG
        if (
            record.getMessage().startswith(("Finished in state Completed", "Finished in state Cached"))
            and not debugging
        ):
            return False
        expected = record.exc_info and isinstance(record.exc_info[1], LevelMatchError | OSError)
        if expected and record.getMessage().startswith("Task run failed") and not debugging:
            record.exc_info = None
        name, step = getattr(record, "task_run_name", None), getattr(record, "task_name", None)
        if name and step:
            stage, _, tile = name.partition(": ")
            put_in_front(record, tile or name, stage.replace(",", "") if tile else step)
        make_plain(record)
        return True


prepare_environment()
for _name in LOGGERS:  # Prefect passes these on to the run's log, at their level
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(os.environ.get("PREFECT_LOGGING_LEVEL", "INFO").upper())
logging.getLogger("prefect.task_runs").addFilter(TaskRunLines())
