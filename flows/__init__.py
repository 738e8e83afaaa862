"""Prefect and MLflow: thin tasks over the core, and the command line."""
