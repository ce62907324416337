"""Drive the dashboard in Chromium: shared by the browser tests and by ``docs.screenshots``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = {"1440": (1440, 900), "390": (390, 844)}
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Return the path of a Chromium on this machine, or that in DKD_CHROMIUM; None if there is none."""
    named = os.environ.get("DKD_CHROMIUM")
    paths = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return named or next((path for path in paths if path), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a headless Chromium.

    Raises:
        RuntimeError: No Chromium is installed.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise RuntimeError("no Chromium found; install it (Debian: apt install chromium) or set DKD_CHROMIUM")
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield running
        finally:
            running.close()


def wait_until_drawn(page: Page, *, charts: int = 0, timeout: float = 60.0) -> None:
    """Wait until the page's script has ended, no element is a skeleton, and this number of charts have traces.

    Args:
        charts: Least number of charts with traces.
        timeout: In seconds.
    """
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=timeout * 1000)
    page.wait_for_selector("h1", timeout=timeout * 1000)
    page.wait_for_function(
        """charts => !document.querySelector('[data-testid="stSkeleton"]')
            && [...document.querySelectorAll('[data-testid="stBidiComponentRegular"]')].every(
                place => !place.offsetParent || place.querySelector('.dkd-chart:not(:empty)'))
            && document.querySelectorAll('.js-plotly-plot .main-svg .trace').length >= charts""",
        arg=charts,
        timeout=timeout * 1000,
    )
    page.wait_for_timeout(600)  # transitions of Plotly and Streamlit


def error_texts(page: Page) -> list[str]:
    """Return the texts of error boxes and stack traces on the page."""
    boxes = page.locator('[data-testid="stException"], [data-testid="stAlertContentError"]')
    return [boxes.nth(index).inner_text() for index in range(boxes.count())]


def save_screenshot(page: Page, path: Path, *, most: int = 6000) -> None:
    """Save a picture of the whole page. Streamlit scrolls inside an element, so the window is first made high enough.

    Args:
        most: Largest height in px.
    """
    size = page.viewport_size or {"width": 1440, "height": 900}
    height = page.evaluate(
        """() => Math.max(...[...document.querySelectorAll('[data-testid="stMain"]')].map(item => item.scrollHeight))"""
    )
    if height > size["height"]:
        page.set_viewport_size({"width": size["width"], "height": min(int(height), most)})
        page.wait_for_timeout(500)
    page.screenshot(path=path)
    page.set_viewport_size(size)
