"""Prefect: tasks, servers, logs, programs."""
