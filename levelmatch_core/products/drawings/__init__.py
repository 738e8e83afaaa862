"""Vector drawings of a match, each drawn once: in the report, as files among the figures, and in MLflow's record."""
