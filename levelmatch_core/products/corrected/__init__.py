"""Corrected exposures: writing, verifying and undoing them, and applying a known solution to other files."""
