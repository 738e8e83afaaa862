"""Imported before Prefect and MLflow, for its effect: both read their environment when they are imported."""

from flows.home import prepare_environment

prepare_environment()
