"""The tab "Predictions" of the Run page and the section of Compare, against a fake backend and without a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from backend.predictions import measures
from backend.predictions.networks import Compared, own
from core.protocol.predictions import ConfidenceBin, SeedsSummary
from dashboard import theme
from dashboard.charts.prediction_figures import (
    accuracy_figure,
    class_differences_figure,
    confusion_figure,
    correlation_figure,
    reliability_figure,
)
from dashboard.lists import prediction_rows
from tests.backend import predicted
from tests.dashboard.conftest import charts, curve_names, tables, texts, visit
from tests.dashboard.fake_predictions import DIFFERENCE
from tests.dashboard.fakes import FakeBackend, digits_spec, scenes_spec

TEACHER, RUN = "run-0001-000", "run-0001-001"
JPEG = b"\xff\xd8\xff of a test"


@pytest.fixture
def finished(backend: FakeBackend) -> FakeBackend:
    """Finished runs of two methods with predictions of eight images, two of which have a picture."""
    backend.submit(digits_spec(methods=["dkd", "kd"], seeds=[0]))
    for run in list(backend.runs):
        backend.advance(run, 30)
        backend.predictions[run] = predicted.items(teacher=None if run == TEACHER else predicted.TEACHER)
    backend.pictures = {2: JPEG, 5: JPEG}
    return backend


def look(run: str = RUN, **state: Any) -> AppTest:
    """Return the tab, with the values of controls."""
    app = visit("run", id=run)
    app.session_state["part"] = "Predictions"
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def cards(app: AppTest) -> list[str]:
    """Return the text of each image of the gallery."""
    bodies = [item.proto.body for item in app.get("html") if "dkd-thumbs" in item.proto.body]
    return [part for body in bodies for part in body.split("<figure>")[1:]]


class TestTab:
    def test_figures_of_run_and_teacher(self, finished: FakeBackend) -> None:
        app = look()
        assert not app.exception
        assert {"run.accuracy-by-class", "run.confusion", "run.reliability", "run.correlations"} <= charts(app)
        assert curve_names(app, "run.accuracy-by-class") == ["teacher", "dkd"]

    def test_every_share_says_of_how_many_images(self, finished: FakeBackend) -> None:
        networks, agreement, *_ = tables(look())
        assert [row["Right"] for row in networks] == ["50.0 % (4 of 8 images)", "50.0 % (4 of 8 images)"]
        same = "dkd predicts the same class as teacher"
        assert [(row["Images"], row[same], row["dkd is right"]) for row in agreement] == [
            ("all test images", "62.5 % (5 of 8 images)", "50.0 % (4 of 8 images)"),
            ("where teacher is right", "75.0 % (3 of 4 images)", "75.0 % (3 of 4 images)"),
            ("where teacher is wrong", "50.0 % (2 of 4 images)", "25.0 % (1 of 4 images)"),
        ]

    def test_images_on_which_they_differ_come_first(self, finished: FakeBackend) -> None:
        shown = cards(look())
        assert [re.findall(r"image (\d)<", card) for card in shown] == [["2"], ["5"], ["7"]]
        assert "base64" in shown[0]
        assert "no picture kept" in shown[2]
        assert "dkd: dog 0.60, gives its class 0.10" in shown[0]
        assert "teacher: cat 0.80" in shown[0]
        assert "3 of 8 test images." in texts(look())

    def test_filters(self, finished: FakeBackend) -> None:
        assert [re.findall(r"image (\d)<", card) for card in cards(look(images="only dkd is right"))] == [["5"]]
        assert len(cards(look(images="all images", of_class="dog"))) == 3
        assert len(cards(look(images="all images", predicted="owl"))) == 1
        assert len(cards(look(images="all images", with_picture=True))) == 2
        least: dict[str, Any] = {"least-margin": 0.5}
        assert len(cards(look(images="all images", **least))) == 2
        assert "No test image is left" in texts(look(images="both are right", of_class="owl"))

    def test_another_run_is_a_reference(self, finished: FakeBackend) -> None:
        app = look(beside="run-0001-002")
        assert not app.exception
        assert curve_names(app, "run.accuracy-by-class") == ["kd", "dkd"]

    def test_teachers_own_run_has_no_reference_until_one_is_chosen(self, finished: FakeBackend) -> None:
        app = look(TEACHER)
        assert not app.exception
        assert "no teacher to compare its predictions with" in texts(app)
        assert curve_names(app, "run.accuracy-by-class") == ["teacher"]
        assert len(cards(app)) == 4, "the images that it gets wrong"
        assert curve_names(look(TEACHER, beside=RUN), "run.accuracy-by-class") == ["dkd", "teacher"]

    def test_run_of_an_earlier_version_says_so_in_one_sentence(self, finished: FakeBackend) -> None:
        finished.predictions = {}
        app = look()
        assert not app.exception
        assert "This run kept no predictions of its test images" in texts(app)
        assert not charts(app)

    def test_run_without_confidences_has_everything_else(self, finished: FakeBackend) -> None:
        finished.predictions[RUN] = predicted.items(confidence=False)
        app = look()
        assert "kept no confidences" in texts(app)
        assert "run.reliability" not in charts(app)
        assert "run.confusion" in charts(app)

    @pytest.mark.parametrize(("end", "text"), [(False, "appear when the run has succeeded"), (True, "ended before it")])
    def test_run_that_has_not_succeeded_asks_for_nothing(self, backend: FakeBackend, end: bool, text: str) -> None:
        backend.submit(digits_spec())
        backend.advance(TEACHER, 3)
        if end:
            backend.end(TEACHER, "failed", "out of memory")
        assert text in texts(look(TEACHER))
        assert not any("/predictions" in request for request in backend.requests)

    def test_run_of_detection_has_no_such_tab(self, backend: FakeBackend) -> None:
        backend.submit(scenes_spec())
        backend.advance(TEACHER, 3)
        app = visit("run", id=TEACHER)
        [tabs] = [item for item in app.get("button_group") if item.proto.label == "Show"]
        names = [option.content for option in tabs.proto.options]
        assert "Predictions" not in names
        assert "Detections" in names

    def test_names_of_classes_are_escaped(self, finished: FakeBackend) -> None:
        hostile = replace(predicted.items(), classes=("<img src=x>", '"onload="', "$x$"))
        finished.predictions[RUN] = hostile
        app = look()
        assert not app.exception
        for card in cards(app):
            assert "<img src=x>" not in card
            assert '"onload="' not in card


class TestCompare:
    def show(self, **more: Any) -> AppTest:
        app = visit("compare", experiment="exp-0001")
        app.session_state["predictions"] = True
        for key, value in more.items():
            app.session_state[key] = value
        return app.run()

    def test_nothing_is_read_until_it_is_wanted(self, finished: FakeBackend) -> None:
        visit("compare", experiment="exp-0001")
        assert not any("predictions" in request for request in finished.requests)

    def test_methods_over_seeds(self, finished: FakeBackend) -> None:
        app = self.show()
        assert not app.exception
        assert {"compare.reliability", "compare.classes", "compare.confusion", "compare.correlations.1"} <= charts(app)
        cells = [row["kd"] for rows in tables(app) for row in rows if row.get("Class") == "cat" and "kd" in row]
        assert re.search(r"^50\.0 % \(n = 2\); −10\.\d* \[−15\.\d*, −5\.\d*\]$", cells[0])
        assert "A note of the test." in texts(app)
        assert len(cards(app)) == 0 or "kd" in cards(app)[0]

    def test_teacher_is_a_counterpart(self, finished: FakeBackend) -> None:
        app = self.show(**{"look-against": "teacher"})
        assert not app.exception
        assert "teacher: " in cards(app)[0]

    def test_experiment_of_an_earlier_version_says_so(self, finished: FakeBackend) -> None:
        finished.predictions = {}
        app = self.show()
        assert not app.exception
        assert "kept no predictions" in texts(app)


def confusion(own_classes: tuple[int, ...] = predicted.STUDENT) -> Any:
    found = Compared(own(predicted.items(own_classes)), own(predicted.items(predicted.TEACHER)), "teacher", ())
    return measures.confusion_reply("r", "teacher", predicted.CLASSES, [found], 100)


class TestFigures:
    def test_difference_of_confusions_is_in_points_of_the_class(self) -> None:
        [cells] = confusion_figure(confusion(), "difference", diagonal=False).data
        assert list(cells.z[0]) == [None, 25, 0]
        assert (cells.zmin, cells.zmax) == (-100, 100)
        assert cells.customdata[0][1] == "+1"
        [cells] = confusion_figure(confusion(), "reference", diagonal=True).data
        assert list(cells.z[0]) == [75, 25, 0]
        assert cells.customdata[0][0] == "3"

    def test_reliability_has_the_number_of_images_of_each_range(self) -> None:
        found = [ConfidenceBin(low=0.4, high=0.5, images=8, confidence=0.45, right=0.25)]
        _, line, bars = reliability_figure({"run": found}, {"run": "dkd"}, {"run": theme.TEACHER}).data
        assert (list(line.x), list(line.y), list(bars.y)) == ([0.45], [25.0], [8])

    def test_map_of_correlations_has_a_common_scale_if_one_is_given(self) -> None:
        found = measures.correlation_reply("r", "teacher", predicted.CLASSES, [DIFFERENCE])
        [cells] = correlation_figure(found).data
        assert (cells.zmin, cells.zmax) == (0, 0.3)
        assert correlation_figure(found, 1.0).data[0].zmax == 1

    def test_class_without_an_interval_is_drawn(self) -> None:
        summary = SeedsSummary(n=1, mean=2.0, interval=None)
        [points] = class_differences_figure({"cat": summary}, "x", theme.TEACHER, {"cat": "cat (4)"}).data
        assert (list(points.x), list(points.y), list(points.error_x.array)) == ([2.0], ["cat (4)"], [0.0])

    def test_names_of_classes_are_escaped(self) -> None:
        bars, *_ = accuracy_figure({"run": {"<b>": 1.0}}, {"run": "dkd"}, ["<b>"]).data
        assert list(bars.x) == ["&lt;b&gt;"]


class TestRows:
    def test_most_frequent_confusions_say_of_how_many_images(self) -> None:
        names: Any = {"run": "dkd", "reference": "teacher"}
        first, *_ = prediction_rows.confusion_rows(confusion(), names, "run")
        assert first == {
            "Class": "cat",
            "Predicted as": "dog",
            "dkd": "50.0 % (2 of 4 images)",
            "teacher": "25.0 % (1 of 4 images)",
            "Difference (images)": "+1",
        }

    def test_share_of_nothing_is_a_dash(self) -> None:
        assert prediction_rows.share_of(0, 0) == "–"
        assert prediction_rows.share_of(1, 1) == "100.0 % (1 of 1 image)"
