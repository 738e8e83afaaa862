"""Solvers of the level problem, and the uncertainties of what they give."""
