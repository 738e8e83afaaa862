"""Handling of files in general: regular files, durable writing, permissions, and tables as text."""
