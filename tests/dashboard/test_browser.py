"""The dashboard in Chromium with a fake backend: behaviour that needs a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import browser
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]

SECONDS = 1000  # in milliseconds, the unit of Playwright


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture(scope="module")
def dashboard(server: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with streamlit_server(server.url, tmp_path_factory.mktemp("dashboard")) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browser() as running:
        yield running


@pytest.fixture
def backend(server: FakeServer) -> FakeBackend:
    """Replace the backend by a new one at the same address, with the digits demo."""
    server.backend = FakeBackend()
    server.backend.submit(digits_spec())
    return server.backend


@pytest.fixture
def page(chromium: Browser, dashboard: str, backend: FakeBackend) -> Iterator[Page]:
    context = chromium.new_context(base_url=dashboard, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30 * SECONDS)
    opened = context.new_page()
    yield opened
    context.close()


def finish(backend: FakeBackend) -> None:
    for run in list(backend.runs.values()):
        backend.advance(run.id, 30)


def accuracy(page: Page) -> str:
    return page.locator('[data-testid="stMetric"]', has_text="Test accuracy").inner_text()


def zoom_in(page: Page, chart: Locator) -> None:
    """Zoom by dragging across the middle of the plot, as a user does."""
    box = chart.locator(".nsewdrag").first.bounding_box()
    assert box
    x, y = box["x"], box["y"] + box["height"] / 2
    page.mouse.move(x + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] * 0.8, y, steps=5)
    page.mouse.up()


def wait_for_points(page: Page, count: int) -> None:
    """Wait until the first curve of the first chart has this number of points."""
    page.wait_for_function("n => document.querySelector('.js-plotly-plot').data[0].x.length === n", arg=count)


def test_running_run_is_refreshed_and_keeps_its_zoom(page: Page, backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 8)
    page.goto("/run?id=run-0001-000")
    browser.wait_until_drawn(page, charts=3)
    before = accuracy(page)
    backend.advance("run-0001-000", 2)
    wait_for_points(page, 10)
    assert accuracy(page) != before
    chart = page.locator(".js-plotly-plot").first
    seen = "plot => plot.layout.xaxis.range.map(end => Math.round(end * 100))"
    zoom_in(page, chart)
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').layout.xaxis.range[0] > 1")
    zoomed = chart.evaluate(seen)
    backend.advance("run-0001-000", 2)
    wait_for_points(page, 12)
    assert chart.evaluate(seen) == zoomed
    page.locator(".js-plotly-plot .nsewdrag").first.dblclick()
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').layout.xaxis.range[0] < 1")


def test_chart_is_downloaded_as_png_and_svg(page: Page, backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 8)
    page.goto("/run?id=run-0001-000")
    browser.wait_until_drawn(page, charts=3)
    chart = page.locator(".js-plotly-plot").first
    for ending, beginning in (("png", b"\x89PNG"), ("svg", b"<svg")):
        chart.hover()
        with page.expect_download() as download:
            chart.locator(f'[data-title="Download as {ending.upper()}"]').click()
        path = download.value.path()
        assert download.value.suggested_filename == f"digits-dkd-vs-dkd-align-teacher-seed-0-accuracy.{ending}"
        assert path.read_bytes().startswith(beginning)


def test_ended_run_is_shown_as_ended_and_not_polled(page: Page, backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 5)
    page.goto("/run?id=run-0001-000")
    browser.wait_until_drawn(page, charts=3)
    backend.advance("run-0001-000", 30)
    page.locator('[data-testid="stMetric"]', has_text="Duration").wait_for()
    browser.wait_until_drawn(page, charts=3)
    page.wait_for_timeout(2 * SECONDS)
    requests = len(backend.requests)
    page.wait_for_timeout(5 * SECONDS)
    assert len(backend.requests) == requests


def test_comparison_is_refreshed(page: Page, backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 30)
    page.goto("/compare?experiment=exp-0001")
    browser.wait_until_drawn(page)
    page.get_by_text("1 of 10").first.wait_for()
    for index in (1, 2, 3):
        backend.advance(f"run-0001-00{index}", 30)
    page.get_by_text("4 of 10").first.wait_for()
    browser.wait_until_drawn(page, charts=3)
    finish(backend)
    page.get_by_text("3 pairs cannot tell").first.wait_for()
    assert browser.error_texts(page) == []


def test_double_click_creates_one_experiment_and_links_to_it(page: Page, backend: FakeBackend) -> None:
    page.goto("/new")
    browser.wait_until_drawn(page)
    page.get_by_role("button", name="Digits demo").click()
    page.get_by_role("button", name="Start 10 runs").wait_for()
    browser.wait_until_drawn(page)
    name = page.get_by_placeholder("digits-dkd-vs-dkd-align")
    name.fill("twice")
    name.press("Enter")
    page.get_by_role("button", name="Start 10 runs").dblclick()
    page.get_by_text("is queued: 10 runs").wait_for()
    assert [spec.name for _, spec, _ in backend.experiments.values()] == ["digits-dkd-vs-dkd-align", "twice"]
    page.get_by_role("link", name="Watch and compare").click()
    page.wait_for_url("**/compare?experiment=exp-0002")
    page.get_by_text("0 of 10").first.wait_for()


def test_page_reports_an_outage_and_recovers(page: Page, server: FakeServer, backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 5)
    page.goto("/run?id=run-0001-000")
    browser.wait_until_drawn(page, charts=3)
    server.stop()
    try:
        page.get_by_text("has not answered since").wait_for()
        assert page.locator(".js-plotly-plot").count() == 3, "the charts are kept"
        page.goto("/compare")  # a new session without data
        page.get_by_text("The backend does not answer.").wait_for()
        assert browser.error_texts(page) == []
    finally:
        server.start()
    page.get_by_text("1 running").first.wait_for()
    assert page.get_by_text("The backend does not answer.").count() == 0


def test_each_view_of_a_run_has_a_url(page: Page, backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 5)
    page.goto("/run?id=run-0001-000&part=Spec")
    page.get_by_text("role: teacher").first.wait_for()
    page.get_by_role("radio", name="Log").click()
    page.get_by_label("Search the whole log").wait_for()
    assert "part=Log" in page.url
    page.get_by_role("link", name="Clone experiment").click()
    page.get_by_text("Copy of digits-dkd-vs-dkd-align").wait_for()
    assert browser.error_texts(page) == []


def test_browser_back_undoes_a_loss_scenario(page: Page) -> None:
    page.goto("/loss?p=0.4&q=0.5")
    page.get_by_role("button", name="Scenario 2: student 0.8, teacher 0.6").click()
    page.wait_for_url(lambda url: "p=0.8" in url and "q=0.6" in url)
    page.go_back()
    page.wait_for_url(lambda url: "p=0.4" in url and "q=0.5" in url)
    assert browser.error_texts(page) == []


def test_refresh_without_changes_sends_no_curves(page: Page, backend: FakeBackend) -> None:
    backend.submit(digits_spec(name="long", training={"epochs": 2000}, seeds=[0]))
    run = next(run.id for run in backend.runs.values() if run.experiment.name == "long")
    backend.advance(run, 1500)
    received: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    page.goto(f"/run?id={run}")
    browser.wait_until_drawn(page, charts=3)
    first_load = sum(received)
    requests = len(backend.requests)
    received.clear()
    while len(backend.requests) < requests + 4:
        page.wait_for_timeout(100)
    assert sum(received) < first_load / 10, "the curves are not sent again"


def test_method_is_chosen_from_the_list_of_families(page: Page, backend: FakeBackend) -> None:
    page.goto("/new?example=digits-dkd-vs-dkd-align")
    browser.wait_until_drawn(page)
    page.get_by_role("button", name="Add a method").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name="Relations").wait_for()
    search = dialog.get_by_role("textbox", name="Search")
    search.fill("pearson")
    search.press("Enter")
    dialog.get_by_role("heading", name="Relations").wait_for(state="detached")
    dialog.get_by_role("button", name="DIST").click()
    dialog.wait_for(state="detached")
    page.get_by_role("button", name="Start 13 runs").wait_for()
    page.get_by_role("button", name="Add a method").click()
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    page.get_by_role("textbox", name="Seeds", exact=True).fill("0-1")
    page.get_by_role("textbox", name="Seeds", exact=True).press("Enter")
    page.get_by_role("button", name="Start 9 runs").wait_for()
    assert dialog.count() == 0, "a closed list stays closed"
    page.get_by_role("button", name="Start 9 runs").click()
    page.get_by_text("is queued: 9 runs").wait_for()
    assert [item.name for item in list(backend.experiments.values())[-1][1].methods][-1] == "dist"


def test_draft_survives_a_reload_until_it_is_submitted(page: Page, backend: FakeBackend) -> None:
    page.goto("/new?example=digits-dkd-vs-dkd-align")
    page.get_by_role("button", name="Start 10 runs").wait_for()
    seeds = page.get_by_role("textbox", name="Seeds", exact=True)
    seeds.fill("4-5")
    seeds.press("Enter")
    page.get_by_role("button", name="Start 7 runs").wait_for()
    browser.wait_until_drawn(page)
    page.reload()
    page.get_by_text("This is your draft from before the page was reloaded.").wait_for()
    page.get_by_role("button", name="Start 7 runs").wait_for()
    assert seeds.input_value() == "4-5"
    page.get_by_role("button", name="Start 7 runs").click()
    page.get_by_text("is queued: 7 runs").wait_for()
    browser.wait_until_drawn(page)
    page.goto("/new")
    page.get_by_role("button", name="Start 4 runs").wait_for()
    assert page.get_by_text("This is your draft").count() == 0
    assert browser.error_texts(page) == []


def test_yaml_that_the_form_cannot_show_survives_a_reload(page: Page) -> None:
    page.goto("/new?example=digits-dkd-vs-dkd-align")
    browser.wait_until_drawn(page)
    text = page.get_by_role("textbox", name="Spec as YAML")
    text.fill("methods: [an_unknown_one]")
    text.press("Control+Enter")
    page.get_by_text("This YAML cannot be applied to the form").wait_for()
    browser.wait_until_drawn(page)
    page.reload()
    page.get_by_text("This YAML cannot be applied to the form").wait_for()
    assert text.input_value() == "methods: [an_unknown_one]"
    assert page.get_by_role("button", name="Start 10 runs").is_disabled()


def test_form_and_yaml_update_each_other_and_start_submits_uncommitted_input(page: Page, backend: FakeBackend) -> None:
    page.goto("/new?example=digits-dkd-vs-dkd-align")
    browser.wait_until_drawn(page)
    text = page.get_by_role("textbox", name="Spec as YAML")
    text.fill("{name: from yaml, preset: quick}")
    text.press("Control+Enter")
    page.get_by_role("button", name="Start 5 runs").wait_for()
    seeds = page.get_by_role("textbox", name="Seeds", exact=True)
    assert seeds.input_value() == "0-1"
    seeds.fill("0-2")  # the input is committed by the click on the button
    page.get_by_role("button", name="Start 5 runs").click()
    page.get_by_text("is queued: 7 runs").wait_for()
    assert list(backend.experiments.values())[-1][1].seeds == (0, 1, 2)
