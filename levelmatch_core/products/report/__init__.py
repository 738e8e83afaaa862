"""report.html: all of a run in one page that needs nothing else: no network, no other file."""

from levelmatch_core.products.report.page import choose_thumbnails, write_report

__all__ = ["REPORT", "choose_thumbnails", "write_report"]

REPORT = "report.html"
"""Name of the report in the output folder."""
