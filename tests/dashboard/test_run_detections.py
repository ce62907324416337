"""The tab "Detections" of the Run page, against a real backend and without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from backend.artifacts.detection_replies import image_reply
from core.events import Metrics, Record
from core.protocol.detections import ScoreBin
from core.protocol.worker import Claim, EventBatch
from dashboard.charts import scenes
from dashboard.charts.detection_figures import ap_by_class_figure, calibration_figure, lost_ap_figure
from tests.backend import boxes
from tests.dashboard.conftest import button, charts, connected, curve_names, texts, visit
from tests.dashboard.stand import Stand, standing

DETECTOR = {"name": "faster_rcnn", "params": {"backbone": "resnet8"}}


@dataclass(frozen=True)
class Runs:
    """Ids of runs.

    Attributes:
        complete: It kept detections of four images, and pictures of two of them.
        teacher: A teacher's own run, whose detections are its own.
        unpictured: It kept no pictures.
        alone: It has no teacher's detections.
        bare: It kept no detections.
        running: It trains.
        failed: It has failed.
        classification: Its task is another.
    """

    complete: str
    teacher: str
    unpictured: str
    alone: str
    bare: str
    running: str
    failed: str
    classification: str


def submit(stand: Stand, name: str, **changes: Any) -> None:
    usual = {"dataset": "digit_scenes", "student": {"model": DETECTOR}, "methods": ["ce"], "seeds": [0]}
    stand.submit(name, **usual | changes)


def trained(stand: Stand, *, detections: bool = True, pictures: bool = True, teacher: bool = True) -> str:
    """Let the next run succeed with its files; return its id."""
    claim = stand.start(epoch=20)
    if detections:
        boxes.write_files(stand.files(claim), pictures=pictures, teacher=teacher)
    stand.finish(claim)
    return claim.run_id


def report_ap(stand: Stand, claim: Claim) -> None:
    """Report the AP of a class and its teacher's, as a run does while it trains."""
    values = {"ap_class/7": 41.0, "ap_class_teacher/7": 55.0}
    event = Metrics(step=30, epoch=3.0, elapsed=31.0, values=values)
    batch = EventBatch(attempt=claim.attempt, records=[Record(seq=3, time=1003.0, event=event)])
    stand.worker.send_events("worker-one", claim.run_id, batch)


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stand, Runs]]:
    with standing(tmp_path_factory.mktemp("stand")) as stand:
        stand.register(slots=1)
        submit(stand, "complete")
        complete = trained(stand)
        submit(stand, "with-a-teacher", teacher={"model": DETECTOR}, methods=["pkd"])
        teacher = trained(stand, teacher=False)
        unpictured = trained(stand, pictures=False)
        submit(stand, "alone", seeds=[1])
        alone = trained(stand, teacher=False)
        submit(stand, "bare", seeds=[2])
        bare = trained(stand, detections=False)
        submit(stand, "failed", seeds=[3])
        failed = stand.start(epoch=3)
        stand.fail(failed, "out of memory")
        stand.submit("of-classification", seeds=[0])
        classification = trained(stand, detections=False)
        submit(stand, "running", seeds=[4])
        running = stand.start(epoch=2)
        report_ap(stand, running)
        yield (
            stand,
            Runs(complete, teacher, unpictured, alone, bare, running.run_id, failed.run_id, classification),
        )


@pytest.fixture
def runs(trained_runs: tuple[Stand, Runs], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Runs]:
    stand, found = trained_runs
    with connected(stand, monkeypatch, tmp_path):
        yield found


def look(run: str, **state: Any) -> AppTest:
    """Return the tab, with the values of controls."""
    app = visit("run", id=run)
    app.session_state["part"] = "Detections"
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def tabs(run: str) -> list[str]:
    """Return the titles of the tabs of a run."""
    [found] = [item for item in visit("run", id=run).get("button_group") if item.proto.label == "Show"]
    return [option.content for option in found.proto.options]


def drawings(app: AppTest) -> list[str]:
    """Return the drawings of each image."""
    return [item.proto.body for item in app.get("html") if "dkd-scenes" in item.proto.body]


def looks(drawing: str, panel: str) -> list[str]:
    """Return the style and the text of each box in a drawing, in the order of drawing."""
    [figure] = [part for part in drawing.split("<figure>") if f"<figcaption>{panel}<" in part]
    return [f"{look} {text}" for look, text in re.findall(r"dkd-box dkd-(\w+).*?<span[^>]*>(.*?)</span>", figure)]


class TestTab:
    def test_three_drawings_show_what_there_is_and_what_was_found(self, runs: Runs) -> None:
        app = look(runs.complete, pictured=False)
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

    def test_boxes_of_a_teachers_own_run_are_the_teachers(self, runs: Runs) -> None:
        [*_, fourth] = drawings(look(runs.teacher, pictured=False))
        assert looks(fourth, "Teacher") == ["ignored dog 0.70", "missed cat"]
        assert "<figcaption>Student<" not in fourth

    def test_scores_of_a_file_stand_in_for_metrics_of_many_classes(self, runs: Runs) -> None:
        assert curve_names(look(runs.complete), "run.ap-by-class") == ["Student"]

    def test_lower_score_shows_more(self, runs: Runs) -> None:
        first = drawings(look(runs.complete, score=0.2))[0]
        assert looks(first, "Student") == ["right cat 0.90", "right dog 0.30", "background dog 0.20"]

    def test_images_with_pictures_are_shown_first(self, runs: Runs) -> None:
        app = look(runs.complete)
        assert len(drawings(app)) == 2
        assert "Pictures of 2 of them were kept." in texts(app)

    def test_filters_select_images_by_kind_network_and_class(self, runs: Runs) -> None:
        app = look(runs.complete, pictured=False, result="missed object")
        assert [looks(item, "Student") for item in drawings(app)] == [
            ["right cat 0.90", "missed dog"],
            ["ignored dog 0.70", "missed cat"],
        ]
        app = look(runs.complete, pictured=False, result="duplicate", of="teacher")
        assert [looks(item, "Teacher") for item in drawings(app)] == [["right dog 0.90", "duplicate dog 0.60"]]
        app = look(runs.complete, result="background")
        assert "No test image is left" in texts(app)
        assert not drawings(app)

    def test_pages(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dashboard.views.run_detections._PAGE_SIZE", 3)
        app = look(runs.complete, pictured=False)
        assert len(drawings(app)) == 3
        assert "Page 1 of 2, 4 test images" in texts(app)
        button(app, "Next").click().run()
        assert [looks(item, "Ground truth") for item in drawings(app)] == [["crowd dog", "object cat"]]
        # The page of the earlier filter has no meaning for the next one.
        app.session_state["class"] = "cat"
        app.run()
        assert len(drawings(app)) == 3

    def test_run_without_pictures_says_so(self, runs: Runs) -> None:
        app = look(runs.unpictured)
        assert "kept no pictures" in texts(app)
        assert len(drawings(app)) == 4

    def test_run_without_a_teacher_has_two_drawings(self, runs: Runs) -> None:
        app = look(runs.alone)
        assert "<figcaption>Teacher<" not in drawings(app)[0]
        assert "<figcaption>Student<" in drawings(app)[0]

    def test_run_without_detections_says_so(self, runs: Runs) -> None:
        app = look(runs.bare)
        assert not app.exception
        assert "This run kept no detections." in texts(app)

    def test_running_run_has_bars_and_no_boxes_yet(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("client.resources.runs.Runs.detections", None)  # a call would be an exception
        app = look(runs.running)
        assert not app.exception
        assert "Boxes on test images appear when the run has succeeded." in texts(app)
        assert "run.ap-by-class" in charts(app)

    def test_failed_run_says_that_it_has_none(self, runs: Runs) -> None:
        assert "This run ended before it wrote its detections." in texts(look(runs.failed))

    def test_cursor_of_another_list_is_an_error_in_words(self, runs: Runs) -> None:
        app = look(runs.complete)
        app.query_params["cursor"] = "LTE"
        app.run()
        assert not app.exception
        assert app.error[0].value.startswith("Cursor: ")

    def test_each_task_has_its_own_tab(self, runs: Runs) -> None:
        assert tabs(runs.classification) == [
            "Curves",
            "Predictions",
            "Features",
            "More measurements",
            "Machine",
            "Log",
            "Attempts",
            "Spec",
            "Environment",
            "Files",
        ]
        of_detection = tabs(runs.complete)
        assert "Detections" in of_detection
        assert not {"Predictions", "Features"} & set(of_detection)


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
