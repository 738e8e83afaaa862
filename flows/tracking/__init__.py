"""MLflow: the record of a run, and the comparison of runs."""
