"""Fixtures of tests on a copy of the recorded lab: a real backend, the dashboard in this process or in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.events import IMAGES_KEY
from core.protocol.public import Experiment
from tests import browser, recorded_lab, served
from tests.backend import rows
from tests.dashboard.conftest import connected
from tests.dashboard.stand import Stand, standing
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SECONDS = 1000
"""In milliseconds, the unit of Playwright."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Run a real backend on a copy of the recorded lab."""
    folder = tmp_path_factory.mktemp("lab")
    recorded_lab.unpack(folder)
    with standing(folder) as running:
        yield running


@pytest.fixture
def recorded(lab: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stand]:
    """Let the dashboard in this process read the lab. The tests of a module share it and leave it as it is."""
    with connected(lab, monkeypatch, tmp_path):
        yield lab


@pytest.fixture(scope="module")
def dashboard(lab: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with streamlit_server(lab.url, tmp_path_factory.mktemp("dashboard"), DKD_API_TOKEN=served.ADMIN_TOKEN) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browser() as running:
        yield running


@pytest.fixture(scope="module")
def window(chromium: Browser, dashboard: str) -> Iterator[BrowserContext]:
    """A window, whose cache the pages of a module share: the scripts of Streamlit are loaded once."""
    context = chromium.new_context(base_url=dashboard, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30 * SECONDS)
    yield context
    context.close()


@pytest.fixture
def page(window: BrowserContext) -> Iterator[Page]:
    opened = window.new_page()
    yield opened
    for tab in window.pages:  # a click on a point opens another
        tab.close()


def run_of(experiment: Experiment, label: str, seed: int = 0) -> str:
    """Return the id of a run of an experiment by its label; of the teacher, the seed does not matter."""
    return next(run.id for run in experiment.runs if run.label == label and (run.seed == seed or label == "teacher"))


def best_of(lab: Stand) -> str:
    """Return the id of the best setting of the recorded sweep."""
    found = lab.client.sweeps.get(recorded_lab.SWEEP).settings
    means = {item.experiment_id: item.results[0].mean or 0.0 for item in found}
    return max(means, key=means.__getitem__)


def copy_with_results(lab: Stand, name: str, seeds: list[int], *, images: str | None = "") -> str:
    """Copy the experiment of the methods for other seeds, and let its runs succeed without training; return its id.

    Args:
        lab: The lab.
        name: Name of the copy.
        seeds: Its seeds.
        images: What identifies the images of its runs; empty for those of the original, None if it is not recorded.
    """
    original = lab.client.run(run_of(lab.client.experiment(recorded_lab.METHODS), "dkd"))
    made = lab.client.clone(recorded_lab.METHODS, name=name, changes={"seeds": seeds})
    environment = dict(original.environment)
    environment.pop(IMAGES_KEY)
    if images is not None:
        environment[IMAGES_KEY] = images or original.images
    with lab.database() as database:
        for number, run in enumerate(run for run in made.runs if run.role == "student"):
            values = [{"test/top1": 20.0 + number + epoch, "train/loss": 2.0 / epoch} for epoch in range(1, 5)]
            records = [rows.metrics(10 * epoch, item, seq=epoch) for epoch, item in enumerate(values, 1)]
            rows.insert_records(database, run.id, *records)
            sizes = {"train_size": original.train_size, "test_size": original.test_size}
            progress = {"step": 40, "total_steps": 40, "epoch": 4.0, "total_epochs": 4}
            rows.change(database, run.id, state="succeeded", environment=environment, **sizes, **progress)
    return made.id
