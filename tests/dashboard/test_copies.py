"""The form with a copy of an experiment, against a real backend and without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import button, field, texts, visit
from tests.dashboard.stand import Stand


@pytest.fixture
def original(stand: Stand) -> str:
    return stand.submit("first")


def start(app: AppTest) -> None:
    next(item for item in app.button if item.label.startswith("Start ")).click().run()


def test_a_copy_records_its_parent(stand: Stand, original: str) -> None:
    app = visit("new", clone=original)
    start(app)
    assert not app.exception
    assert stand.client.experiment("first-2").parent == original


def test_a_copy_that_was_edited_as_yaml_or_brought_back_is_still_a_copy(stand: Stand, original: str) -> None:
    app = visit("new", clone=original)
    yaml = field(app, "new.yaml")
    yaml.set_value(yaml.value.replace("epochs: 20", "epochs: 7")).run()
    button(app, "Empty form").click().run()
    button(app, "Replace").click().run()
    assert field(app, ".name").value == ""
    button(app, "Bring it back").click().run()
    start(app)
    assert not app.exception
    copy = stand.client.experiment("first-2")
    assert (copy.spec["training"]["epochs"], copy.parent) == (7, original)


def test_a_copy_of_a_deleted_experiment_is_started_at_the_second_attempt(stand: Stand, original: str) -> None:
    app = visit("new", clone=original)
    stand.client.cancel_experiment(original)
    stand.client.delete_experiment(original)
    start(app)
    assert "has been deleted meanwhile, and nothing was started" in texts(app)
    assert stand.client.experiments().items == []
    start(app)
    assert "is queued" in texts(app)
    assert stand.client.experiment("first-2").parent == ""
