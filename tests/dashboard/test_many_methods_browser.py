"""The figure of 30 methods in Chromium: highlight, hidden methods and families, download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import browser
from tests.dashboard.fakes import FakeServer
from tests.dashboard.many_methods import LABELS, many_methods
from tests.dashboard.streamlit_server import streamlit_server
from tests.dashboard.test_browser import SECONDS, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["chromium"]

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]

VISIBLE = """() => [...document.querySelectorAll('.js-plotly-plot .scatterlayer .trace')]
    .filter(group => group.__data__[0].trace.meta?.method && Number(group.style.opacity) > 0.5)
    .map(group => group.__data__[0].trace.meta.method)"""
"""Returns the methods of the curves and bands that can be seen."""


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dashboard")
    with many_methods() as backend, FakeServer(backend) as server, streamlit_server(server.url, folder) as url:
        yield url


@pytest.fixture
def page(chromium: Browser, dashboard: str) -> Iterator[Page]:
    context = chromium.new_context(base_url=dashboard, viewport={"width": 1440, "height": 1500})
    context.set_default_timeout(30 * SECONDS)
    opened = context.new_page()
    opened.goto("/compare?experiment=exp-0001")
    browser.wait_until_drawn(opened, charts=60)
    opened.locator(".dkd-legend").first.wait_for()
    yield opened
    context.close()


def wait_for_visible(page: Page, methods: list[str]) -> None:
    """Wait until exactly these curves and bands can be seen."""
    page.wait_for_function(
        f"expected => JSON.stringify(({VISIBLE})().sort()) === JSON.stringify(expected)", arg=methods
    )


def test_the_pointer_on_a_name_shows_one_method_with_its_band(page: Page) -> None:
    wait_for_visible(page, sorted(LABELS))  # the curves, without bands
    page.locator('.dkd-legend [data-method="fitnet"]').hover()
    wait_for_visible(page, ["fitnet", "fitnet"])
    page.get_by_role("heading", name="Compare").hover()
    wait_for_visible(page, sorted(LABELS))


def test_the_pointer_on_a_curve_highlights_its_name(page: Page) -> None:
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.3, steps=3)
    page.locator(".dkd-legend .dkd-current").wait_for()
    assert len(set(page.evaluate(VISIBLE))) == 1


def test_a_click_hides_a_method_and_a_family(page: Page) -> None:
    page.locator('.dkd-legend [data-method="crd"]').click()
    page.get_by_role("heading", name="Compare").hover()
    wait_for_visible(page, sorted(set(LABELS) - {"crd"}))
    page.locator(".dkd-legend .dkd-family", has_text="Relations").click()
    page.get_by_role("heading", name="Compare").hover()
    rest = sorted(set(LABELS) - {"crd", "sp", "rkd", "pkt", "cc"})
    wait_for_visible(page, rest)
    page.locator(".dkd-legend .dkd-family", has_text="Relations").click()
    page.get_by_role("heading", name="Compare").hover()
    wait_for_visible(page, sorted(set(LABELS) - {"crd"}))


def test_a_downloaded_figure_has_the_families_in_its_legend(page: Page) -> None:
    page.locator(".js-plotly-plot").first.hover()
    with page.expect_download() as download:
        page.locator('[data-title="Download as SVG"]').first.click()
    text = download.value.path().read_text(encoding="utf-8")
    assert all(f">{name}<" in text for name in (*LABELS, "Features", "Several networks"))


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("layout", ["one figure", "a figure per family"])
def test_no_layout_scrolls_horizontally(page: Page, width: int, layout: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"/compare?experiment=exp-0001&layout={layout}")
    browser.wait_until_drawn(page, charts=8)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert browser.error_texts(page) == []
