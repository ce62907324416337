"""The tab "Detections" of the Run page, against a fake backend and without a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from backend.artifacts.detection_replies import image_reply
from core.protocol.detections import ScoreBin
from dashboard.charts import scenes
from dashboard.charts.detection_figures import ap_by_class_figure, calibration_figure, lost_ap_figure
from tests.backend import boxes
from tests.dashboard.conftest import button, charts, curve_names, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec

RUN = "run-0001-000"
JPEG = b"\xff\xd8\xff of a test"


@pytest.fixture
def finished(backend: FakeBackend) -> FakeBackend:
    """A finished run with detections of four images, two of which have a picture."""
    submit(backend)
    backend.advance(RUN, 30)
    backend.detections[RUN] = boxes.table()
    backend.pictures = {0: JPEG, 2: JPEG}
    return backend


DETECTOR = {"name": "faster_rcnn", "params": {"backbone": "resnet8"}}


def submit(backend: FakeBackend, method: str = "ce", teacher: Any = None) -> None:
    student = {"model": DETECTOR}
    backend.submit(digits_spec(dataset="digit_scenes", teacher=teacher, student=student, methods=[method], seeds=[0]))


def look(**state: Any) -> AppTest:
    """Return the tab, with the values of controls."""
    app = visit("run", id=RUN)
    app.session_state["part"] = "Detections"
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def drawings(app: AppTest) -> list[str]:
    """Return the drawings of each image."""
    return [item.proto.body for item in app.get("html") if "dkd-scenes" in item.proto.body]


def looks(drawing: str, panel: str) -> list[str]:
    """Return the style and the text of each box in a drawing, in the order of drawing."""
    [figure] = [part for part in drawing.split("<figure>") if f"<figcaption>{panel}<" in part]
    return [f"{look} {text}" for look, text in re.findall(r"dkd-box dkd-(\w+).*?<span[^>]*>(.*?)</span>", figure)]


class TestTab:
    def test_three_drawings_show_what_there_is_and_what_was_found(self, finished: FakeBackend) -> None:
        app = look(pictured=False)
        assert not app.exception
        first, second, third, fourth = drawings(app)
        assert looks(first, "Ground truth") == ["object cat", "object dog"]
        assert looks(first, "Teacher") == ["right cat 0.95", "right dog 0.90"]
        assert looks(first, "Student") == ["right cat 0.90", "missed dog"]
        assert looks(second, "Student") == ["classification cat 0.80"]
        assert "cat, score 0.80: wrong class (the object is dog)" in second
        assert [looks(third, panel) for panel in ("Ground truth", "Teacher", "Student")] == [[], [], []]
        assert looks(fourth, "Ground truth") == ["crowd dog", "object cat"]
        assert "base64" in first
        assert "base64" not in second
        assert "student: right 1, missed object 1" in texts(app)
        assert curve_names(app, "run.lost-ap") == ["Student"]
        assert curve_names(app, "run.calibration") == ["Teacher", "Student"]

    def test_boxes_of_a_teachers_own_run_are_the_teachers(self, backend: FakeBackend) -> None:
        submit(backend, "pkd", {"model": DETECTOR})
        backend.advance(RUN, 30)
        backend.detections[RUN] = boxes.table(teacher=False)
        [*_, fourth] = drawings(look(pictured=False))
        assert looks(fourth, "Teacher") == ["ignored dog 0.70", "missed cat"]
        assert "<figcaption>Student<" not in fourth

    def test_scores_of_a_file_stand_in_for_metrics_of_many_classes(self, finished: FakeBackend) -> None:
        assert curve_names(look(), "run.ap-by-class") == ["Student"]

    def test_lower_score_shows_more(self, finished: FakeBackend) -> None:
        first = drawings(look(score=0.2))[0]
        assert looks(first, "Student") == ["right cat 0.90", "right dog 0.30", "background dog 0.20"]

    def test_images_with_pictures_are_shown_first(self, finished: FakeBackend) -> None:
        app = look()
        assert len(drawings(app)) == 2
        assert "Pictures of 2 of them were kept." in texts(app)

    def test_filters_select_images_by_kind_network_and_class(self, finished: FakeBackend) -> None:
        app = look(pictured=False, result="missed object")
        assert [looks(item, "Student") for item in drawings(app)] == [
            ["right cat 0.90", "missed dog"],
            ["ignored dog 0.70", "missed cat"],
        ]
        app = look(pictured=False, result="duplicate", of="teacher")
        assert [looks(item, "Teacher") for item in drawings(app)] == [["right dog 0.90", "duplicate dog 0.60"]]
        app = look(result="background")
        assert "No test image is left" in texts(app)
        assert not drawings(app)

    def test_pages(self, finished: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dashboard.views.run_detections._PAGE_SIZE", 3)
        app = look(pictured=False)
        assert len(drawings(app)) == 3
        assert "Page 1 of 2, 4 test images" in texts(app)
        button(app, "Next").click().run()
        assert [looks(item, "Ground truth") for item in drawings(app)] == [["crowd dog", "object cat"]]
        # The page of the earlier filter has no meaning for the next one.
        app.session_state["class"] = "cat"
        app.run()
        assert len(drawings(app)) == 3

    def test_run_without_pictures_says_so(self, finished: FakeBackend) -> None:
        finished.pictures = {}
        app = look()
        assert "kept no pictures" in texts(app)
        assert len(drawings(app)) == 4

    def test_run_without_a_teacher_has_two_drawings(self, finished: FakeBackend) -> None:
        finished.detections[RUN] = boxes.table(teacher=False)
        app = look()
        assert "<figcaption>Teacher<" not in drawings(app)[0]
        assert "<figcaption>Student<" in drawings(app)[0]

    def test_run_without_detections_says_so(self, finished: FakeBackend) -> None:
        finished.detections = {}
        app = look()
        assert not app.exception
        assert "This run kept no detections." in texts(app)

    def test_running_run_has_bars_and_no_boxes_yet(self, backend: FakeBackend) -> None:
        submit(backend)
        backend.advance(RUN, 3)
        backend.runs[RUN].points += [("ap_class/7", 30, 2.0, 1.0, 41.0), ("ap_class_teacher/7", 30, 2.0, 1.0, 55.0)]
        app = look()
        assert "Boxes on test images appear when the run has succeeded." in texts(app)
        assert "run.ap-by-class" in charts(app)
        assert not any("/detections" in request for request in backend.requests)

    def test_failed_run_says_that_it_has_none(self, backend: FakeBackend) -> None:
        submit(backend)
        backend.advance(RUN, 3)
        backend.end(RUN, "failed", "out of memory")
        assert "This run ended before it wrote its detections." in texts(look())

    def test_cursor_of_another_list_is_an_error_in_words(self, finished: FakeBackend) -> None:
        app = look()
        app.query_params["cursor"] = "LTE"
        app.run()
        assert not app.exception
        assert "Cursor: unknown." in texts(app)

    def test_run_of_classification_has_no_such_tab(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance(RUN, 30)
        app = visit("run", id=RUN)
        [tabs] = [item for item in app.get("button_group") if item.proto.label == "Show"]
        assert [option.content for option in tabs.proto.options] == [
            "Curves",
            "Predictions",
            "More measurements",
            "Log",
            "Attempts",
            "Spec",
            "Environment",
            "Files",
        ]


class TestScene:
    def test_names_of_classes_are_escaped(self) -> None:
        hostile = replace(boxes.table(), classes=("<img src=x>", '"onload="'))
        image = image_reply("r", hostile, 0, False, 0.0)
        kinds = {"right": "<b>", "background": "<i>", "missed": "<u>"}
        drawing = scenes.scene(image, None, {"student": "<s>"}, kinds)  # type: ignore[arg-type]
        assert not re.search(r"<(img|b|i|u|s)\b", drawing)
        assert '"onload="' not in drawing
        assert "&lt;img src=x&gt;" in drawing

    def test_image_of_unknown_size_contains_all_boxes(self) -> None:
        image = image_reply("r", replace(boxes.table(), sizes=None), 0, False, 0.0)
        drawing = scenes.scene(image, None, {"student": "Student"}, {"right": "", "background": ""})
        assert "aspect-ratio: 90 / 90" in drawing

    def test_image_without_boxes_says_so(self) -> None:
        drawing = scenes.scene(image_reply("r", boxes.table(), 2, False, 0.0), None, {"student": "Student"}, {})
        assert 'aria-label="Student: no boxes"' in drawing


NAMES: Any = {"teacher": "Teacher", "student": "Student"}


class TestBars:
    def test_student_is_beside_the_teacher(self) -> None:
        values: Any = {"student": {"cat": 40.0, "dog": float("nan")}, "teacher": {"cat": 50.0}}
        teacher, student = ap_by_class_figure(values, NAMES).data
        assert (teacher.name, list(teacher.x), list(teacher.y)) == ("Teacher", ["cat", "dog"], [50.0, None])
        assert (student.name, list(student.y)) == ("Student", [40.0, None])

    def test_many_classes_are_rows(self) -> None:
        figure = ap_by_class_figure({"student": {str(number): float(number) for number in range(80)}}, NAMES)
        [student] = figure.data
        assert student.orientation == "h"
        assert list(student.x) == [float(number) for number in range(80)]
        # Plotly draws the first category at the bottom.
        assert list(figure.layout.yaxis.categoryarray) == [str(number) for number in reversed(range(80))]
        assert figure.layout.height > 2000

    def test_names_of_classes_are_escaped(self) -> None:
        [student] = ap_by_class_figure({"student": {"<b>": 1.0}}, NAMES).data
        assert list(student.x) == ["&lt;b&gt;"]

    def test_lost_ap_has_a_row_for_each_kind(self) -> None:
        values: Any = {"student": {"duplicate": 3.0}, "teacher": {"background": 1.0}}
        student, teacher = lost_ap_figure(values, NAMES, ["duplicate", "background"]).data
        assert (student.name, list(student.x), list(student.y)) == ("Student", [3.0, None], ["duplicate", "background"])
        assert (teacher.name, list(teacher.x)) == ("Teacher", [None, 1.0])

    def test_calibration_shows_the_share_of_right_detections_at_the_mean_score(self) -> None:
        found = [ScoreBin(low=0.4, high=0.5, detections=8, score=0.45, right=0.25)]
        _, student = calibration_figure({"student": found}, NAMES).data
        assert (list(student.x), list(student.y)) == ([0.45], [25.0])
