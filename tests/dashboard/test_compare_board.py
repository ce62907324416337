"""The board of the Compare page against a real backend, without a browser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.protocol.layouts import BoardFigure, BoardLayout
from tests.dashboard.boards import rising, train
from tests.dashboard.conftest import charts, texts, visit
from tests.dashboard.stand import Stand

METRICS = {"test/top1": rising(60), "train/loss": [2.0, 1.0, 0.5], "grad/norm": [3.0], "zz/plugin": [1.0, 2.0]}


@pytest.fixture
def made(stand: Stand) -> str:
    """Submit an experiment of two methods and two seeds without a teacher, of which every run succeeds."""
    stand.register()
    experiment = stand.submit("board", methods=["ce", {"name": "ce", "label": "ce, smooth"}])
    for _ in range(4):
        train(stand, 20, METRICS, ends=True)
    return experiment


def board(experiment: str, **more: Any) -> AppTest:
    app = visit("compare", experiment=experiment, **{"as": "board", **more})
    assert not app.exception
    return app


def figure(app: AppTest, key: str) -> dict[str, Any]:
    [chart] = [item for item in app.get("bidi_component") if str(item.key) == key]
    drawn: dict[str, Any] = json.loads(json.loads(chart.proto.json)["figure"])
    return drawn


def picker(app: AppTest) -> Any:
    return next(item for item in app.selectbox if item.label == "Add a figure")


def pressed(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception
    return app


def test_a_board_begins_with_result_loss_and_other_groups(made: str) -> None:
    app = board(made)
    assert {f"board.{made}.test/top1", f"board.{made}.train/loss"} <= charts(app)
    assert "pin" not in app.query_params
    drawn = figure(app, f"board.{made}.test/top1")
    assert drawn["layout"]["xaxis"]["autorangeoptions"]["include"] == [0, 20]
    assert {trace["name"] for trace in drawn["data"] if trace.get("meta")} == {"ce", "ce, smooth"}
    assert "ce, smooth</li>" in texts(app), "one legend for all figures"


def test_only_metrics_that_were_measured_are_offered(made: str) -> None:
    options = picker(board(made, pin=["train/loss"])).options
    assert "Accuracy · Test accuracy (%)" in options
    assert any("Plugin" in option for option in options), "also of a plug-in that is not loaded"
    assert not any("Training loss" in option for option in options), "it is pinned"
    assert not any("NC4" in option for option in options)


def test_figures_are_pinned_moved_and_unpinned(made: str) -> None:
    app = board(made, pin=["train/loss"])
    assert charts(app) == {f"board.{made}.train/loss"}
    picker(app).set_value(("zz/plugin",)).run()
    assert not app.exception
    assert app.query_params["pin"] == ["train/loss", "zz/plugin"]
    pressed(app, "board.earlier.zz/plugin")
    assert app.query_params["pin"] == ["zz/plugin", "train/loss"]
    pressed(app, "board.unpin.train/loss")
    assert app.query_params["pin"] == "zz/plugin"
    pressed(app, "board.unpin.zz/plugin")
    assert app.query_params["pin"] == ""
    assert "No metric is pinned" in texts(app)
    assert not charts(app)


def test_right_axis_and_logarithm_are_chosen_for_each_figure(made: str) -> None:
    app = board(made, pin=["test/top1"])
    right = next(item for item in app.selectbox if item.label == "Right axis")
    right.set_value("train/loss").run()
    assert app.query_params["pin"] == "test/top1|train/loss"
    next(item for item in app.toggle if item.label == "Log scale").set_value(True).run()
    assert not app.exception
    assert app.query_params["pin"] == "test/top1|train/loss|log"
    drawn = figure(app, f"board.{made}.test/top1")["layout"]
    assert drawn["yaxis"]["type"] == "log"
    assert drawn["yaxis2"]["title"]["text"].endswith("dashed")


def test_a_link_contains_the_whole_board(made: str) -> None:
    link = {"over": "steps", "spread": "every run", "width": "large", "smooth": "0.5"}
    app = board(made, pin=["test/top1|train/loss"], **link)
    drawn = figure(app, f"board.{made}.test/top1")
    links = [trace["meta"]["link"] for trace in drawn["data"] if trace.get("meta")]
    assert len(set(links)) == 4
    assert all(link.startswith("run?id=") for link in links)
    assert drawn["layout"]["xaxis"]["title"]["text"] == "Step"
    assert "weight 0.5" in texts(app)
    assert "A line per run" in texts(app)


@pytest.mark.parametrize("pin", ["a|b|c", "\x00", "|x"])
def test_an_invalid_link_is_reported(made: str, pin: str) -> None:
    app = visit("compare", experiment=made, pin=pin, **{"as": "board"})
    assert not app.exception
    assert "The link may be old" in texts(app)


def test_a_pinned_metric_without_measurements_says_so(made: str) -> None:
    app = board(made, pin=["collapse/nc4"])
    assert "No shown run has measured this metric." in texts(app)
    assert not charts(app)


def test_layouts_are_saved_replaced_shown_and_deleted(made: str, stand: Stand) -> None:
    app = board(made, pin=["train/loss||log"], over="steps")
    app.text_input(key="board.layout.name").set_value("losses").run()
    pressed(app, "board.layout.save")
    stored = stand.client.layouts.get("losses").layout
    assert (stored.figures[0].metric, stored.figures[0].log, stored.x) == ("train/loss", True, "steps")

    other = board(made, pin=["test/top1"])
    other.text_input(key="board.layout.name").set_value("losses").run()
    pressed(other, "board.layout.save")
    assert "There is a layout of this name" in texts(other)
    assert stand.client.layouts.get("losses").layout.x == "steps", "it asks before it replaces"
    pressed(other, "board.layout.replace")
    assert stand.client.layouts.get("losses").layout.x == "epochs"

    right = BoardFigure(metric="train/loss", right="test/top1")
    stand.client.layouts.save("two", BoardLayout(figures=(right,), x="time", spread="sd", size="small"))
    other.run()
    other.selectbox(key="board.layout.chosen").set_value("two").run()
    pressed(other, "board.layout.show")
    assert other.query_params["pin"] == "train/loss|test/top1"
    assert other.session_state["over"] == "time"
    assert other.session_state["width"] == "small"
    assert "sample standard deviation" in texts(other)
    pressed(other, "board.layout.delete")
    assert len(stand.client.layouts.list().items) == 2, "it asks before it deletes"
    pressed(other, "board.layout.delete-now")
    assert [item.name for item in stand.client.layouts.list().items] == ["losses"]


def test_an_invalid_name_is_refused_with_its_reason(made: str, stand: Stand) -> None:
    app = board(made)
    app.text_input(key="board.layout.name").set_value("a\u200bb").run()
    pressed(app, "board.layout.save")
    assert "not shown" in texts(app)
    assert stand.client.layouts.list().items == []


def test_while_students_wait_the_teachers_progress_and_curve_are_shown(stand: Stand) -> None:
    stand.register()
    teacher = {"model": "resnet8", "training": {"epochs": 10}}
    experiment = stand.submit("waiting", teacher=teacher, methods=["kd"], seeds=[0, 1])
    train(stand, 4, METRICS)
    app = board(experiment)
    assert "No student has measured anything yet" in texts(app)
    assert any("epoch 4.0 of 10" in item.proto.text for item in app.get("progress"))
    assert any("2 students wait for it" in item.proto.text for item in app.get("progress"))
    assert any(item.proto.label == "Its curves" for item in app.get("page_link"))
    with_teacher = board(experiment, teachers="true", pin="test/top1")
    drawn = figure(with_teacher, f"board.{experiment}.test/top1")
    assert [trace["name"] for trace in drawn["data"] if trace.get("meta")] == ["teacher"]
    _, end = drawn["layout"]["xaxis"]["autorangeoptions"]["include"]
    assert 4 < end < 5, "a little beyond what there is, not all 10 epochs"
    results = visit("compare", experiment=experiment)
    assert any("epoch 4.0 of 10" in item.proto.text for item in results.get("progress"))


def test_single_runs_have_a_board(made: str, stand: Stand) -> None:
    runs = [run.id for run in stand.client.experiment(made).runs[:2]]
    app = visit("compare", run=runs, pin="train/loss", **{"as": "board"})
    assert not app.exception
    assert charts(app) == {f"board.{'.'.join(runs)}.train/loss"}


def test_means_of_results_open_the_experiment_and_points_their_runs(made: str) -> None:
    app = visit("compare", experiment=made)
    assert not app.exception
    [forest] = [figure(app, key) for key in charts(app) if "forest" in key]
    assert {trace["meta"]["link"] for trace in forest["data"]} == {f"experiment?id={made}"}
    [seeds] = [figure(app, key) for key in charts(app) if "seeds" in key]
    links = [trace["meta"] for trace in seeds["data"]]
    assert all(link.startswith("run?id=") for meta in links for link in meta.get("links", []))
    assert {meta["link"] for meta in links if "link" in meta} == {f"experiment?id={made}"}
