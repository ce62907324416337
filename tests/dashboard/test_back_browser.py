"""After Back and after a reload, a page is where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import browser, recorded_lab
from tests.dashboard.recorded import chromium, dashboard, lab, page, window
from tests.dashboard.stand import Stand

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["chromium", "dashboard", "lab", "page", "window"]

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]

_TOP = "() => document.querySelector('[data-testid=\"stMain\"]').scrollTop"


def scroll(page: Page, pixels: int) -> float:
    """Scroll as a person does; return where the page is then."""
    page.mouse.move(700, 500)
    page.mouse.wheel(0, pixels)
    page.wait_for_function(f"least => ({_TOP})() >= least", arg=pixels / 2)
    page.wait_for_timeout(300)  # until it stands still
    top: float = page.evaluate(_TOP)
    return top


@pytest.mark.parametrize("how", ["back", "reload"])
def test_page_returns_to_where_it_was(page: Page, lab: Stand, how: str) -> None:
    experiment = lab.client.experiment(recorded_lab.METHODS)
    page.goto(f"/compare?experiment={experiment.id}")
    browser.wait_until_drawn(page, charts=4)
    top = scroll(page, 700)
    if how == "reload":
        page.reload()
    else:
        # A link within the dashboard: Streamlit changes the page without loading it.
        page.get_by_role("link", name="Workers").first.click()
        page.wait_for_selector("h1:has-text('Workers')")
        browser.wait_until_drawn(page)
        page.go_back()
        page.wait_for_selector("h1:has-text('Compare')")
    browser.wait_until_drawn(page, charts=4)
    page.wait_for_function(f"top => Math.abs(({_TOP})() - top) <= 2", arg=top, timeout=25_000)
