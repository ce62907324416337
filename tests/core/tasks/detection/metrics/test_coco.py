"""AP and AR against pycocotools, and our own matches and AP against both."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from core.errors import TrainingError
from core.items.average_precision import (
    RECALLS,
    _recalls_reached,
    average_precisions,
    image_counts,
    paired_ap_bootstrap,
)
from core.items.boxes import Detections, GroundTruth, overlaps, size_of
from core.items.matching import match
from core.items.table import ItemsError
from core.tasks.detection.metrics.coco import as_coco, as_results, coco_scores
from core.tasks.detection.task import DetectionTask
from tests.core.tasks.detection.metrics.random_boxes import random_detections, random_truth

AP_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NAMES = (*AP_NAMES, "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


def by_pycocotools(detections: Detections, truth: GroundTruth) -> Any:
    """Return pycocotools' evaluation, summarised."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = as_coco(truth)
        labelled.createIndex()
        found = labelled.loadRes(as_results(detections))
        evaluation = COCOeval(labelled, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_of_pycocotools(seed: int) -> None:
    truth = random_truth(seed)
    detections = random_detections(truth, 100 + seed)
    scores = coco_scores(detections, truth)
    expected = by_pycocotools(detections, truth)
    for name, value in zip(NAMES, expected.stats, strict=True):
        assert scores.overall.get(name, -100) == pytest.approx(100 * value, abs=1e-10), name
    assert 3 < scores.overall["ap"] < 95
    precision = expected.eval["precision"][:, :, :, 0, 2]
    for at, name in enumerate(truth.classes):
        of_class = precision[:, :, at]
        of_class = of_class[of_class > -1]
        if len(of_class):
            assert scores.by_class[name] == pytest.approx(100 * of_class.mean(), abs=1e-10)
        else:
            assert name not in scores.by_class


def test_all_cases_are_among_the_random_ones() -> None:
    truth = random_truth(0)
    detections = random_detections(truth, 100)
    assert truth.crowds.any()
    assert (truth.ignored & ~truth.crowds).any()
    assert set(range(truth.images)) - set(truth.image.tolist())
    assert not (truth.labels == 4).any()
    assert truth.ignored[truth.labels == 5].all()
    assert (detections.labels == 4).any()
    assert len(set(detections.scores.tolist())) < len(detections) / 2
    assert {0, 1, 2} == set(size_of(truth.area).tolist())


@pytest.mark.parametrize("seed", range(12))
def test_own_matches_and_ap_are_those_of_pycocotools(seed: int) -> None:
    truth = random_truth(seed)
    detections = random_detections(truth, 100 + seed)
    matches = match(detections, truth)
    expected = by_pycocotools(detections, truth)
    counted = expected.eval["precision"][:, :, :, 0, 2].mean(1)
    ours = average_precisions(detections, truth, matches)
    np.testing.assert_allclose(np.where(np.isnan(ours), -1, ours), counted, rtol=0, atol=1e-12)
    for of_image in (entry for entry in expected.evalImgs if entry and entry["aRng"] == [0, 1e5**2]):
        rows = np.asarray(of_image["dtIds"], np.int64) - 1  # ids count from 1
        np.testing.assert_array_equal(matches.object[:, rows], of_image["dtMatches"].astype(np.int64) - 1)
        np.testing.assert_array_equal(matches.ignored[:, rows], of_image["dtIgnore"].astype(bool))


@pytest.mark.parametrize("seed", range(3))
def test_only_the_best_hundred_of_a_class_in_an_image_count(seed: int) -> None:
    truth = random_truth(seed, images=2)
    truth = replace(truth, labels=np.ones_like(truth.labels))
    detections = random_detections(truth, seed, per_image=500)
    detections = replace(detections, labels=np.ones_like(detections.labels))
    assert np.bincount(detections.image).max() > 100
    scores = coco_scores(detections, truth)
    assert scores.overall["ap"] == pytest.approx(100 * by_pycocotools(detections, truth).stats[0], abs=1e-10)
    ours = average_precisions(detections, truth, match(detections, truth))
    assert 100 * np.nanmean(ours) == pytest.approx(scores.overall["ap"], abs=1e-10)


def test_overlaps_are_those_of_pycocotools() -> None:
    from pycocotools import mask

    truth = random_truth(5)
    detections = random_detections(truth, 6)
    crowd = np.arange(len(truth)) % 2 == 0
    boxes = [entry["bbox"] for entry in as_results(detections)]
    objects = [entry["bbox"] for entry in as_coco(truth)["annotations"]]
    expected = mask.iou(boxes, objects, crowd.astype(int).tolist())
    np.testing.assert_array_equal(overlaps(detections.boxes, truth.boxes, crowd), expected)


def test_missing_library_is_an_error_before_the_data_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="pip install faster-coco-eval"):
        DetectionTask.load(cast(Any, None))


class TestNothing:
    def test_no_detections_have_ap_0(self) -> None:
        truth = random_truth(1)
        nothing = random_detections(truth, 1).part(np.zeros(0, np.int64))
        scores = coco_scores(nothing, truth)
        assert (scores.overall["ap"], scores.overall["ar100"]) == (0, 0)
        assert set(scores.by_class.values()) == {0.0}

    def test_scores_without_objects_are_no_numbers(self) -> None:
        truth = random_truth(1)
        detections = random_detections(truth, 1)
        empty = replace(truth, ignored=np.ones_like(truth.ignored))
        scores = coco_scores(detections, empty)
        assert math.isnan(scores.overall["ap"])
        assert "ap_small" not in scores.overall
        assert not scores.by_class
        with pytest.raises(ItemsError, match="no objects"):
            paired_ap_bootstrap([detections], [detections], empty, 0)


def resampled(detections: Detections, truth: GroundTruth, counts: np.ndarray) -> tuple[Detections, GroundTruth]:
    """Return the images of a resample, each copy with a number of its own."""
    drawn = np.repeat(np.arange(truth.images), counts.astype(int))
    found = [np.flatnonzero(detections.image == image) for image in drawn]
    objects = [np.flatnonzero(truth.image == image) for image in drawn]
    new = np.arange(len(drawn))
    part = detections.part(np.concatenate(found))
    chosen = np.concatenate(objects)
    return (
        replace(part, image=np.repeat(new, [len(rows) for rows in found])),
        replace(
            truth,
            image=np.repeat(new, [len(rows) for rows in objects]),
            boxes=truth.boxes[chosen],
            labels=truth.labels[chosen],
            ignored=truth.ignored[chosen],
            area=truth.area[chosen],
            crowd=truth.crowds[chosen],
            images=len(drawn),
        ),
    )


def ranked(detections: Detections) -> Detections:
    """Return detections with scores that are equal between images, but not within one.

    The order of equal scores within an image would decide AP, and the library orders those of copies by copy.
    """
    ranks = np.arange(len(detections)) - np.searchsorted(detections.image, detections.image)
    return replace(detections, scores=(1 - ranks / 64).astype(np.float32))


class TestBootstrap:
    def test_interval_is_that_of_differences_that_the_library_computes(self) -> None:
        truth = random_truth(3)
        ours, theirs = (ranked(random_detections(truth, seed, noise=noise)) for seed, noise in ((7, 0.1), (8, 0.2)))
        counts = image_counts(truth.images, 5, 9)
        differences = []
        for row in counts:
            ours_ap, theirs_ap = (coco_scores(*resampled(d, truth, row)).overall["ap"] for d in (ours, theirs))
            differences.append(ours_ap - theirs_ap)
        result = paired_ap_bootstrap([ours], [theirs], truth, 5, resamples=9, level=0.8)
        low, high = np.quantile(differences, (0.1, 0.9))
        assert [result.low, result.high] == pytest.approx([low, high], abs=1e-10)
        assert result.ap == pytest.approx(coco_scores(ours, truth).overall["ap"], abs=1e-10)
        assert result.reference == pytest.approx(coco_scores(theirs, truth).overall["ap"], abs=1e-10)
        assert result.mean == result.ap - result.reference
        assert len(set(differences)) == 9

    def test_one_threshold_gives_the_interval_of_ap50(self) -> None:
        truth = random_truth(3)
        ours, theirs = (random_detections(truth, seed) for seed in (7, 8))
        result = paired_ap_bootstrap([ours], [theirs], truth, 5, resamples=20, thresholds=(0.5,))
        assert result.ap == pytest.approx(coco_scores(ours, truth).overall["ap50"], abs=1e-10)
        assert result.low < result.mean < result.high

    def test_several_runs_are_compared_by_their_means(self) -> None:
        truth = random_truth(3)
        first, second, third = (random_detections(truth, seed) for seed in (7, 8, 9))
        result = paired_ap_bootstrap([first, second], [third], truth, 0, resamples=30)
        alone = [paired_ap_bootstrap([run], [third], truth, 0, resamples=30) for run in (first, second)]
        assert result.mean == pytest.approx((alone[0].mean + alone[1].mean) / 2)
        assert result.reference == alone[0].reference
        low, high = min(one.low for one in alone), max(one.high for one in alone)
        assert low < result.low < result.high < high
        with pytest.raises(ItemsError, match="no runs"):
            paired_ap_bootstrap([], [third], truth, 0)

    def test_run_does_not_differ_from_itself(self) -> None:
        truth = random_truth(3)
        detections = random_detections(truth, 7)
        result = paired_ap_bootstrap([detections], [detections], truth, 0, resamples=20)
        assert (result.mean, result.low, result.high) == (0, 0, 0)

    def test_same_seed_gives_the_same_interval(self) -> None:
        truth = random_truth(3)
        ours, theirs = (random_detections(truth, seed) for seed in (7, 8))
        first, again, other = (paired_ap_bootstrap([ours], [theirs], truth, s, resamples=20) for s in (0, 0, 1))
        assert first == again != other


def test_recalls_are_counted_as_by_a_binary_search() -> None:
    for positives in (*range(1, 400), 1_000, 11_004):
        recall = np.arange(positives + 1) / positives
        assert np.array_equal(_recalls_reached(recall), np.searchsorted(RECALLS, recall, side="right"))
    for step in (-1, 0, 1):  # the numbers beside each recall
        recall = RECALLS if not step else np.nextafter(RECALLS, np.inf * step).clip(0, 1)
        assert np.array_equal(_recalls_reached(recall), np.searchsorted(RECALLS, recall, side="right"))
