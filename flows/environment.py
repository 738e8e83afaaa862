"""Imported before Prefect and MLflow, for its effect: both read their environment when they are imported."""

import logging

from flows.home import prepare_environment

LOGGERS = ("levelmatch_core", "flows")

prepare_environment()
for _name in LOGGERS:  # Prefect hands these on to the run's log, at the level that they have
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.INFO)
