"""A real browser for the tests that look at pages, or the reason why there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Give a headless Chromium, as playwright has it; the test skips where one of both is missing."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium: install Debian's package")
    engine = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'levelmatch[browser]'")
    with engine.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield opened
        finally:
            opened.close()
