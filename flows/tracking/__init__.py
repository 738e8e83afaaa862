"""MLflow: what a run records, and how runs compare."""
