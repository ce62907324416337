"""The tab "Features" of the Run page and the section of Compare, on the recorded lab and without a browser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from backend.predictions import features as replies
from backend.predictions.projections import Projector
from core.protocol.features import FeatureMap
from dashboard import theme
from dashboard.charts.feature_figures import Line, angles_figure, class_style, measure_figure, points_figure
from dashboard.lists import feature_rows
from tests import recorded_lab
from tests.backend import featured
from tests.dashboard.conftest import charts, curve_names, tables, texts, visit
from tests.dashboard.recorded import lab, recorded, run_of
from tests.dashboard.stand import Stand

__all__ = ["lab", "recorded"]

HOSTILE = ("<img src=x>", '"onload="', "$x$")


@pytest.fixture(scope="module")
def runs(lab: Stand) -> dict[tuple[str, int], str]:
    """Return ids of runs by label and seed, of which some have kept features.

    With seed 0 all methods have, DKD-Align after one epoch; with seed 1 KD alone, of classes with hostile names; and
    with seed 2 all of them without those of the teacher.
    """
    experiment = lab.client.experiment(recorded_lab.METHODS)
    ids = {(run.label, run.seed): run.id for run in experiment.runs}
    kept = {(label, 0): featured.features(teacher=label not in ("teacher", "ce")) for label, seed in ids if seed == 0}
    kept["dkd_align (log)", 0] = featured.features(epochs=(4,))
    kept["kd", 1] = featured.features(classes=HOSTILE)
    kept |= {(label, 2): featured.features(teacher=False) for label in recorded_lab.LABELS}
    for key, found in kept.items():
        featured.write_features(lab.folder / "artifacts" / "runs" / ids[key] / "attempt-1", found)
    return ids


@pytest.fixture
def finished(recorded: Stand, runs: dict[tuple[str, int], str]) -> Stand:
    return recorded


def look(run: str, **state: Any) -> AppTest:
    """Return the tab, with the values of controls."""
    app = visit("run", id=run)
    app.session_state["part"] = "Features"
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def compare(experiment: str = recorded_lab.METHODS, **state: Any) -> AppTest:
    app = visit("compare", experiment=experiment)
    app.session_state["features"] = True
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


class TestTab:
    @pytest.fixture
    def run(self, finished: Stand, runs: dict[tuple[str, int], str]) -> str:
        return runs["dkd", 0]

    def test_teacher_and_run_side_by_side(self, run: str) -> None:
        app = look(run)
        assert not app.exception
        assert {f"run.features.{name}" for name in ("points.0", "points.1", "nc1", "nc4", "angle_mean")} <= charts(app)
        assert curve_names(app, "run.features.points.0") == ["cat", "dog", "owl"]
        assert curve_names(app, "run.features.nc1") == ["teacher", "dkd"]
        shown = texts(app)
        assert "**teacher**, as it taught" in shown
        assert "**dkd**, after epoch 10" in shown
        assert "12 test images of 3 classes" in shown
        assert "40 test images of all classes" in shown

    def test_slider_over_epochs(self, run: str) -> None:
        slider = look(run).select_slider(key="feature-epoch")
        assert [str(epoch) for epoch in slider.options] == ["1", "5", "10"]
        chosen: dict[str, Any] = {"feature-epoch": 5}
        app = look(run, **chosen)
        assert not app.exception
        assert "**dkd**, after epoch 5" in texts(app)
        row = next(row for row in tables(app)[-1] if row["Measure"].startswith("NC1"))
        assert (row["teacher"], row["dkd"]) == ("0.1000", "0.5000")
        assert "**teacher**, as it taught" in texts(app)

    def test_angles_are_drawn_when_they_are_wanted(self, run: str) -> None:
        assert not {key for key in charts(look(run)) if "features.angles" in key}
        wanted: dict[str, Any] = {"feature-angles": True}
        app = look(run, **wanted)
        assert not app.exception
        assert {"run.features.angles.0", "run.features.angles.1"} <= charts(app)

    @pytest.mark.parametrize("projection", ["pca", "tsne"])
    def test_each_projection_says_what_may_be_concluded(self, run: str, projection: Any) -> None:
        app = look(run, projection=projection)
        assert not app.exception
        assert feature_rows.MEANINGS[projection] in texts(app)
        assert ("of the variance" in texts(app)) == (projection == "pca")

    def test_projection_that_is_not_installed_says_what_to_install(
        self, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = {"umap": "UMAP needs the Python package umap-learn"}
        monkeypatch.setattr("backend.predictions.features.unavailable", lambda: missing)
        app = look(run, projection="umap")
        assert not app.exception
        assert "umap-learn" in texts(app)
        assert "run.features.points.0" not in charts(app)

    def test_teachers_own_run_has_one_picture(self, finished: Stand, runs: dict[tuple[str, int], str]) -> None:
        app = look(runs["teacher", 0])
        assert not app.exception
        assert "run.features.points.0" in charts(app)
        assert "run.features.points.1" not in charts(app)

    def test_run_with_one_epoch_has_no_slider(self, finished: Stand, runs: dict[tuple[str, int], str]) -> None:
        app = look(runs["dkd_align (log)", 0])
        assert not app.exception
        assert "run.features.points.0" in charts(app)
        assert not app.select_slider
        assert "run.features.nc1" not in charts(app)

    def test_run_that_kept_none_says_why_in_one_sentence(
        self, finished: Stand, runs: dict[tuple[str, int], str]
    ) -> None:
        app = look(runs["dkd", 1])
        assert not app.exception
        assert "This run kept no features of its test images" in texts(app)

    @pytest.mark.parametrize(
        ("experiment", "text"),
        [(recorded_lab.WAITING, "appear when the run has succeeded"), (recorded_lab.FAILED, "ended before it")],
    )
    def test_run_that_has_not_succeeded_asks_for_nothing(self, recorded: Stand, experiment: str, text: str) -> None:
        assert text in texts(look(run_of(recorded.client.experiment(experiment), "teacher")))
        assert not any("/features" in request for request in recorded.requests)

    def test_run_of_detection_has_no_such_tab(self, recorded: Stand) -> None:
        app = visit("run", id=run_of(recorded.client.experiment(recorded_lab.DETECTION), "pkd"))
        [tabs] = [item for item in app.get("button_group") if item.proto.label == "Show"]
        assert "Features" not in [option.content for option in tabs.proto.options]

    def test_names_of_classes_are_escaped(self, finished: Stand, runs: dict[tuple[str, int], str]) -> None:
        app = look(runs["kd", 1])
        assert not app.exception
        [legend] = [item.proto.body for item in app.get("html") if "dkd-kinds" in item.proto.body]
        assert "<img" not in legend
        assert curve_names(app, "run.features.points.0")[0] == "&lt;img src=x&gt;"


class TestCompare:
    def test_nothing_is_read_until_it_is_wanted(self, finished: Stand) -> None:
        visit("compare", experiment=recorded_lab.METHODS)
        assert not any("/features" in request for request in finished.requests)

    def test_teacher_and_methods_side_by_side(self, finished: Stand) -> None:
        app = compare()
        assert not app.exception
        assert {f"compare.features.points.{number}" for number in range(5)} <= charts(app)
        assert curve_names(app, "compare.features.nc1") == ["teacher", *recorded_lab.LABELS]

    def test_chosen_methods_alone(self, finished: Stand) -> None:
        chosen: dict[str, Any] = {"feature-methods": ["kd"], "feature-classes": ["dog"]}
        app = compare(**chosen)
        assert not app.exception
        assert curve_names(app, "compare.features.nc1") == ["teacher", "kd"]

    def test_run_without_features_is_named(self, finished: Stand) -> None:
        chosen: dict[str, Any] = {"feature-seed": 1}
        app = compare(**chosen)
        assert not app.exception
        assert "dkd is left out: This run kept no features" in texts(app)
        assert curve_names(app, "compare.features.nc1") == ["teacher", "kd"]

    def test_teacher_of_a_method_that_uses_none_is_its_own_run(self, finished: Stand) -> None:
        chosen: dict[str, Any] = {"feature-seed": 2}
        app = compare(**chosen)
        assert not app.exception
        assert "**teacher**, after its epoch 10" in texts(app)
        assert curve_names(app, "compare.features.nc1") == ["teacher", *recorded_lab.LABELS]

    def test_detection_says_that_it_has_none(self, recorded: Stand) -> None:
        assert "Runs of object detection keep no features" in texts(visit("compare", experiment=recorded_lab.DETECTION))

    def test_nothing_has_succeeded_yet(self, recorded: Stand) -> None:
        assert "features are written when a run succeeds" in texts(compare(recorded_lab.WAITING))


def points() -> FeatureMap:
    return replies.feature_map(Projector(), ("r", 1), featured.features(), "run", "pca", 10)


class TestFigures:
    def test_point_has_image_and_class(self) -> None:
        figure = points_figure(points(), featured.CLASSES, "image")
        cats = figure.data[0]
        assert (cats.name, list(cats.customdata)) == ("cat", [0, 3, 6, 9])
        assert cats.marker.color == theme.PALETTE[0]
        assert "class cat" in cats.hovertemplate
        assert tuple(figure.layout.xaxis.range) == tuple(figure.layout.yaxis.range)
        assert figure.layout.yaxis.scaleanchor == "x"

    def test_classes_that_are_not_chosen_are_grey_and_below(self) -> None:
        figure = points_figure(points(), ["dog"], "image")
        assert [trace.name for trace in figure.data] == ["cat", "owl", "dog"]
        assert len({trace.marker.color for trace in figure.data}) == 2

    def test_twenty_classes_can_be_told_apart(self) -> None:
        assert len({class_style(number) for number in range(30)}) == 30

    def test_diagonal_of_angles_is_empty(self) -> None:
        [cells] = angles_figure(points()).data
        assert list(cells.z[0]) == [None, 120, 90]

    def test_teacher_is_a_line_over_all_epochs(self) -> None:
        lines = [
            Line("teacher", (), [0.1], theme.TEACHER),
            Line("kd", [1, 9], [0.5, 0.0], theme.Style(theme.BLUE)),
        ]
        teacher, kd = measure_figure(lines, "NC1", "%", logarithmic=True).data
        assert (list(teacher.x), list(teacher.y)) == ([0, 9], [0.1, 0.1])
        assert list(kd.y) == [0.5, None], "0 has no logarithm"

    def test_largest_equal_angle(self) -> None:
        assert feature_rows.largest_equal_angle(2) == pytest.approx(180)
        assert feature_rows.largest_equal_angle(4) == pytest.approx(np.degrees(np.arccos(-1 / 3)))
        assert feature_rows.largest_equal_angle(1) is None
