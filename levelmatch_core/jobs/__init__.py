"""Pieces of work: what a job is, those of the science, and those that write what it found."""
