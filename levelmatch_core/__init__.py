"""Numerics and files of levelmatch: plain Python that knows neither the workflow engine nor the tracker."""
