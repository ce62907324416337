"""Agreement with the teacher, and calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.tasks.detection.metrics.agreement import detection_agreement, region_agreement
from core.tasks.detection.metrics.calibration import detection_calibration_error
from core.tasks.detection.metrics.errors import judge
from tests.core.tasks.detection.metrics.random_boxes import random_detections, random_truth
from tests.core.tasks.detection.metrics.scenes import A_HALF, A_SHIFTED, FAR, A, B, found, objects


class TestRegions:
    def test_regions_are_counted_by_kind_and_size(self) -> None:
        student = np.eye(3)[[0, 1, 1, 2, 0]]
        teacher = 5 * np.eye(3)[[0, 1, 2, 2, 1]]
        labels = np.array([0, 1, 1, 2, 0])
        area = np.array([1e6, 32**2, 33**2, 97**2, 5])
        assert region_agreement(student, teacher, labels, area) == {
            "fidelity/regions": 60,
            "fidelity/regions_foreground": pytest.approx(200 / 3),
            "fidelity/regions_background": 50,
            "fidelity/regions_small": 100,
            "fidelity/regions_medium": 0,
            "fidelity/regions_large": 100,
        }

    def test_kinds_without_regions_are_left_out(self) -> None:
        logits = np.eye(3)[:1]
        names = set(region_agreement(logits, logits, np.array([0]), np.array([9.0])))
        assert names == {"fidelity/regions", "fidelity/regions_background"}


class TestDetections:
    def test_f1_counts_matched_detections_of_both(self) -> None:
        student = found((0, 1, 0.9, A), (0, 1, 0.8, A_SHIFTED), (0, 2, 0.7, B), (1, 1, 0.6, FAR), (1, 1, 0.4, B))
        teacher = found((0, 1, 0.9, A_SHIFTED), (0, 3, 0.7, B), (1, 1, 0.55, A_HALF), (1, 1, 0.49, FAR))
        # One pair: the student's second box comes too late, B has another class, and FAR is the teacher's at 0.49 only.
        values = detection_agreement(student, teacher)
        assert values["fidelity/detections"] == pytest.approx(100 * 2 / (4 + 3))
        # B, 40 pixels wide, is the only medium box.
        assert values["fidelity/detections_medium"] == 0
        assert values["fidelity/detections_small"] == pytest.approx(100 * 2 / 5)
        assert "fidelity/detections_large" not in values

    def test_networks_with_equal_detections_agree(self) -> None:
        detections = random_detections(random_truth(0), 1)
        assert set(detection_agreement(detections, detections).values()) == {100.0}

    def test_one_that_finds_nothing_does_not_agree(self) -> None:
        some = found((3, 1, 0.9, A))
        assert detection_agreement(found(), some)["fidelity/detections"] == 0
        assert detection_agreement(some, found())["fidelity/detections"] == 0
        assert detection_agreement(found(), found()) == {}

    def test_of_all_detections_half_are_matched_as_a_loop_matches_them(self) -> None:
        truth = random_truth(2)
        student, teacher = (random_detections(truth, seed) for seed in (3, 4))
        pairs = 0
        for image in range(truth.images):
            ours, theirs = (d.part((d.image == image) & (d.scores >= 0.5)) for d in (student, teacher))
            free = set(range(len(theirs)))
            for row in range(len(ours)):
                overlaps = {
                    k: iou(ours.boxes[row], theirs.boxes[k]) for k in free if theirs.labels[k] == ours.labels[row]
                }
                best = max(overlaps, key=lambda k: overlaps[k], default=None)
                if best is not None and overlaps[best] >= 0.5:
                    free.remove(best)
                    pairs += 1
        count = sum(int((d.scores >= 0.5).sum()) for d in (student, teacher))
        assert detection_agreement(student, teacher)["fidelity/detections"] == pytest.approx(200 * pairs / count)
        assert pairs > 10


def iou(first: np.ndarray, second: np.ndarray) -> float:
    width, height = (
        max(0.0, float(min(first[i + 2], second[i + 2])) - float(max(first[i], second[i]))) for i in (0, 1)
    )
    both = width * height
    area = sum(float(box[2] - box[0]) * float(box[3] - box[1]) for box in (first, second))
    return both / (area - both)


class TestCalibration:
    def test_error_is_the_mean_gap_of_the_bins(self) -> None:
        truth = objects((0, 1, A), (1, 1, A), images=2)
        detections = found((0, 1, 0.9, A), (0, 1, 0.88, FAR), (0, 1, 0.04, FAR), (1, 1, 0.3, A))
        # Scores of 0.88 and 0.9 are in one bin, (13/15, 14/15], with precision 1/2; that of 0.04 is left out.
        expected = (abs(1 - 0.9 - 0.88) + abs(1 - 0.3)) / 3
        assert detection_calibration_error(detections, judge(detections, truth)) == pytest.approx(100 * expected)

    def test_detections_of_ignored_objects_do_not_count(self) -> None:
        truth = objects((0, 1, A), (0, 1, B), images=1, crowd=[1])
        detections = found((0, 1, 0.8, A), (0, 1, 0.7, B))
        assert detection_calibration_error(detections, judge(detections, truth)) == pytest.approx(20)

    def test_no_detections_have_no_calibration(self) -> None:
        assert math.isnan(detection_calibration_error(found(), judge(found(), objects((0, 1, A), images=1))))

    def test_scores_that_are_the_precision_are_calibrated(self) -> None:
        rows = [(image, 1, 0.5, A if image % 2 else FAR) for image in range(10)]
        truth = objects(*((image, 1, A) for image in range(10)), images=10)
        detections = found(*rows)
        assert detection_calibration_error(detections, judge(detections, truth)) == 0
