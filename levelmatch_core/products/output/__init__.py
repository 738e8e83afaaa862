"""The output folder: its files appear whole, one run at a time writes it."""
