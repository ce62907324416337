"""The reports, and what each test image got."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.catalog import METRICS
from core.catalog.detection_task import DETECTION, ERROR_KINDS
from core.catalog.metric import VARYING_PREFIXES
from core.items.detection_file import encode_detections, read_detections
from core.items.detection_table import DETECTIONS_NAME
from core.tasks.detection.metrics.coco import coco_scores
from core.tasks.detection.metrics.errors import judge
from core.tasks.detection.metrics.per_image import image_columns, image_detections
from core.tasks.detection.metrics.report import Judged, final_report, judged, report, validation_report
from tests.core.tasks.detection.metrics.random_boxes import CLASSES, random_detections, random_truth
from tests.core.tasks.detection.metrics.scenes import A_HALF, A_SHIFTED, FAR, A, B, found, objects

TRUTH = random_truth(0)


@pytest.fixture(scope="module")
def student() -> Judged:
    return judged(random_detections(TRUTH, 1), TRUTH)


@pytest.fixture(scope="module")
def teacher() -> Judged:
    return judged(random_detections(TRUTH, 2, noise=0.05), TRUTH)


class TestReports:
    def test_every_metric_is_in_the_catalog(self, student: Judged, teacher: Judged) -> None:
        values = report(student, TRUTH, teacher) | validation_report(student.detections, TRUTH)
        values |= final_report(student, TRUTH, teacher)
        assert set(values) <= set(METRICS) | {name for name in values if name.startswith("ap_class")}
        assert all(name in METRICS for name in values)
        assert {METRICS[name].unit for name in values} == {"%"}
        assert all(0 <= value <= 100 for value in values.values())
        described = {metric.name for metric in DETECTION.metrics}
        elsewhere = ("train/", "grad/", *VARYING_PREFIXES, "lr", "oracle/", "fidelity/regions", "test_ema/", "val_ema/")
        assert {name for name in described if not name.startswith(elsewhere)} <= set(values)

    def test_headline_is_ap(self, student: Judged) -> None:
        values = report(student, TRUTH)
        assert values[DETECTION.headline] == coco_scores(student.detections, TRUTH).overall["ap"]
        assert validation_report(student.detections, TRUTH)[DETECTION.validation] == values["test/ap"]

    def test_run_without_teacher_reports_nothing_of_one(self, student: Judged) -> None:
        values = report(student, TRUTH) | final_report(student, TRUTH)
        assert not [name for name in values if "teacher" in name or name.startswith("fidelity")]

    def test_teacher_is_measured_as_the_student_is(self, student: Judged, teacher: Judged) -> None:
        of_teacher, alone = final_report(student, TRUTH, teacher), report(teacher, TRUTH) | final_report(teacher, TRUTH)
        for name in ("test/ap", "test/ap50", "calibration/detection_ece", *(f"errors/{kind}" for kind in ERROR_KINDS)):
            assert of_teacher[f"{name}_teacher"] == alone[name]
        classes = {name.partition("/")[2]: value for name, value in alone.items() if name.startswith("ap_class/")}
        assert set(classes) == {"cell", "disc", "speck"}
        assert {name: of_teacher[f"ap_class_teacher/{name}"] for name in classes} == classes

    def test_student_that_is_its_teacher_agrees_with_it(self, student: Judged) -> None:
        assert report(student, TRUTH, student)["fidelity/detections"] == 100

    def test_many_classes_have_no_metric_each(self, student: Judged) -> None:
        many = replace(TRUTH, classes=(*CLASSES, *(f"class {number}" for number in range(200))))
        of = judged(student.detections, many)
        assert not [name for name in report(of, many) if name.startswith("ap_class/")]
        assert "ap_class/cell" in image_detections(of, many).scores["student"]

    def test_name_of_a_class_becomes_one_short_line(self) -> None:
        truth = replace(objects((0, 1, A), images=1), classes=("traffic\nlight" + "!" * 500,))
        (name,) = (name for name in report(judged(found((0, 1, 0.9, A)), truth), truth) if name.startswith("ap_class/"))
        assert name.startswith("ap_class/traffic light!!!")
        assert len(name) < 200
        assert METRICS[name].better == "higher"

    def test_detector_that_finds_nothing_is_measured(self) -> None:
        truth = objects((0, 1, A), images=1)
        nothing = judged(found(), truth)
        values = report(nothing, truth, nothing) | final_report(nothing, truth, nothing)
        assert values["test/ap"] == 0
        assert math.isnan(values["calibration/detection_ece"])
        assert values["errors/missed"] == 0, "without objects there is no AP that could be gained"


class TestImages:
    def test_counts_are_those_of_confident_detections(self) -> None:
        truth = objects((0, 1, A), (0, 2, B), (2, 1, A), (2, 1, B), images=4, crowd=[3])
        detections = found(
            (0, 1, 0.9, A),
            (0, 1, 0.8, A_SHIFTED),  # duplicate
            (0, 2, 0.4, B),  # right, but not confident
            (2, 2, 0.9, A),  # wrong class
            (2, 1, 0.7, B),  # of a crowd
            (2, 3, 0.6, A_HALF),  # both
            (3, 1, 0.6, FAR),
        )
        teacher = found((0, 1, 0.9, A_SHIFTED), (2, 2, 0.6, A), (3, 1, 0.3, FAR))
        columns = image_columns(judged(detections, truth), truth, judged(teacher, truth))
        rows = {name: values.tolist() for name, values in columns.items()}
        expected = {
            "item": [0, 1, 2, 3],
            "objects": [2, 0, 1, 0],
            "detections": [2, 0, 2, 1],
            "right": [1, 0, 0, 0],
            "classification": [0, 0, 1, 0],
            "localisation": [0, 0, 0, 0],
            "both": [0, 0, 1, 0],
            "duplicate": [1, 0, 0, 0],
            "background": [0, 0, 0, 1],
            "missed": [1, 0, 0, 0],
            "teacher_detections": [1, 0, 1, 0],
            "teacher_right": [1, 0, 0, 0],
            "teacher_missed": [1, 0, 0, 0],
            "agreed": [1, 0, 1, 0],
        }
        assert {name: rows[name] for name in expected} == expected
        assert {values.dtype for values in columns.values()} == {np.dtype("uint8")}

    def test_counts_add_up(self, student: Judged, teacher: Judged) -> None:
        columns = image_columns(student, TRUTH, teacher)
        assert {len(values) for values in columns.values()} == {TRUTH.images}
        for prefix in ("", "teacher_"):
            wrong = sum(columns[f"{prefix}{kind}"].sum() for kind in ERROR_KINDS if kind != "missed")
            assert columns[f"{prefix}right"].sum() + wrong == columns[f"{prefix}detections"].sum()
            assert (columns[f"{prefix}right"] + columns[f"{prefix}missed"] <= columns["objects"]).all()
        assert columns["right"].sum() > 5

    def test_run_without_teacher_has_no_columns_of_one(self, student: Judged) -> None:
        names = list(image_columns(student, TRUTH))
        assert names[:4] == ["item", "objects", "detections", "right"]
        assert not [name for name in names if "teacher" in name or name == "agreed"]

    def test_kept_detections_have_their_kinds_and_scores(
        self, tmp_path: Path, student: Judged, teacher: Judged
    ) -> None:
        path = tmp_path / DETECTIONS_NAME
        path.write_bytes(encode_detections(image_detections(student, TRUTH, teacher)))
        table = read_detections(path)
        kept = student.detections.scores >= 0.05
        np.testing.assert_array_equal(table.kind[table.source == 1], judge(student.detections, TRUTH).kind[kept])
        assert table.scores["student"]["ap"] == student.scores.overall["ap"]
        assert table.scores["teacher"]["ap_class/cell"] == teacher.scores.by_class["cell"]
        assert set(table.scores["student"]) >= {f"errors/{kind}" for kind in ERROR_KINDS}
        # Low scores come after all others, so they change AP by little.
        ap = coco_scores(table.found("student"), table.truth()).overall["ap"]
        assert ap == pytest.approx(student.scores.overall["ap"], abs=1)
