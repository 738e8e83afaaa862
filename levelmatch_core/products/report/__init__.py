"""report.html: all of a run in one page that needs nothing else: no network, no other file."""

REPORT = "report.html"
"""Name of the report in the output folder."""
