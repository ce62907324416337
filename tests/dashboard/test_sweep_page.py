"""The Sweep page against a real backend, without a browser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import button, charts, choose, texts, visit
from tests.dashboard.stand import Stand

RATES = [0.01, 0.02, 0.05, 0.1]


def submit(stand: Stand) -> list[str]:
    """Submit a sweep of four settings of two seeds, and let all runs succeed, at a higher rate the better."""
    made = stand.client.sweep(
        {
            "name": "search",
            "experiment": {
                "dataset": "digits",
                "student": {"model": "small_cnn"},
                "methods": ["ce"],
                "seeds": [0, 1],
                "training": {"epochs": 2},
            },
            "grid": {"training.optimizer.lr": RATES},
        }
    )
    stand.register(slots=1)
    for _ in range(2 * len(RATES)):
        claim = stand.start(epoch=2)
        stand.finish(claim)
    return [item.id for item in made.items]


def starts(app: AppTest) -> list[Any]:
    """Return the button that starts a sweep, if there is one."""
    return [item for item in app.button if item.label.startswith("Start the sweep")]


def look(view: str) -> AppTest:
    app = visit("sweep", name="search")
    app.session_state["tab"] = view
    return app.run()


def test_page_without_a_name_lists_the_sweeps(stand: Stand) -> None:
    assert "There are no sweeps yet." in texts(visit("sweep"))
    submit(stand)
    app = visit("sweep")
    assert not app.exception
    assert app.title[0].value == "Sweeps"
    assert "The link may be old." in texts(visit("sweep", name="nothing"))


def test_settings_are_columns_with_results(stand: Stand) -> None:
    submit(stand)
    app = visit("sweep", name="search")
    assert not app.exception
    assert "4 of 4 experiments ended, 8 of 8 runs succeeded" in texts(app)
    [frame] = app.dataframe
    assert list(frame.value["training.optimizer.lr"]) == RATES
    assert list(frame.value["n"]) == [2, 2, 2, 2]
    assert "Best" in texts(app)


def test_two_settings_are_compared(stand: Stand) -> None:
    first, second, *_ = submit(stand)
    app = visit("sweep", name="search")
    choose(app, "sweep", first, second)
    assert not app.exception
    compared = visit("compare", experiment=[first, second])
    assert not compared.exception
    assert "Compared as settings" in texts(compared)
    assert "Result" in [item.value for item in compared.subheader]


def test_the_form_makes_a_sweep(stand: Stand) -> None:
    app = visit("new")
    button(app, "Digits demo").click().run()
    varied = next(item for item in app.multiselect if item.label == "Fields that vary")
    varied.set_value(["training.optimizer.lr"]).run()
    values = next(item for item in app.text_input if item.key == "new.sweep.values.training.optimizer.lr")
    values.set_value("0.01, 0.05, x y").run()
    assert not app.exception
    assert not starts(app), "the values are no numbers"
    values.set_value("0.01, 0.05").run()
    (start,) = starts(app)
    start.click().run()
    assert not app.exception
    assert "is queued" in texts(app)
    (made,) = stand.client.sweeps.list().items
    found = stand.client.sweeps.get(made.name)
    assert [item.values for item in found.settings] == [
        {"training.optimizer.lr": 0.01},
        {"training.optimizer.lr": 0.05},
    ]


@pytest.mark.parametrize(
    ("view", "drawn"),
    [
        ("Slices", {"sweep.slice.0"}),
        ("Parallel coordinates", {"sweep.parallel"}),
        ("Curves", {"sweep.curves"}),
        ("Heat map", set()),
        ("Importance", set()),
    ],
)
def test_figures_of_a_sweep(stand: Stand, view: str, drawn: set[str]) -> None:
    submit(stand)
    app = look(view)
    assert not app.exception
    assert charts(app) == drawn
    if view == "Heat map":
        assert "A heat map needs two fields" in texts(app)
    if view == "Importance":
        assert "do not vary" in texts(app), "every run reports the same result"


def test_choices_are_in_the_address(stand: Stand) -> None:
    submit(stand)
    app = visit("sweep", name="search", only="training.optimizer.lr = 0.05", result_of="ce")
    assert not app.exception
    assert list(app.dataframe[0].value["training.optimizer.lr"]) == [0.05]
    assert app.session_state["result_of"] == "ce"
    app.multiselect(key="only").set_value(["training.optimizer.lr = 0.01"]).run()
    assert list(app.dataframe[0].value["training.optimizer.lr"]) == [0.01]
    curves = visit("sweep", name="search", tab="Curves", colour="training.optimizer.lr")
    assert not curves.exception
    assert curves.selectbox(key="colour").value == "training.optimizer.lr"


def test_choices_of_another_sweep_are_dropped(stand: Stand) -> None:
    submit(stand)
    app = visit("sweep")
    app.session_state["colour"] = "methods.1"
    app.session_state["result_of"] = "method 2 (varies)"
    app.session_state["only"] = ["methods.1 = kd"]
    app.query_params["name"], app.query_params["tab"] = "search", "Curves"
    app.run()
    assert not app.exception
    assert app.selectbox(key="colour").value == "training.optimizer.lr"
    assert charts(app) == {"sweep.curves"}


def test_downloaded_figures_are_named_after_the_sweep(stand: Stand) -> None:
    submit(stand)
    [chart] = [item for item in look("Slices").get("bidi_component") if item.proto.component_name == "dkd_chart"]
    assert json.loads(chart.proto.json)["filename"] == "search-slice-training-optimizer-lr"
