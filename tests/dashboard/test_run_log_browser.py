"""The tabs "Log" and "Machine" of the Run page in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import browser
from tests.dashboard.fakes import FakeServer, digits_spec
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]

RUN = "run-0001-000"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a run with a log of two attempts' length and with measurements of its machine."""
    with FakeServer() as server:
        backend = server.backend
        backend.submit(digits_spec())
        backend.advance(RUN, 30)
        run = backend.runs[RUN]
        for number in range(400):
            backend.log(run, f"batch {number} <script>", "info" if number % 100 else "warning")
        for epoch in range(1, 31):
            values = {"machine/cpu_use": 80.0 + epoch % 3, "machine/memory_use": 40.0, "machine/received": 3.0}
            run.points += [(name, 15 * epoch, float(epoch), 0.4 * epoch, value) for name, value in values.items()]
        with streamlit_server(server.url, tmp_path_factory.mktemp("dashboard")) as url:
            yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browser() as running:
        yield running


@pytest.fixture
def page(chromium: Browser, dashboard: str) -> Iterator[Page]:
    context = chromium.new_context(
        base_url=dashboard, viewport={"width": 1440, "height": 900}, timezone_id="Asia/Tokyo"
    )
    context.set_default_timeout(30_000)
    opened = context.new_page()
    yield opened
    context.close()


def test_log_is_searched_and_downloaded_and_its_link_kept(page: Page, tmp_path: Path) -> None:
    page.goto(f"/run?id={RUN}&part=Log")
    browser.wait_until_drawn(page)
    page.get_by_text("Times are in Asia/Tokyo.").wait_for()
    page.get_by_label("Search the whole log").fill("BATCH 39")
    page.get_by_label("Search the whole log").press("Enter")
    page.get_by_text("The last 11 lines of 11 matching.").wait_for()
    assert page.locator(".dkd-tail mark").all_inner_texts() == ["batch 39"] * 11
    page.get_by_role("button", name="warning").click()
    page.get_by_text("No line of the log matches.").wait_for()
    page.get_by_label("Search the whole log").fill("batch 3")
    page.get_by_label("Search the whole log").press("Enter")
    page.get_by_text("The last 1 line of 1 matching.").wait_for()
    page.get_by_text("UTC", exact=True).click()
    page.get_by_text("Times are in UTC.").wait_for()
    page.reload()
    page.get_by_text("The last 1 line of 1 matching.").wait_for()
    page.get_by_text("Times are in UTC.").wait_for()
    assert browser.error_texts(page) == []
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the whole log").click()
    download.value.save_as(tmp_path / "log.txt")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 431
    assert lines[-1].endswith("+00:00 attempt 1 INFO batch 399 <script>")


def test_machine_is_drawn_beside_the_training(page: Page) -> None:
    page.goto(f"/run?id={RUN}&part=Machine")
    browser.wait_until_drawn(page, charts=4)
    for title in ("Loss and its terms", "Training speed", "Processors and memory", "Disk and network"):
        page.get_by_text(title, exact=True).first.wait_for()
    assert browser.error_texts(page) == []
    for width, height in browser.WIDTHS.values():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
