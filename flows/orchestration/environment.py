"""Sets the environment; to be imported before Prefect and MLflow, which read it when they are imported."""

import logging
import os

from flows.home import LOGGERS, prepare_environment
from flows.orchestration.log_lines import TaskRunLines

prepare_environment()
for _name in LOGGERS:  # Prefect passes these on to the run's log, at their level
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(os.environ.get("PREFECT_LOGGING_LEVEL", "INFO").upper())
logging.getLogger("prefect.task_runs").addFilter(TaskRunLines())
