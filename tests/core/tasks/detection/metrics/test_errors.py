"""Errors by kind: hand-made scenes for each kind, and sums that must hold for random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.catalog.detection_task import ERROR_KINDS
from core.items.detection_table import KINDS
from core.tasks.detection.metrics.coco import coco_scores
from core.tasks.detection.metrics.errors import ap_lost, judge
from tests.core.tasks.detection.metrics.random_boxes import random_detections, random_truth
from tests.core.tasks.detection.metrics.scenes import A_HALF, A_SHIFTED, FAR, A, B, Box, found, objects

CAT, DOG = 1, 2


@pytest.mark.parametrize(
    ("label", "box", "kind"),
    [
        (CAT, A_SHIFTED, "right"),
        (DOG, A_SHIFTED, "classification"),
        (CAT, A_HALF, "localisation"),
        (DOG, A_HALF, "both"),
        (CAT, FAR, "background"),
        (CAT, (0, 0, 10, 100), "localisation"),  # IoU is 0.1
        (CAT, (0, 0, 10, 101), "background"),
        (CAT, (0, 0, 10, 20), "right"),  # IoU is 0.5
    ],
)
def test_one_detection_of_one_object(label: int, box: Box, kind: str) -> None:
    truth = objects((0, CAT, A), images=1)
    judgement = judge(found((0, label, 0.9, box)), truth)
    assert KINDS[judgement.kind[0]] == kind
    assert judgement.object.tolist() == [-1 if kind == "background" else 0]
    assert judgement.missed(truth).tolist() == [kind in ("both", "background")]


def test_second_detection_of_an_object_is_a_duplicate() -> None:
    truth = objects((0, CAT, A), images=1)
    judgement = judge(found((0, CAT, 0.9, A_SHIFTED), (0, CAT, 0.8, A)), truth)
    assert [KINDS[kind] for kind in judgement.kind] == ["right", "duplicate"]
    assert judgement.object.tolist() == [0, 0]


def test_detections_in_an_image_without_objects_are_background() -> None:
    truth = objects((1, CAT, A), images=2)
    judgement = judge(found((0, CAT, 0.9, A), (1, CAT, 0.5, A)), truth)
    assert [KINDS[kind] for kind in judgement.kind] == ["background", "right"]


def test_detections_of_crowds_and_of_difficult_objects_are_no_errors() -> None:
    truth = objects((0, CAT, B), (0, CAT, A), images=1, crowd=[0], difficult=[1])
    inside = (110.0, 110.0, 120.0, 120.0)
    judgement = judge(found((0, CAT, 0.9, inside), (0, CAT, 0.8, B), (0, CAT, 0.7, A), (0, DOG, 0.6, A)), truth)
    assert [KINDS[kind] for kind in judgement.kind] == ["ignored", "ignored", "ignored", "background"]
    assert judgement.object.tolist() == [0, 0, 1, -1]
    assert not judgement.missed(truth).any()


def test_object_is_missed_if_what_is_chosen_does_not_find_it() -> None:
    truth = objects((0, CAT, A), (0, DOG, B), images=1)
    judgement = judge(found((0, CAT, 0.9, A), (0, DOG, 0.3, B)), truth)
    assert judgement.missed(truth).tolist() == [False, False]
    assert judgement.missed(truth, np.array([True, False])).tolist() == [False, True]


@pytest.mark.parametrize("seed", range(4))
def test_every_detection_has_one_kind_and_kinds_agree_with_ap(seed: int) -> None:
    truth = random_truth(seed)
    detections = random_detections(truth, seed + 50)
    judgement = judge(detections, truth)
    kinds = np.array(KINDS)[judgement.kind]
    assert set(kinds.tolist()) == set(KINDS)
    counted = ~truth.ignored
    right = judgement.object[judgement.right]
    assert len(set(right.tolist())) == len(right)
    assert counted[right].all()
    # Recall of COCO's evaluation counts the same detections as right.
    only_half = replace(detections, scores=np.ones_like(detections.scores))
    assert judge(only_half, truth).right.sum() <= counted.sum()
    assert not (judgement.missed(truth) & ~counted).any()


class TestLost:
    def test_each_error_costs_what_its_repair_gains(self) -> None:
        truth = objects((0, CAT, A), (0, DOG, B), (1, CAT, A), (1, CAT, B), images=2)
        detections = found(
            (0, CAT, 0.9, A),
            (0, CAT, 0.8, B),  # wrong class
            (1, CAT, 0.95, FAR),  # background
            (1, CAT, 0.7, A_HALF),  # inaccurate box; the cat in B is missed
        )
        judgement = judge(detections, truth)
        lost = ap_lost(detections, truth, judgement)
        # Cats: wrong at 0.95, right at 0.9, wrong at 0.8 and 0.7, of three. Precision is 1/2 up to a recall of 1/3.
        base = 0.5 * 34 / 101
        assert coco_scores(detections, truth).overall["ap50"] == pytest.approx(50 * base)
        without_background = 34 / 101
        repaired_class = (base + 1) / 2
        repaired_box = (0.5 * 34 + 0.5 * 33) / 101  # wrong, right, wrong, right
        two_cats = 0.5 * 51 / 101
        expected = {
            "background": 50 * (without_background - base),
            "classification": 100 * (repaired_class - base / 2),
            "localisation": 50 * (repaired_box - base),
            "missed": 50 * (two_cats - base),
            "both": 0,
            "duplicate": 0,
        }
        assert lost == {kind: pytest.approx(value) for kind, value in expected.items()}

    def test_two_errors_about_an_object_repair_it_once(self) -> None:
        truth = objects((0, CAT, A), (0, DOG, B), images=1)
        detections = found((0, CAT, 0.9, A_HALF), (0, CAT, 0.8, A_HALF), (0, DOG, 0.7, B), (0, DOG, 0.6, A))
        lost = ap_lost(detections, truth, judge(detections, truth))
        # The better of the two boxes is repaired, so the dog at the cat's place only disappears, which costs nothing.
        assert lost["localisation"] == pytest.approx(50)
        assert lost["classification"] == 0

    @pytest.mark.parametrize("seed", range(3))
    def test_kinds_are_those_of_the_catalog_and_cost_nothing_less_than_0(self, seed: int) -> None:
        truth = random_truth(seed)
        detections = random_detections(truth, seed + 50)
        lost = ap_lost(detections, truth, judge(detections, truth))
        assert list(lost) == list(ERROR_KINDS)
        assert all(0 <= value <= 100 for value in lost.values())
        assert lost["classification"] > 0

    def test_perfect_detections_lose_nothing(self) -> None:
        truth = objects((0, CAT, A), (0, DOG, B), images=1)
        detections = found((0, CAT, 0.9, A), (0, DOG, 0.8, B))
        assert set(ap_lost(detections, truth, judge(detections, truth)).values()) == {0.0}
