"""The lists in Chromium with the real backend and 10,000 runs: pages, selection, history, refresh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import browser, served
from tests.dashboard.stand import GPU, Stand, standing
from tests.dashboard.streamlit_server import streamlit_server
from tests.dashboard.test_browser import SECONDS, chromium

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

__all__ = ["chromium"]

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Run a backend with a worker and 10,000 queued runs of 100 experiments."""
    folder: Path = tmp_path_factory.mktemp("stand")
    base = {"dataset": "digits", "student": {"model": "small_cnn"}, "methods": ["ce"], "training": {"epochs": 20}}
    with standing(folder) as running:
        running.client.submit_many([{**base, "name": f"filler {n:03d}", "seeds": "0..99"} for n in range(100)])
        running.register()
        yield running


@pytest.fixture(scope="module")
def dashboard(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with streamlit_server(stand.url, tmp_path_factory.mktemp("dashboard"), DKD_API_TOKEN=served.ADMIN_TOKEN) as url:
        yield url


@pytest.fixture
def page(chromium: Browser, dashboard: str) -> Iterator[Page]:
    context = chromium.new_context(base_url=dashboard, viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(30 * SECONDS)
    opened = context.new_page()
    yield opened
    context.close()


def choose(page: Page, row: int) -> None:
    """Click the check box of a row of the table, counted from 0."""
    table = page.locator('[data-testid="stDataFrame"]').bounding_box()
    assert table
    page.mouse.click(table["x"] + 16, table["y"] + 36 + 35 * row + 16)


def test_10_000_runs_are_paged_and_the_selection_is_kept(page: Page, stand: Stand) -> None:
    page.goto("/runs")
    page.get_by_text("Page 1 of 200, 10,000 runs").wait_for()
    browser.wait_until_drawn(page)
    grid = page.locator('[data-testid="stDataFrame"] [role="grid"]')
    assert grid.get_attribute("aria-rowcount") == "51", "a page of 50 and the heading, not 10,000"
    choose(page, 1)
    page.get_by_text("Selected: ce · seed 98").wait_for()
    made = stand.submit("newer", seeds=[7])
    page.get_by_text("1 newer run will appear").wait_for()
    page.get_by_text("Selected: ce · seed 98").wait_for()
    page.get_by_role("button", name="Show them now").click()
    page.get_by_text("1 newer run will appear").wait_for(state="detached")
    page.get_by_text("Selected: ce · seed 98").wait_for()
    choose(page, 0)  # the newer run, which is now the first
    page.get_by_text("2 selected: ce · seed 98, ce · seed 7").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("Page 2 of 201, 10,001 runs").wait_for()
    page.get_by_text("2 selected: ce · seed 98, ce · seed 7").wait_for()
    page.get_by_role("button", name="Cancel 2").click()
    page.get_by_text("2 runs cancelled.").wait_for()
    assert stand.client.experiment(made).runs[0].state == "cancelled"
    page.go_back()
    page.get_by_text("Page 1 of 201").wait_for()
    assert browser.error_texts(page) == []


def test_url_contains_the_filters_and_browser_back_restores_them(page: Page, stand: Stand) -> None:
    page.goto("/runs?experiment=filler+042&sort=oldest+first")
    page.get_by_text("Page 1 of 2, 100 runs").wait_for()
    browser.wait_until_drawn(page)
    page.get_by_role("textbox", name="Search").fill("no such thing")
    page.get_by_role("textbox", name="Search").press("Enter")
    page.get_by_text("No run matches these filters.").wait_for()
    page.wait_for_url("**text=no+such+thing**")
    page.get_by_role("textbox", name="Search").fill("")
    page.get_by_role("textbox", name="Search").press("Enter")
    page.get_by_text("Page 1 of 2, 100 runs").wait_for()
    browser.wait_until_drawn(page)
    choose(page, 0)
    page.get_by_text("Selected: ce · seed 0").wait_for()
    page.get_by_role("link", name="Open").click()
    page.get_by_role("heading", name="ce · seed 0").wait_for()
    page.go_back()
    page.get_by_text("Page 1 of 2, 100 runs").wait_for()
    page.get_by_text("Selected: ce · seed 0").wait_for()
    assert "sort=oldest+first" in page.url
    page.get_by_text("Experiments", exact=True).click()
    page.get_by_text("1 experiment", exact=False).first.wait_for()
    page.wait_for_url("**view=Experiments**")
    assert browser.error_texts(page) == []


def test_overview_follows_changes(page: Page, stand: Stand) -> None:
    page.goto("/")
    page.get_by_text("No run is training.").wait_for()
    claim = stand.start(epoch=5, top1=91.5)
    page.get_by_text("epoch 5 of 20 · 2 min 30 s of training left").wait_for()
    stand.fail(claim, "the loss is not a number at step 55")
    page.get_by_text("The loss is not a number at step 55.").wait_for()
    page.get_by_text("No run is training.").wait_for()
    page.get_by_test_id("stPageLink").filter(has_text="ce · seed").first.click()
    page.wait_for_url(f"**/run?id={claim.run_id}")
    page.go_back()
    page.get_by_role("heading", name="Latest comparisons").wait_for()
    assert browser.error_texts(page) == []


def test_worker_is_drained_and_undrained(page: Page, stand: Stand) -> None:
    stand.beat(gpus=[GPU])
    page.goto("/workers")
    page.get_by_text("1 of 1 worker online, 0 of 1 slot in use").wait_for()
    page.get_by_role("button", name="Drain").click()
    page.get_by_text("No new runs start here.").wait_for()
    page.get_by_role("button", name="Undrain").click()
    page.get_by_text("Idle.").wait_for()
    assert not stand.client.workers().items[0].draining
    assert browser.error_texts(page) == []
