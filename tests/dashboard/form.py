"""Fixtures of tests of the form: a real backend without a worker, and the page with an example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.specs import ExperimentSpec, parse_experiment
from tests.dashboard.conftest import button, connected, visit
from tests.dashboard.stand import Stand, standing


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Run a real backend without a worker."""
    with standing(tmp_path_factory.mktemp("backend")) as made:
        yield made


@pytest.fixture
def backend(running: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stand]:
    """Let the dashboard in this process find the backend, whose experiments are deleted after each test."""
    with connected(running, monkeypatch, tmp_path):
        yield running
    for key in made(running):
        running.client.cancel_experiment(key)
        running.client.delete_experiment(key)


def made(backend: Stand) -> dict[str, ExperimentSpec]:
    """Return the spec of each experiment by name, the oldest first."""
    names = [item.name for item in backend.client.experiments(sort="created").items]
    return {name: parse_experiment(backend.client.experiment(name).spec) for name in names}


@pytest.fixture
def form(backend: Stand) -> AppTest:
    """The New experiment page with the digits demo loaded."""
    app = visit("new")
    button(app, "Digits demo").click().run()
    assert not app.exception
    return app
