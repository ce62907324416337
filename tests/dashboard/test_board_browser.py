"""Compare's board in Chromium with the real backend: pins, zoom, clicks, live runs, and figures for print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from tests import browser, served
from tests.dashboard.boards import go_on, rising, train
from tests.dashboard.stand import Stand, standing
from tests.dashboard.streamlit_server import streamlit_server
from tests.dashboard.test_browser import SECONDS, chromium, zoom_in

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

__all__ = ["chromium"]

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]

LABELS = ("ce", "ce, smooth", "ce, warm", "ce, long")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Run a backend with a finished experiment of four methods and two seeds."""
    folder: Path = tmp_path_factory.mktemp("stand")
    with standing(folder) as running:
        running.register()
        running.submit("board", methods=[{"name": "ce", "label": label} for label in LABELS])
        for number in range(8):
            metrics = {
                "test/top1": rising(55 + number),
                "train/loss": [2 / epoch + number / 50 for epoch in range(1, 21)],
                "grad/norm": [3.0 - epoch / 10 for epoch in range(20)],
                "speed/images_per_second": [900.0 + 10 * number],
            }
            train(running, 20, metrics, ends=True)
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


ADDRESS = "/compare?experiment=board&as=board"


def open_board(page: Page, more: str = "", charts: int = 1) -> None:
    page.goto(ADDRESS + more)
    browser.wait_until_drawn(page, charts=charts)
    assert browser.error_texts(page) == []


def test_metrics_are_searched_pinned_and_shared_by_the_address(page: Page) -> None:
    open_board(page, "&pin=test/top1")
    field = page.get_by_role("combobox", name="Add a figure")
    field.click()
    field.fill("loss")
    page.get_by_role("option", name="Training loss").first.click()
    page.wait_for_url("**pin=train**")
    browser.wait_until_drawn(page, charts=8)
    assert page.locator(".js-plotly-plot").count() == 2
    other = page.context.new_page()
    other.goto(page.url)
    browser.wait_until_drawn(other, charts=8)
    assert other.locator(".js-plotly-plot").count() == 2
    page.get_by_role("button", name="Options").first.click()
    page.get_by_role("button", name="Unpin").first.click()
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 1")
    assert browser.error_texts(page) == []


def test_a_zoom_applies_to_all_figures(page: Page) -> None:
    open_board(page, "&pin=test/top1&pin=train/loss", charts=8)
    left = "plot => document.querySelectorAll('.js-plotly-plot')[plot].layout.xaxis.range[0]"
    assert page.evaluate(left, 1) < 1
    zoom_in(page, page.locator(".js-plotly-plot").first)
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot')[1].layout.xaxis.range[0] > 1")
    assert page.evaluate(left, 0) == pytest.approx(page.evaluate(left, 1))
    page.locator(".js-plotly-plot .nsewdrag").first.dblclick()
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot')[1].layout.xaxis.range[0] < 1")


def test_a_click_on_a_point_opens_its_run_and_on_a_mean_its_experiment(page: Page, stand: Stand) -> None:
    experiment = stand.client.experiment("board")
    for spread, address in (("every+run", r"/run\?id=(\w+)"), ("min+to+max", r"/experiment\?id=(\w+)")):
        open_board(page, f"&pin=test/top1&spread={spread}", charts=4)
        with page.context.expect_page() as opened:
            x, y = page.evaluate(
                """() => {
                    const plot = document.querySelector('.js-plotly-plot');
                    const trace = plot.data.find(trace => trace.meta?.link);
                    const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
                    return [box.left + xaxis._offset + xaxis.d2p(trace.x[9]),
                            box.top + yaxis._offset + yaxis.d2p(trace.y[9])];
                }"""
            )
            page.mouse.move(x, y)
            page.mouse.click(x, y)
        found = re.search(address, opened.value.url)
        assert found, opened.value.url
        assert found[1] in {experiment.id, *(run.id for run in experiment.runs)}


def test_columns_depend_on_the_width(page: Page) -> None:
    pins = "".join(f"&pin={name}" for name in ("test/top1", "train/loss", "grad/norm", "speed/images_per_second"))
    open_board(page, pins, charts=16)
    places = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.getBoundingClientRect())"
    lefts = f"() => new Set({places}.map(place => Math.round(place.left))).size"
    assert page.evaluate(lefts) == 3
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(f"() => ({lefts})() === 1")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.wait_for_function(f"() => {places}.every(place => place.right <= 390)")


def test_while_runs_train_the_axis_follows_and_a_zoom_stays(page: Page, stand: Stand) -> None:
    stand.submit("live", seeds=[0], training={"epochs": 50})
    metrics = {"test/top1": rising(50), "train/loss": [1.0]}
    claim = train(stand, 5, metrics)
    page.goto("/compare?experiment=live&as=board&pin=test/top1&pin=train/loss")
    browser.wait_until_drawn(page, charts=2)
    right = "() => document.querySelector('.js-plotly-plot').layout.xaxis.range[1]"
    assert 5 < page.evaluate(right) < 7
    go_on(stand, claim, range(6, 11), metrics)
    page.wait_for_function(f"() => ({right})() > 10")
    assert page.evaluate(right) < 13, "a little beyond what there is, not all 50 epochs"
    zoom_in(page, page.locator(".js-plotly-plot").first)
    page.wait_for_function(f"() => ({right})() < 10")
    zoomed = page.evaluate(right)
    go_on(stand, claim, range(11, 16), metrics)
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').data.at(-1).x.length === 15")
    assert page.evaluate(right) == pytest.approx(zoomed)
    stand.fail(claim, "stopped by the test")


def test_figures_for_a_column_survive_grey_print(page: Page, tmp_path: Path) -> None:
    open_board(page, "&pin=test/top1|train/loss", charts=4)
    chart = page.locator(".js-plotly-plot").first
    for title, ending, millimetres in (("one column", "column", 82.5), ("two columns", "two-columns", 171.0)):
        chart.hover()
        with page.expect_download() as started:
            chart.locator(f'[data-title^="Download SVG for {title}"]').click()
        download = started.value
        assert download.suggested_filename == f"board-test-top1-{ending}.svg"
        download.save_as(tmp_path / download.suggested_filename)
        image = ElementTree.parse(tmp_path / download.suggested_filename).getroot()
        assert image.get("width") == f"{millimetres:g}mm"
        width = float(image.get("viewBox", "").split()[2])
        points_per_unit = millimetres / 25.4 * 72 / width
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", ElementTree.tostring(image, "unicode"))]
        assert len(sizes) > 10
        assert min(sizes) * points_per_unit >= 7, "points"
        lines = [item.get("style", "") for item in image.iter(f"{SVG}path") if item.get("class") == "js-line"]
        dashes = {
            re.sub(r".*stroke-dasharray: ([^;]+).*", r"\1", line) if "dasharray" in line else "" for line in lines
        }
        assert len(dashes) >= len(LABELS), "a dash for each method"
        points = [item for group in image.iter(f"{SVG}g") if group.get("class") == "points" for item in group]
        markers = {re.sub(r"[\d.,-]+", "", item.get("d", "")) for item in points}
        assert len(markers) >= 3, "forms of markers"
        texts = {"".join(item.itertext()) for item in image.iter(f"{SVG}text")}
        assert set(LABELS) <= texts, "the legend"
