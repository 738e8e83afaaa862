"""The output folder: its files are always complete, and only one run writes to it at a time."""
