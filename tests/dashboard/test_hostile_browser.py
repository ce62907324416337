"""In Chromium no text from users or workers becomes a picture, a link, a colour or a script, on any page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests import browser
from tests.dashboard.fakes import FakeServer
from tests.dashboard.hostile import SHORT, TEXT, hostile_server
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    browser.NEEDS_CHROMIUM,
]
_TEXT = quote(TEXT)
_SHORT = quote(SHORT)
# Whether the hostile text must be in the HTML: some pages draw it into a canvas, or show none of it.
_SHOWN = {
    "": True,
    "runs": False,
    "runs?view=Experiments": False,
    f"runs?text={_TEXT}&experiment={_TEXT}&tag={_TEXT}&teacher={_TEXT}&cursor={_TEXT}": False,
    "new": True,
    "new?clone=exp-0001": True,
    f"new?clone={_TEXT}": False,
    f"new?clone={_SHORT}": False,
    f"new?example={_SHORT}": False,
    f"new?teacher={_SHORT}": False,
    "run": True,
    f"run?id={_TEXT}": False,
    "experiment": True,
    "experiment?id=exp-0001": True,
    "experiment?id=exp-0001&section=Lineage": True,
    "experiment?id=exp-0001&section=Spec": True,
    f"experiment?id=exp-0001&section=Differences&other={_SHORT}": True,
    f"experiment?id={_TEXT}": False,
    "compare?experiment=exp-0001": True,
    "compare?experiment=exp-0001&experiment=exp-0002": True,
    "compare?run=run-0001-001&run=run-0002-001": True,
    f"compare?experiment={_TEXT}&against={_TEXT}&metric={_TEXT}": False,
    f"compare?experiment=exp-0001&families={_TEXT}&best={_TEXT}&layout={_TEXT}&order={_TEXT}": True,
    f"compare?run={_TEXT}": False,
    f"compare?experiment={_SHORT}": False,
    "results?claims=exp-0001": True,
    f"results?tags={_TEXT}&claims={_TEXT}&baseline={_TEXT}&pair={_TEXT}": False,
    "leaderboard": True,
    f"leaderboard?ranked_tags={_TEXT}&without={_TEXT}&experiment={_TEXT}&ranked_baseline={_TEXT}": False,
    f"loss?p_shape=own&p_own={_TEXT}&C={_TEXT}": False,
    "teachers?id=run-0001-000": True,
    f"teachers?find={_TEXT}": False,
    "workers": True,
    f"workers?label={_TEXT}": False,
}
_PARTS = ("Curves", "More measurements", "Log", "Attempts", "Spec", "Environment", "Files")
_SHOWN |= {f"run?id=run-0001-001&part={quote(part)}": part != "Files" for part in _PARTS}
_SHOWN |= {"run?id=run-0002-001": True, "run?id=run-0002-002": True, "run?id=run-0002-003": True}


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture(scope="module")
def dashboard(backend: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with streamlit_server(backend.url, tmp_path_factory.mktemp("dashboard")) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browser() as running:
        yield running


class Watched:
    """A page, and its requests to other hosts."""

    def __init__(self, page: Page, host: str) -> None:
        self.page = page
        self.outside: list[str] = []
        self._host = host
        page.on("request", lambda request: self._record_request(request.url))
        page.on("console", lambda message: self._record_violation(message.text))
        page.context.route(lambda url: not url.startswith(host), lambda route: route.abort())

    def _record_request(self, url: str) -> None:
        if not url.startswith((self._host, "data:", "blob:")):
            self.outside.append(url)

    def _record_violation(self, text: str) -> None:
        if "Content Security Policy" in text:  # the policy has blocked what the page did not escape
            self.outside.append(text)

    def assert_plain_text(self) -> None:
        """Check that the hostile text is plain text."""
        problems = self.page.evaluate(
            """() => [...document.querySelectorAll('[href], [src]')].filter(item => {
                if (item.closest('.dkd-notes a[href^="http"]')) return false; // notes may contain links
                const address = item.getAttribute('href') ?? item.getAttribute('src');
                const to = new URL(address, document.baseURI);
                return to.host !== location.host && !['data:', 'blob:'].includes(to.protocol);
            }).map(item => item.outerHTML.slice(0, 200))"""
        )
        marked = self.page.evaluate(
            """() => [...document.querySelectorAll('.katex, del, [data-testid="stMain"] span[aria-label="home icon"]')]
                .map(item => item.outerHTML.slice(0, 200))"""
        )
        bold = self.page.evaluate(
            """() => [...document.querySelectorAll('tspan, b')].filter(
                item => item.textContent === 'b' && (item.tagName === 'B' || item.style.fontWeight))
                .map(item => item.outerHTML.slice(0, 200))"""
        )
        assert (problems, marked, bold, self.outside) == ([], [], [], [])
        assert self.page.evaluate("() => window.pwned") is None
        assert "🎉" not in self.page.inner_text("body")


@pytest.fixture
def watched(chromium: Browser, dashboard: str) -> Iterator[Watched]:
    context = chromium.new_context(base_url=dashboard, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield Watched(page, dashboard)
    context.close()


def literal(page: Page) -> bool:
    """Return whether the page contains the text literally."""
    return " ".join(TEXT.split()) in " ".join(page.evaluate("() => document.body.textContent").split())


@pytest.mark.parametrize("path", _SHOWN)
def test_hostile_text_is_plain_text_on_every_page(watched: Watched, path: str) -> None:
    watched.page.goto(f"/{path}")
    browser.wait_until_drawn(watched.page)
    watched.page.wait_for_timeout(500)
    watched.assert_plain_text()
    if _SHOWN[path]:
        assert literal(watched.page)


def test_hostile_text_is_plain_text_in_dialogs_tooltips_and_options(watched: Watched) -> None:
    page = watched.page
    page.goto("/teachers")
    browser.wait_until_drawn(page)
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("dialog").wait_for()
    watched.assert_plain_text()
    assert TEXT in page.get_by_role("dialog").inner_text()
    page.goto("/new")
    browser.wait_until_drawn(page)
    page.get_by_label("Data set").first.click()
    page.wait_for_timeout(500)
    watched.assert_plain_text()
    page.keyboard.press("Escape")
    page.locator('[data-testid="stTooltipIcon"]').first.hover()
    page.wait_for_timeout(1000)
    watched.assert_plain_text()


def test_hostile_text_is_plain_text_in_chart_hover(watched: Watched) -> None:
    page = watched.page
    page.goto("/compare?experiment=exp-0001")
    browser.wait_until_drawn(page, charts=1)
    plot = page.locator(".js-plotly-plot").first
    plot.evaluate(
        """plot => plot.dkdPlotly.Fx.hover(plot, plot.data.map((trace, at) => ({ curveNumber: at, pointNumber: 1 }))
            .filter(point => plot.data[point.curveNumber].hovertemplate))"""
    )
    page.wait_for_timeout(300)
    assert plot.locator(".hoverlayer text").count()
    watched.assert_plain_text()
