"""Methods compared over the test images by a paired bootstrap, over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.predictions import image_scores, over_images
from backend.predictions.networks import items_of
from backend.settings import Settings
from core.items.average_precision import paired_ap_bootstrap
from core.items.detection_file import encode_detections
from core.items.detection_table import DETECTIONS_NAME, DetectionTable
from core.items.table import ItemsError
from tests.backend import boxes, predicted
from tests.backend.lab import Json, Lab, spec

# The right images of each class, by label and seed: four cats, three dogs, one owl.
PREDICTED = {
    "ce": {0: (0, 0, 0, 1, 1, 1, 0, 0), 1: (0, 0, 1, 1, 1, 1, 0, 0)},
    "kd": {0: (0, 0, 0, 0, 1, 1, 1, 0), 1: (0, 0, 0, 1, 1, 1, 0, 2)},
}


def finish(lab: Lab, settings: Settings, write: Any, **changes: Any) -> dict[str, dict[int, str]]:
    """Let the runs of an experiment succeed with files; return the ids of the students by label and seed."""
    lab.register()
    lab.submit(spec(methods=["ce", "kd"], seeds=[0, 1], **changes))
    ids: dict[str, dict[int, str]] = {"ce": {}, "kd": {}}
    while claim := lab.try_claim():
        run = lab.run(claim["run_id"])
        folder = Path(settings.artifacts, claim["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        if run["role"] == "student":
            write(folder, run["label"], run["seed"])
            ids[run["label"]][run["seed"]] = claim["run_id"]
        lab.succeed(claim)
    return ids


def ask(lab: Lab, status: int = 200, **query: Any) -> Json:
    answer = lab.admin.get("/api/v1/comparisons/images", params={"experiment": "first", **query})
    assert answer.status_code == status, answer.text
    body: Json = answer.json()
    return body


def write_items(folder: Path, label: str, seed: int) -> None:
    predicted.write_files(folder, predicted.items(PREDICTED[label][seed], None))


class TestClassification:
    def test_differences_are_of_the_same_images(self, lab: Lab, settings: Settings) -> None:
        ids = finish(lab, settings, write_items)
        reply = ask(lab)
        assert (reply["baseline"], reply["metric"], reply["unit"]) == ("ce", "test/top1", "%")
        assert (reply["images"], reply["resamples"], reply["evaluated"], reply["pending"]) == (8, 10_000, 4, 0)
        (method,) = reply["methods"]
        first, second = method["pairs"]
        assert (first["value"], first["baseline"], first["difference"]) == (87.5, 62.5, 25.0)
        assert (second["value"], second["baseline"], second["difference"]) == (75.0, 50.0, 25.0)
        assert (first["run_id"], first["baseline_run_id"]) == (ids["kd"][0], ids["ce"][0])
        # Two of eight images differ: the number of them in a resample is binomial.
        assert (first["interval"]["low"], first["interval"]["high"]) == (0, 62.5)
        assert method["pooled"]["difference"] == 25.0
        assert "Over 8 test images the difference is +25" in method["sentence"]

    def test_interval_is_that_of_resampled_images(self, lab: Lab, settings: Settings) -> None:
        finish(lab, settings, write_items)
        pooled = ask(lab)["methods"][0]["pooled"]
        target = np.array(predicted.TARGET)
        right = {label: [np.array(runs[seed]) == target for seed in runs] for label, runs in PREDICTED.items()}
        drawn = np.random.default_rng(1).integers(8, size=(40_000, 8))
        means = (np.mean(right["kd"], axis=0) - np.mean(right["ce"], axis=0))[drawn].mean(1)
        low, high = 100 * np.quantile(means, (0.025, 0.975))
        assert pooled["interval"]["low"] == pytest.approx(low, abs=1e-9)
        assert pooled["interval"]["high"] == pytest.approx(high, abs=1e-9)

    def test_networks_that_do_not_differ_have_no_interval(self, lab: Lab, settings: Settings) -> None:
        finish(lab, settings, lambda folder, label, seed: predicted.write_files(folder, predicted.items(teacher=None)))
        (method,) = ask(lab)["methods"]
        assert method["pooled"] | {"value": 50.0} == {
            "value": 50.0,
            "baseline": 50.0,
            "difference": 0.0,
            "interval": None,
        }
        assert "no resample of the 8 images changes it" in method["sentence"]

    def test_notes_say_what_the_interval_is_not(self, lab: Lab, settings: Settings) -> None:
        finish(lab, settings, write_items)
        notes = " ".join(ask(lab)["notes"])
        assert "contains nothing of other seeds or teachers" in notes
        assert "A bootstrap of 8 images is too narrow." in notes

    def test_run_on_other_images_is_left_out_and_named(self, lab: Lab, settings: Settings) -> None:
        def write(folder: Path, label: str, seed: int) -> None:
            other = "f" * 16 if (label, seed) == ("kd", 1) else "0123456789abcdef"
            predicted.write_files(folder, predicted.items(PREDICTED[label][seed], None, images=other))

        finish(lab, settings, write)
        reply = ask(lab)
        assert [pair["seed"] for pair in reply["methods"][0]["pairs"]] == [0]
        assert any(note.startswith("Left out: kd seed 1, because their test images") for note in reply["notes"])

    def test_runs_without_files_are_a_404_that_says_why(self, lab: Lab, settings: Settings) -> None:
        finish(lab, settings, lambda *_: None)
        assert "kept no predictions" in ask(lab, 404)["detail"]

    def test_nothing_has_finished(self, lab: Lab) -> None:
        lab.submit(spec(methods=["ce", "kd"], seeds=[0]))
        (method,) = ask(lab)["methods"]
        assert (method["pooled"], method["pairs"]) == (None, [])
        assert method["sentence"].startswith("No seed has a finished run of both")

    def test_other_baseline_and_unknown_one(self, lab: Lab, settings: Settings) -> None:
        finish(lab, settings, write_items)
        (method,) = ask(lab, baseline="kd")["methods"]
        assert (method["label"], method["pooled"]["difference"]) == ("ce", -25.0)
        assert "there is no method" in ask(lab, 422, baseline="dkd")["detail"]


class TestTime:
    """The time of a request is bounded: what is not evaluated in it is evaluated by the next."""

    def test_runs_are_evaluated_in_several_requests_and_once_each(
        self, lab: Lab, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = finish(lab, settings, write_items)
        read: list[str] = []

        def counted(results: Any, run_id: str, attempt: int) -> Any:
            read.append(run_id)
            return items_of(results, run_id, attempt)

        evaluate = image_scores.ScoreCache.evaluate

        def patient(cache: Any, bootstrap: Any, run_id: str, attempt: int, until: float) -> Any:
            return evaluate(cache, bootstrap, run_id, attempt, time.monotonic() + 60)

        monkeypatch.setattr(image_scores.ScoreCache, "evaluate", patient)
        monkeypatch.setattr(image_scores, "items_of", counted)
        moments: Iterator[float] = iter(range(0, 10_000, 10))
        monkeypatch.setattr(over_images, "monotonic", lambda: next(moments))
        replies = [ask(lab) for _ in range(5)]
        assert [(reply["evaluated"], reply["pending"]) for reply in replies] == [(1, 3), (2, 2), (3, 1), (4, 0), (4, 0)]
        assert [len(reply["methods"][0]["pairs"]) for reply in replies] == [0, 1, 1, 2, 2]
        assert sorted(read) == sorted(run for runs in ids.values() for run in runs.values())

    def test_evaluation_goes_on_after_the_request(self) -> None:
        gate = threading.Event()
        scores = image_scores.ImageScores("data", 1, np.zeros(1))

        def slow(results: Any, run_id: str, attempt: int) -> image_scores.ImageScores:
            gate.wait(60)
            if run_id == "damaged":
                raise ItemsError("it cannot be read")
            return scores

        cache = image_scores.ScoreCache(None)  # type: ignore[arg-type]
        bootstrap = image_scores.Bootstrap(1, slow, lambda *_: None)  # type: ignore[arg-type]
        assert cache.evaluate(bootstrap, "run", 1, until=0) is None
        assert cache.evaluate(bootstrap, "damaged", 1, until=0) is None, "one at a time"
        gate.set()
        assert cache.evaluate(bootstrap, "run", 1, time.monotonic() + 60) is scores
        with pytest.raises(ItemsError, match="cannot be read"):
            cache.evaluate(bootstrap, "damaged", 1, time.monotonic() + 60)

    def test_cache_forgets_the_run_that_was_used_longest_ago(self, lab: Lab, settings: Settings) -> None:
        ids = finish(lab, settings, write_items)
        cache = image_scores.ScoreCache(lab.app.state.results, kept_bytes=20)
        bootstrap = image_scores._CLASSIFICATION
        runs = [ids["ce"][0], ids["ce"][1], ids["kd"][0]]
        for run in runs:
            assert cache.evaluate(bootstrap, run, 1, time.monotonic() + 60)
        assert [cache.known(run, 1) is not None for run in runs] == [False, True, True]


def detector(backbone: str) -> dict[str, Any]:
    return {"model": {"name": "faster_rcnn", "params": {"backbone": backbone}}}


SCENES = {"dataset": "digit_scenes", "teacher": detector("resnet20"), "student": detector("resnet8")}


def found_by(label: str, seed: int) -> DetectionTable:
    """Return objects of 30 images, one cat each, which a network finds or misses, with some false dogs."""
    generator = np.random.default_rng([seed, label == "kd"])
    finds = generator.random(30) < (0.8 if label == "kd" else 0.5)
    return boxes.one_object_each(finds, generator.random(30))


class TestDetection:
    def test_average_precision_is_resampled_over_images(self, lab: Lab, settings: Settings) -> None:
        def write(folder: Path, label: str, seed: int) -> None:
            (folder / DETECTIONS_NAME).write_bytes(encode_detections(found_by(label, seed)))

        finish(lab, settings, write, **SCENES)
        reply = ask(lab)
        assert (reply["metric"], reply["images"], reply["resamples"]) == ("test/ap", 30, 1_000)
        (method,) = reply["methods"]
        kd, ce = ([found_by(label, seed) for seed in (0, 1)] for label in ("kd", "ce"))
        expected = paired_ap_bootstrap(
            [table.found("student") for table in kd], [table.found("student") for table in ce], kd[0].truth(), 0
        )
        pooled = method["pooled"]
        assert (pooled["value"], pooled["baseline"]) == pytest.approx((expected.ap, expected.reference))
        assert pooled["difference"] == pytest.approx(expected.mean)
        assert (pooled["interval"]["low"], pooled["interval"]["high"]) == pytest.approx((expected.low, expected.high))
        alone = paired_ap_bootstrap([kd[1].found("student")], [ce[1].found("student")], kd[1].truth(), 0)
        assert method["pairs"][1]["interval"]["low"] == pytest.approx(alone.low)
        assert any("of the detections that runs keep" in note for note in reply["notes"])

    def test_runs_without_detections_say_so(self, lab: Lab, settings: Settings) -> None:
        finish(lab, settings, lambda *_: None, **SCENES)
        assert "kept no detections" in ask(lab, 404)["detail"]
