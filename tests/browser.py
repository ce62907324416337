"""Drive the dashboard in Chromium: shared by the browser tests and by ``docs.screenshots``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

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


NEEDS_CHROMIUM = pytest.mark.skipif(
    chromium() is None, reason="needs Chromium; install it (Debian: apt install chromium) or set DKD_CHROMIUM"
)


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


_IDLE = """document.querySelector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    && !document.querySelector('[data-testid="stSkeleton"], [data-stale="true"]')"""


def wait_until_idle(page: Page, *, timeout: float = 60.0) -> None:
    """Wait until the page's script has ended and no element is a skeleton or stale.

    Args:
        timeout: In seconds.
    """
    page.wait_for_function(f"() => {_IDLE}", timeout=timeout * 1000)


def wait_until_drawn(page: Page, *, charts: int = 0, rest: float = 0.6, timeout: float = 60.0) -> None:
    """Wait until the page's script has ended, no element is a skeleton, and this number of charts have traces.

    Args:
        charts: Least number of charts with traces.
        rest: Seconds for transitions of Plotly and Streamlit, for whoever points at what moves.
        timeout: In seconds.
    """
    page.wait_for_selector('[data-testid="stApp"] h1', timeout=timeout * 1000)
    page.wait_for_function(
        f"""charts => {_IDLE}
            && [...document.querySelectorAll('[data-testid="stBidiComponentRegular"]')].every(
                place => !place.offsetParent || place.querySelector('.dkd-chart:not(:empty)'))
            && document.querySelectorAll('.js-plotly-plot .main-svg .trace').length >= charts""",
        arg=charts,
        timeout=timeout * 1000,
    )
    page.wait_for_timeout(rest * 1000)


def set_colour_scheme(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Let the system prefer a colour scheme, and wait until the page has it and its script is idle again."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        """scheme => getComputedStyle(document.querySelector('[data-testid="stApp"]')).colorScheme === scheme""",
        arg=scheme,
    )
    page.wait_for_timeout(100)  # components draw themselves again, and some let the script run
    wait_until_idle(page)


def error_texts(page: Page) -> list[str]:
    """Return the texts of error boxes and stack traces on the page."""
    boxes = page.locator('[data-testid="stException"], [data-testid="stAlertContentError"]')
    return [boxes.nth(index).inner_text() for index in range(boxes.count())]


# A transition has colours of its own, and while its script runs, Streamlit dims what it has not drawn again yet. Axe
# works for a second, in which a live page runs its script at any time: waiting does not keep the dimmed elements out.
# All that Streamlit 1.67 dims: elements, labels of expanders (of the second kind, which cannot be opened, the only
# child), the list of tabs and each tab. Only elements have ``data-stale``.
_STILL = """
* { transition: none !important; animation: none !important; }
[data-testid="stElementContainer"][data-stale="true"],
[data-testid="stExpander"] > details > summary,
[data-testid="stExpander"] > div,
[data-testid="stTabs"] [role="tablist"],
[data-testid="stTab"]:not([data-disabled]) { opacity: 1 !important; }
"""


def serious_findings(page: Page) -> list[str]:
    """Return what axe finds to be a serious or critical obstacle on the page, with its rule and element."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(
        """css => {
            if (document.dkdStill) return;
            document.dkdStill = new CSSStyleSheet();
            document.dkdStill.replaceSync(css);
            document.adoptedStyleSheets = [...document.adoptedStyleSheets, document.dkdStill];
        }""",
        _STILL,
    )
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {' '.join(node['target'])} {node['html'][:160]}: {_reason(node)}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def _reason(node: dict[str, Any]) -> str:
    checks = [*node.get("any", ()), *node.get("all", ()), *node.get("none", ())]
    return "; ".join(check["message"] for check in checks)


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
