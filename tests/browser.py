"""Drive the dashboard in Chromium: shared by the browser tests and by whoever needs pictures of the pages.

``python -m tests.browser http://127.0.0.1:8501 docs/images`` takes every page at 1440 and at 390 px width, light and
dark, each only after its charts and tables have been drawn.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

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
    """Path of a Chromium on this machine; DKD_CHROMIUM names another."""
    named = os.environ.get("DKD_CHROMIUM")
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return named or next((path for path in found if path), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium. Raises RuntimeError where none is found."""
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


def drawn(page: Page, *, charts: int = 0, timeout: float = 60.0) -> None:
    """Wait until the page's script has run through, nothing is a skeleton, and so many charts have traces.

    Args:
        timeout: seconds.
    """
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=timeout * 1000)
    page.wait_for_selector("h1", timeout=timeout * 1000)
    page.wait_for_function(
        """charts => !document.querySelector('[data-testid="stSkeleton"]')
            && document.querySelectorAll('.js-plotly-plot .main-svg .trace').length >= charts""",
        arg=charts,
        timeout=timeout * 1000,
    )
    page.wait_for_timeout(600)  # Plotly's and Streamlit's transitions


def trouble(page: Page) -> list[str]:
    """Texts of error boxes and stack traces on the page."""
    boxes = page.locator('[data-testid="stException"], [data-testid="stAlertContentError"]')
    return [boxes.nth(index).inner_text() for index in range(boxes.count())]


def shoot(page: Page, path: Path, *, full: bool = True) -> None:
    """A picture of the whole page. Streamlit scrolls inside a frame of its own, so the window is made as high first."""
    size = page.viewport_size or {"width": 1440, "height": 900}
    height = page.evaluate(
        """() => Math.max(...[...document.querySelectorAll('[data-testid="stMain"]')].map(item => item.scrollHeight))"""
    )
    if full and height > size["height"]:
        page.set_viewport_size({"width": size["width"], "height": min(int(height), 6000)})
        page.wait_for_timeout(500)
    page.screenshot(path=path)
    page.set_viewport_size(size)


def pages(page: Page, url: str) -> dict[str, tuple[str, int]]:
    """Address and least number of traces of each page, its examples taken from what the dashboard lists."""
    page.goto(f"{url}/compare")
    drawn(page)
    experiment = page.evaluate("() => new URLSearchParams(location.search).get('experiment')")
    page.goto(f"{url}/run")
    drawn(page)
    links = page.locator('[data-testid="stPageLink"] a[href*="id="]')
    hrefs = [links.nth(index).get_attribute("href") or "" for index in range(links.count())]
    texts = [links.nth(index).inner_text() for index in range(links.count())]
    best = next((at for at, text in enumerate(texts) if "running" in text), None)
    if best is None:
        best = next((at for at, text in enumerate(texts) if "succeeded" in text), 0)
    run = hrefs[best].partition("?")[2] if hrefs else ""
    return {
        "new": ("new", 0),
        "runs": ("runs", 0),
        "run": (f"run?{run}", 1),
        "compare": (f"compare?experiment={quote(experiment or '')}", 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--dark", action="store_true", help="dark mode only; else light")
    parser.add_argument("--only", nargs="*", help="names of pages")
    parser.add_argument("--experiment", help="id or name, for the Compare page")
    parser.add_argument("--run", help="id, for the Run page")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    url = given.url.rstrip("/")
    scheme = "dark" if given.dark else "light"
    with browser() as running:
        for width, (wide, high) in WIDTHS.items():
            context = running.new_context(
                viewport={"width": wide, "height": high}, color_scheme=scheme, device_scale_factor=1
            )
            page = context.new_page()
            listed = pages(page, url)
            if given.experiment:
                listed["compare"] = (f"compare?experiment={quote(given.experiment)}", 1)
            if given.run:
                listed["run"] = (f"run?id={quote(given.run)}", 1)
            for name, (address, charts) in listed.items():
                if given.only and name not in given.only:
                    continue
                page.goto(f"{url}/{address}")
                drawn(page, charts=charts)
                if name == "new":
                    page.get_by_role("button", name="Digits demo").click()
                    page.get_by_text("This makes").wait_for()
                    drawn(page)
                mode = "-dark" if given.dark else ""
                shoot(page, given.out / f"{given.prefix}{name}-{width}{mode}.png")
            context.close()


if __name__ == "__main__":
    main()
