"""Skies as they are: crowds, nebulae, PSFs that differ, cosmic rays: `python -m tests.benchmarks.scenes`."""
