"""Prefect: task runs, servers, logs, and observing programs."""
