"""Corrected exposures: written, verified, taken back, repeated."""
