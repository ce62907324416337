"""Every page and every tab in Chromium on the recorded lab: no error, no obstacle for people, no sideways scroll."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from tests import browser, recorded_lab
from tests.dashboard.recorded import best_of, chromium, dashboard, lab, page, run_of, window
from tests.dashboard.stand import GPU, Stand

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["chromium", "dashboard", "lab", "page", "window"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    browser.NEEDS_CHROMIUM,
]


_CUT_OFF = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
    const area = plot.getBoundingClientRect();
    return [...plot.querySelectorAll('.infolayer .ytitle, .infolayer .y2title')].filter(title => {
        const box = title.getBoundingClientRect();
        return box.top < area.top - 2 || box.bottom > area.bottom + 2;
    }).map(title => title.textContent);
})"""
_REST = 0.1  # seconds; axe is told that there are no transitions


@dataclass(frozen=True)
class Visit:
    """A page to look at.

    Attributes:
        address: Its address; names in braces are those of ``addresses``.
        heading: Its title.
        tabs: Tabs to look at, besides the one that is open at first.
        charts: Least number of traces of the first tab.
        text: A text of the first tab.
    """

    address: str
    heading: str
    tabs: tuple[str, ...] = ()
    charts: int = 0
    text: str = ""


# A page of a new view is one more line.
PAGES: dict[str, Visit] = {
    "overview": Visit("", "Overview"),
    "form": Visit("new?example=digits-dkd-vs-dkd-align", "New experiment", text="Spec as YAML"),
    "form with a choice of settings": Visit("new?example=digits-fair-audit", "New experiment"),
    "form of detection": Visit("new?clone={detection}", "New experiment"),
    "runs": Visit("runs", "Runs", text="Select rows with the check boxes on the left"),
    "experiments": Visit("runs?view=Experiments", "Runs"),
    "newest experiments": Visit("experiment", "Experiment"),
    "experiment": Visit("experiment?id={methods}", "digits-methods", ("Lineage", "Spec", "Differences")),
    "copy": Visit("experiment?id={copy}&section=Differences", "digits-methods-longer", ("Lineage",)),
    "active experiment": Visit("experiment?id={live}", "live"),
    "failed experiment": Visit("experiment?id={failed}", "teacher-from-a-file"),
    "sweeps": Visit("sweep", "Sweeps"),
    "sweep": Visit(
        "sweep?name={sweep}",
        "rates-and-batches",
        ("Heat map", "Slices", "Parallel coordinates", "Importance", "Curves"),
    ),
    "newest runs": Visit("run", "Run"),
    "run": Visit(
        "run?id={student}",
        "dkd · seed 0",
        ("Predictions", "Features", "More measurements", "Machine", "Log", "Attempts", "Spec", "Environment", "Files"),
        charts=6,
        text="Gradient similarity",
    ),
    "teacher's predictions": Visit("run?id={teacher}&part=Predictions", "teacher · seed 0", charts=2),
    "failed run": Visit("run?id={failed_run}", "teacher · seed 0", ("Log", "Attempts")),
    "training run": Visit("run?id={live_run}", "ce · seed 0", ("Log", "Predictions")),
    "run of detection": Visit("run?id={detector}&part=Detections", "pkd · seed 0", ("Curves", "Machine"), charts=3),
    "run with features": Visit("run?id={kept}&part=Features", "kd · seed 0", charts=20),
    "unknown run": Visit("run?id=nothing", "Run"),
    "compare": Visit("compare?experiment={methods}", "Compare", charts=4, text="3 pairs cannot"),
    "compare with predictions": Visit("compare?experiment={methods}&predictions=true", "Compare", charts=8),
    "compare with features": Visit("compare?experiment={copy}&features=true", "Compare", charts=30),
    "compare over the test images": Visit("compare?experiment={methods}&over-images=true", "Compare", charts=4),
    "board": Visit("compare?experiment={methods}&as=board", "Compare", charts=8),
    "compare settings": Visit("compare?experiment={best}&experiment={worst}", "Compare", charts=2),
    "compare runs": Visit("compare?run={student}&run={teacher}", "Compare", charts=2),
    "results": Visit("results", "Results"),
    "leaderboard": Visit("leaderboard", "Leaderboard", charts=2),
    "leaderboard of a sweep": Visit("leaderboard?sweep={sweep}", "Leaderboard"),
    "loss explorer": Visit("loss", "Loss explorer", charts=1),
    "teachers": Visit("teachers", "Teachers"),
    "workers": Visit("workers", "Workers"),
    "account": Visit("account", "Your account", text="This page is for people"),
    "people": Visit("people?project=default", "People and projects"),
    "audit log": Visit("audit", "Audit log"),
}


@pytest.fixture(scope="module")
def addresses(lab: Stand) -> dict[str, str]:
    """Ids for the addresses of pages. One more experiment trains."""
    client = lab.client
    methods, detection, failed, copy = (
        client.experiment(name)
        for name in (recorded_lab.METHODS, recorded_lab.DETECTION, recorded_lab.FAILED, recorded_lab.COPY)
    )
    settings = [item.experiment_id for item in client.sweeps.get(recorded_lab.SWEEP).settings]
    live = lab.submit("live", notes="It **trains** now.", tags=["paper"])
    lab.register(device="gpu", slots=2, gpus=2)
    claim = lab.start(epoch=5)
    lab.beat(claim, gpus=[GPU])
    return {
        "methods": methods.id,
        "copy": copy.id,
        "detection": detection.id,
        "failed": failed.id,
        "live": live,
        "live_run": claim.run_id,
        "sweep": recorded_lab.SWEEP,
        "student": run_of(methods, "dkd"),
        "kept": run_of(copy, "kd"),
        "teacher": run_of(methods, "teacher"),
        "detector": run_of(detection, "pkd"),
        "failed_run": run_of(failed, "teacher"),
        "best": best_of(lab),
        "worst": next(key for key in settings if key != best_of(lab)),
    }


def assert_sound(page: Page, where: str) -> None:
    """Check the page as it is now, in both themes and on a desk as on a phone."""
    # The page of a failed run says why the run failed.
    errors = [text for text in browser.error_texts(page) if not text.startswith("error\n\nFailed: ")]
    assert errors == [], where
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        browser.set_colour_scheme(page, scheme)
        assert browser.serious_findings(page) == [], f"{where}, {scheme}"
    for width, height in browser.WIDTHS.values():
        if page.viewport_size != {"width": width, "height": height}:
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(150)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= width, f"{where}: at {width} px the page scrolls sideways"
        assert page.evaluate(_CUT_OFF) == [], f"{where}: at {width} px titles of vertical axes are cut off"
    page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_error_no_obstacle_and_fits(page: Page, addresses: dict[str, str], name: str) -> None:
    visit = PAGES[name]
    page.goto(f"/{visit.address.format_map(addresses)}")
    browser.wait_until_drawn(page, charts=visit.charts, rest=_REST)
    assert page.locator("h1").inner_text() == visit.heading
    if visit.text:
        page.get_by_text(visit.text).first.wait_for()
    assert_sound(page, name)
    for tab in visit.tabs:
        page.get_by_role("radio", name=tab, exact=True).click()
        browser.wait_until_drawn(page, rest=_REST)
        assert_sound(page, f"{name}, {tab}")
