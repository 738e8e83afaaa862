"""Handling of files in general: regular files, writing, locks, sealed texts, and tables as text."""
