"""The databases of a new home."""
