"""The views of predictions, detections, experiments and sweeps in Chromium, on the recorded lab."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests import browser, recorded_lab
from tests.dashboard.recorded import best_of, chromium, dashboard, lab, page, run_of, window
from tests.dashboard.stand import Stand

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = ["chromium", "dashboard", "lab", "page", "window"]

pytestmark = [
    pytest.mark.browser,
    browser.NEEDS_CHROMIUM,
]


def visit(page: Page, address: str, charts: int = 0) -> None:
    page.goto(f"/{address}")
    browser.wait_until_drawn(page, charts=charts)


def select(page: Page, label: str, option: str | re.Pattern[str]) -> None:
    """Select an option of a list, as a user does; opened again if a part that is drawn meanwhile has closed it."""
    from playwright.sync_api import TimeoutError as TookTooLong

    wanted = page.get_by_role("option", name=option, exact=True)
    for last in (False, False, False, False, True):
        page.get_by_role("combobox", name=label).first.click()
        try:
            wanted.click(timeout=5_000)
            break
        except TookTooLong:
            if last:
                raise
            page.keyboard.press("Escape")
            browser.wait_until_drawn(page)
    browser.wait_until_drawn(page)


def loaded_pictures(page: Page, of: str) -> int:
    """Return how many pictures the browser has decoded."""
    count: int = page.locator(of).evaluate_all(
        "images => images.filter(image => image.complete && image.naturalWidth > 1).length"
    )
    return count


def click_point(page: Page, chart: Locator, trace: int, point: int) -> Page:
    """Click a point of a chart; return the tab that it opens."""
    x, y = chart.evaluate(
        """(plot, [trace, point]) => {
            const data = plot._fullData[trace], area = plot.getBoundingClientRect();
            const across = plot._fullLayout[data.xaxis.replace("x", "xaxis")] ?? plot._fullLayout.xaxis;
            const up = plot._fullLayout[data.yaxis.replace("y", "yaxis")] ?? plot._fullLayout.yaxis;
            return [area.left + across._offset + across.d2p(data.x[point]),
                    area.top + up._offset + up.d2p(data.y[point])];
        }""",
        [trace, point],
    )
    page.mouse.move(x, y)
    page.wait_for_timeout(200)
    with page.context.expect_page() as opened:
        page.mouse.click(x, y)
    tab: Page = opened.value
    return tab


def test_predictions_of_a_run_name_images_and_filter_them(page: Page, lab: Stand) -> None:
    run = run_of(lab.client.experiment(recorded_lab.METHODS), "dkd")
    found = lab.client.runs.predictions(run)
    images, right = found.images, found.networks["run"].right
    visit(page, f"run?id={run}&part=Predictions", charts=4)
    page.get_by_text(f"({right:,} of {images:,} images)").first.wait_for()
    page.get_by_text(re.compile(rf"^\d+ of {images} test images\.")).wait_for()
    assert loaded_pictures(page, ".dkd-thumbs img") > 5
    cards = page.locator(".dkd-thumbs figure")
    select(page, "Images on which", "only dkd is right")
    total = lab.client.runs.predicted_images(run, against="teacher", kind="run_right", limit=1).total
    page.get_by_text(re.compile(rf"^{total} of {images} test images\.")).wait_for()
    own = cards.locator("li", has_text="dkd:")
    assert own.count() == cards.count() > 0
    assert set(own.evaluate_all("lines => lines.map(line => line.className)")) == {"dkd-right"}
    page.reload()
    browser.wait_until_drawn(page, charts=4)
    assert own.count() == cards.count() > 0, "the address keeps the filter"
    assert browser.error_texts(page) == []


def test_predictions_in_compare_are_paired_over_the_seeds(page: Page, lab: Stand) -> None:
    visit(page, f"compare?experiment={lab.client.experiment(recorded_lab.METHODS).id}", charts=4)
    assert page.get_by_text("Difference by class").count() == 0
    page.get_by_text("Show classes, confusion, calibration and images").click()
    page.get_by_text("Difference by class").wait_for()
    browser.wait_until_drawn(page, charts=8)
    page.get_by_text("In brackets the number of test images of the class; n = 3.").wait_for()
    page.get_by_text("Accuracy by class of all methods").click()
    cell = page.locator(".dkd-table td", has_text=re.compile(r"\(n = 3\); [+−][\d.]+ \[[+−][\d.]+, [+−][\d.]+\]"))
    cell.first.wait_for()
    page.get_by_text("Sums over 3 runs of kd and their counterparts.").wait_for()
    assert page.locator(".dkd-thumbs figure").count() > 0
    assert browser.error_texts(page) == []


def test_detections_are_drawn_on_pictures_and_filtered(page: Page, lab: Stand) -> None:
    run = run_of(lab.client.experiment(recorded_lab.DETECTION), "pkd")
    visit(page, f"run?id={run}&part=Detections", charts=3)
    scenes = page.locator(".dkd-scenes")
    assert scenes.count() == 4, "a page"
    assert scenes.first.locator("figcaption").all_inner_texts() == ["Ground truth", "Teacher", "Student"]
    assert scenes.first.locator(".dkd-scene").first.locator(".dkd-box.dkd-object").count() >= 1
    picture = scenes.first.locator(".dkd-scene").first.evaluate("scene => getComputedStyle(scene).backgroundImage")
    assert picture.startswith('url("data:image/jpeg')
    missed = lab.client.runs.detections(run, kind="missed", pictured=True, limit=1).total
    select(page, "With", "missed object")
    page.get_by_text(f"{missed:,} test images").first.wait_for()
    for drawing in scenes.all():
        assert drawing.locator("figure", has_text="Student").locator(".dkd-missed").count() >= 1
    box = scenes.first.locator(".dkd-scene").first.locator(".dkd-box").first
    box.hover()
    assert page.locator(".dkd-box:hover").evaluate("box => getComputedStyle(box).borderWidth") == "3px"
    assert browser.error_texts(page) == []


def test_views_of_a_page_have_titles_of_their_own(page: Page, lab: Stand) -> None:
    experiment = lab.client.experiment(recorded_lab.METHODS)
    visit(page, f"run?id={run_of(experiment, 'dkd')}&part=Log")
    assert page.title() == f"Log · dkd · seed 0 · {recorded_lab.METHODS} · DKD Lab"
    page.get_by_text("Files", exact=True).click()
    page.wait_for_function("() => document.title.startsWith('Files · dkd · seed 0')")
    page.get_by_text("Curves", exact=True).click()
    page.wait_for_function("() => document.title.startsWith('dkd · seed 0')")
    visit(page, f"experiment?id={experiment.id}&section=Spec")
    assert page.title() == f"Spec · {recorded_lab.METHODS} · Experiment · DKD Lab"
    visit(page, "runs")
    assert page.title() == "Runs · DKD Lab"
    page.get_by_text("Experiments", exact=True).click()
    page.wait_for_function("() => document.title === 'Experiments · DKD Lab'")
    visit(page, f"compare?experiment={experiment.id}&as=board")
    assert page.title() == f"Board · {recorded_lab.METHODS} · Compare · DKD Lab"


def test_experiment_is_annotated_and_leads_to_its_copy(page: Page, lab: Stand) -> None:
    original, copy = (lab.client.experiment(name) for name in (recorded_lab.METHODS, recorded_lab.COPY))
    visit(page, f"experiment?id={original.id}")
    assert page.title() == f"{recorded_lab.METHODS} · Experiment · DKD Lab"
    assert page.locator(".dkd-notes strong").inner_text() == "four"
    page.get_by_role("button", name="Edit notes").click()
    page.get_by_role("textbox", name="Notes").fill("Longer is *better*: <b>no markup</b>")
    page.get_by_role("button", name="Save").click()
    page.locator(".dkd-notes em", has_text="better").wait_for()
    assert "<b>no markup</b>" in page.locator(".dkd-notes").inner_text()
    tags = page.get_by_role("combobox", name="Tags")
    tags.fill("checked")
    tags.press("Enter")
    page.get_by_text("checked", exact=True).first.wait_for()
    browser.wait_until_drawn(page)
    stored = lab.client.experiment(original.id)
    assert stored.notes == "Longer is *better*: <b>no markup</b>"
    assert set(stored.tags) == {"paper", "digits", "checked"}
    page.get_by_role("radio", name="Lineage").click()
    page.locator(".dkd-lineage", has_text="Copies of it").get_by_role("link", name=recorded_lab.COPY).click()
    page.get_by_role("heading", name=recorded_lab.COPY).wait_for()
    assert f"id={copy.id}" in page.url
    browser.wait_until_drawn(page)
    page.get_by_role("radio", name="Differences").click()
    row = page.locator(".dkd-table tr", has_text="training.epochs")
    row.first.wait_for()
    assert row.first.locator("td").all_inner_texts() == ["training.epochs", "4", "6"]
    assert browser.error_texts(page) == []


def test_experiment_is_paused_cancelled_and_deleted_only_when_confirmed(page: Page, lab: Stand) -> None:
    key = lab.submit("to-be-deleted", resources={"device": "gpu", "labels": ["h200"]})
    visit(page, f"experiment?id={key}")
    assert page.get_by_role("button", name="Delete …").is_disabled()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").and_(page.locator(":enabled")).wait_for()
    assert lab.client.experiment(key).counts.paused == 2
    page.get_by_role("button", name="Cancel").click()
    delete = page.get_by_role("button", name="Delete …")
    delete.and_(page.locator(":enabled")).wait_for()
    delete.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel").click()
    dialog.wait_for(state="detached")
    assert lab.client.experiment(key).state == "cancelled"
    delete.click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_text("1 experiment deleted").wait_for()
    assert key not in [item.id for item in lab.client.experiments(limit=100).items]


def test_sweep_is_drawn_and_its_best_setting_cloned(page: Page, lab: Stand) -> None:
    visit(page, f"sweep?name={recorded_lab.SWEEP}")
    page.get_by_text("6 of 6 experiments ended, 12 of 12 runs succeeded").wait_for()
    assert page.title() == f"{recorded_lab.SWEEP} · Sweep · DKD Lab"
    page.get_by_role("radio", name="Heat map").click()
    page.locator(".js-plotly-plot .heatmaplayer .hm").wait_for()
    cells = page.locator(".js-plotly-plot").evaluate("plot => plot.data[0].z.flat().filter(z => z !== null).length")
    assert cells == 6
    page.get_by_role("radio", name="Parallel coordinates").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length === 6"
        " && !document.querySelector('.js-plotly-plot .hm')"
    )
    browser.wait_until_drawn(page, charts=6)
    chart = page.locator(".js-plotly-plot")
    tab = click_point(page, chart, 5, 2)
    tab.wait_for_url(f"**/experiment?id={best_of(lab)}")
    tab.close()
    page.get_by_role("link", name="Clone the best").click()
    page.get_by_text(f"Copy of {lab.client.experiment(best_of(lab)).name}.").wait_for()
    page.get_by_role("button", name="Start 2 runs").wait_for()
    assert browser.error_texts(page) == []


def test_two_settings_of_a_sweep_are_compared_as_a_pair(page: Page, lab: Stand) -> None:
    visit(page, f"sweep?name={recorded_lab.SWEEP}")
    table = page.locator('[data-testid="stDataFrame"]').bounding_box()
    assert table
    for row in (0, 1):
        page.mouse.click(table["x"] + 16, table["y"] + 36 + 35 * row + 16)
        page.wait_for_timeout(300)
    page.get_by_text("Two settings are selected.").wait_for()
    page.get_by_role("link", name="Compare two settings").click()
    page.get_by_text("Compared as settings").wait_for()
    browser.wait_until_drawn(page, charts=2)
    page.get_by_role("heading", name="Result", exact=True).wait_for()
    rows = page.locator(".dkd-table", has_text="Difference to").first.locator("tbody tr")
    assert rows.count() == 2
    assert browser.error_texts(page) == []


def test_a_sweep_is_made_in_the_form(page: Page, lab: Stand) -> None:
    visit(page, "new?example=digits-dkd-vs-dkd-align")
    name = page.get_by_role("textbox", name="Name", exact=True)
    name.fill("made in the form")
    name.press("Enter")
    browser.wait_until_drawn(page)
    assert "name: made in the form" in page.get_by_role("textbox", name="Spec as YAML").input_value()
    page.get_by_text("Sweep: several values of some fields").click()
    fields = page.get_by_role("combobox", name="Fields that vary")
    fields.click()
    page.keyboard.type("learning rate (training")
    page.get_by_role("option", name=re.compile(r"^Training: .*\(training\.optimizer\.lr\)$")).click()
    page.keyboard.press("Escape")
    values = page.get_by_role("textbox", name="Values of training.optimizer.lr")
    values.fill("0.01, x")
    values.press("Enter")
    page.locator('[data-testid="stExpander"] [data-testid="stAlertContentError"]').wait_for()
    assert page.get_by_role("button", name="Start the sweep").count() == 0, "a value is no number"
    values.fill("0.01, 0.05")
    values.press("Enter")
    page.get_by_text("2 experiments with 19 runs, 1 new teacher.").wait_for()
    page.get_by_role("button", name="Start the sweep of 19 runs").click()
    page.get_by_text("is queued.").wait_for()
    page.get_by_role("link", name="Watch the sweep").click()
    page.wait_for_url("**/sweep?name=made+in+the+form")
    page.get_by_text("0 of 2 experiments ended").wait_for()
    found = lab.client.sweeps.get("made in the form")
    assert [item.values for item in found.settings] == [{"training.optimizer.lr": rate} for rate in (0.01, 0.05)]
    for item in found.settings:
        lab.client.cancel_experiment(item.experiment_id)
    assert browser.error_texts(page) == []


def test_a_click_on_a_point_of_compare_opens_its_run(page: Page, lab: Stand) -> None:
    experiment = lab.client.experiment(recorded_lab.METHODS)
    visit(page, f"compare?experiment={experiment.id}", charts=4)
    chart = page.locator(f".st-key-compare-seeds-{experiment.id} .js-plotly-plot")
    chart.scroll_into_view_if_needed()
    trace = chart.evaluate("plot => plot._fullData.findIndex(trace => trace.meta?.links)")
    run_id = chart.evaluate("(plot, trace) => plot._fullData[trace].meta.links[1]", trace)
    tab = click_point(page, chart, trace, 1)
    tab.wait_for_url(f"**/{run_id}")
    assert tab.url.rpartition("=")[2] in {run.id for run in experiment.runs}


def test_slider_over_epochs_moves_the_features_of_the_run_and_not_of_its_teacher(page: Page, lab: Stand) -> None:
    run = run_of(lab.client.experiment(recorded_lab.COPY), "kd")
    visit(page, f"run?id={run}&part=Features", charts=20)
    page.get_by_text("kd, after epoch 6").wait_for()
    before = page.locator(".js-plotly-plot").first.evaluate("chart => chart.data[0].x")
    page.get_by_role("slider").first.press("ArrowLeft")
    page.get_by_text("kd, after epoch 4").wait_for()
    page.get_by_text("teacher, as it taught").wait_for()
    assert page.locator(".js-plotly-plot").first.evaluate("chart => chart.data[0].x") == before
    assert "feature-epoch=4" in page.url


def test_pointer_on_a_point_of_the_features_names_image_and_class(page: Page, lab: Stand) -> None:
    page.goto(f"/compare?experiment={lab.client.experiment(recorded_lab.COPY).id}&features=true")
    page.get_by_text("kd, after epoch 6", exact=True).first.wait_for()
    points = page.locator(".st-key-compare-features-points-1 .js-plotly-plot .scatterlayer .point")
    points.first.wait_for()
    points.first.hover(force=True)
    page.locator(".hoverlayer .hovertext", has_text="class").first.wait_for()


def test_what_replaces_a_changed_form_asks_first(page: Page) -> None:
    visit(page, "new?example=digits-dkd-vs-dkd-align")
    seeds = page.get_by_role("textbox", name="Seeds", exact=True)
    seeds.fill("4-5")
    seeds.press("Enter")
    page.get_by_role("button", name="Start 7 runs").wait_for()
    page.get_by_role("button", name="Empty form").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Keep my draft").click()
    dialog.wait_for(state="detached")
    assert seeds.input_value() == "4-5"
    page.get_by_role("button", name="Empty form").click()
    dialog.get_by_role("button", name="Replace").click()
    dialog.wait_for(state="detached")
    page.get_by_role("button", name="Bring it back").click()
    page.get_by_role("button", name="Start 7 runs").wait_for()
    assert seeds.input_value() == "4-5"
    assert browser.error_texts(page) == []
