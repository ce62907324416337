"""The per-item results that a run leaves: those of its metrics, from no second evaluation."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.events import IMAGES_KEY, Event, Finished, Log, Metrics, Started, read_journal
from core.items.calibration import BINS, bins_of
from core.items.correlation_file import read_correlations
from core.items.correlations import CORRELATIONS_NAME
from core.items.detection_file import read_detections
from core.items.detection_table import DETECTIONS_NAME, detection_table
from core.items.file import read_items
from core.items.picture_choice import PICTURES_NAME
from core.items.pictures import read_pictures
from core.items.statistics import item_scores
from core.items.table import ITEMS_NAME, Items
from core.specs import parse_experiment
from core.tasks.classification import task as classification
from core.tasks.classification.diagnostics.inference import predict_logits
from core.tasks.classification.diagnostics.per_item import item_columns
from core.train import TeacherSource, run_training
from tests.core.task_of import task_of
from tests.core.tasks.detection.metrics.random_boxes import random_detections, random_truth

SPEC = {
    "name": "items",
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 6, "image_size": 8, "train_size": 120, "test_size": 90},
    },
    "teacher": {"model": "resnet8"},
    "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "methods": ["kd", "ce"],
    "seeds": [0],
    "training": {"epochs": 2, "batch_size": 32},
}
RUNS = {planned.label: planned.spec for planned in parse_experiment(SPEC).plan()}


def events(folder: Path) -> list[Event]:
    return [record.event for record in read_journal(folder / "events.jsonl")]


def finished(folder: Path) -> Finished:
    last = events(folder)[-1]
    assert isinstance(last, Finished)
    return last


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    assert run_training(RUNS["teacher"], folder) == "finished"
    return TeacherSource(RUNS["teacher"], folder / "weights.safetensors")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, teacher: TeacherSource) -> Path:
    folder = tmp_path_factory.mktemp("student")
    assert run_training(RUNS["kd"], folder, teacher) == "finished"
    return folder


def check_against_metrics(items: Items, metrics: dict[str, float]) -> None:
    """The shares are equal to the last bit; probabilities are rounded to float16."""
    assert 100 * item_scores(items, "top1").mean() == metrics["test/top1"]
    assert 100 * item_scores(items, "top5").mean() == metrics["test/top5"]
    assert item_scores(items, "nll").mean() == pytest.approx(metrics["test/loss"], rel=1e-3)
    np.testing.assert_allclose(np.exp(-item_scores(items, "nll")), item_scores(items, "probability"), rtol=2e-3)
    confidence, right = (
        items.column("confidence").astype(np.float64),
        items.column("predicted") == items.column("target"),
    )
    gaps = np.bincount(bins_of(confidence), right - confidence, minlength=BINS)
    assert 100 * np.abs(gaps).sum() / len(items) == pytest.approx(metrics["calibration/ece"], abs=0.02)
    np.testing.assert_array_equal(confidence[right], items.column("probability")[right])
    if "fidelity/kl" in metrics:
        assert 100 * item_scores(items, "agreement").mean() == metrics["fidelity/agreement"]
        assert item_scores(items, "kl").mean() == pytest.approx(metrics["fidelity/kl"], rel=1e-3)
        right = items.column("teacher_predicted") == items.column("target")
        assert right.sum() == metrics["fidelity/images_right"]


class TestRun:
    def test_items_of_a_student_agree_with_its_metrics(self, student: Path) -> None:
        last = finished(student)
        assert last.items == ITEMS_NAME
        items = read_items(student / last.items)
        assert len(items) == 90
        assert items.column("item").tolist() == list(range(90))
        check_against_metrics(items, last.summary)

    def test_file_says_which_run_and_which_data_it_is_of(self, student: Path) -> None:
        items = read_items(student / ITEMS_NAME)
        (started,) = (event for event in events(student) if isinstance(event, Started))
        assert (items.task, items.images) == ("classification", started.environment[IMAGES_KEY])
        assert items.fingerprint == RUNS["kd"].fingerprint()
        assert len(items.classes) == 6

    def test_items_of_a_run_with_averaged_weights_are_those_of_its_weights(self, tmp_path: Path) -> None:
        training: dict[str, Any] = dict(cast(Any, SPEC["training"])) | {"ema": 0.9, "evaluate_every": 2}
        (run,) = (p.spec for p in parse_experiment(SPEC | {"training": training}).plan() if p.label == "ce")
        assert run_training(run, tmp_path) == "finished"
        check_against_metrics(read_items(tmp_path / ITEMS_NAME), finished(tmp_path).summary)

    def test_run_without_teacher_has_no_columns_of_one(self, tmp_path: Path) -> None:
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        items = read_items(tmp_path / ITEMS_NAME)
        assert list(items.columns) == ["item", "target", "predicted", "probability", "confidence", "nll", "top5"]
        check_against_metrics(items, finished(tmp_path).summary)

    def test_supplied_teacher_that_is_only_evaluated_has_items(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATA_DIR", str(teacher.weights.parent))
        given = SPEC | {"teacher": {"model": "resnet8", "weights": teacher.weights.name}}
        run = parse_experiment(given).teacher_run()
        assert run
        assert run_training(run, tmp_path) == "finished"
        items, trained = (read_items(folder / ITEMS_NAME) for folder in (tmp_path, teacher.weights.parent))
        check_against_metrics(items, finished(tmp_path).summary)
        np.testing.assert_array_equal(items.column("predicted"), trained.column("predicted"))

    def test_test_images_are_not_evaluated_once_more(
        self, tmp_path: Path, teacher: TeacherSource, student: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes: list[nn.Module] = []

        def counted(network: nn.Module, *arguments: Any) -> Tensor:
            passes.append(network)
            return predict_logits(network, *arguments)

        monkeypatch.setattr(classification, "predict_logits", counted)
        run_training(RUNS["kd"], tmp_path, teacher)
        assert len(passes) == 1 + 2, "the teacher once, and the student after each of two epochs"
        assert (tmp_path / ITEMS_NAME).read_bytes() == (student / ITEMS_NAME).read_bytes()


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestRefused:
    @pytest.mark.parametrize("kind", ["full disk", "no pyarrow"])
    def test_run_finishes_with_its_weights_and_a_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        (tmp_path / ITEMS_NAME).write_bytes(b"of an earlier run in this folder")
        if kind == "full disk":
            monkeypatch.setattr("core.train.item_results.atomic_write", full)
        else:
            monkeypatch.setitem(sys.modules, "core.items.file", None)
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        last = finished(tmp_path)
        assert last.items is None
        assert (tmp_path / last.weights).exists()
        warnings = [event.message for event in events(tmp_path) if isinstance(event, Log) and event.level == "warning"]
        assert any(text.startswith("the per-item results could not be written: ") for text in warnings)
        assert kind != "full disk" or any("No space left on device" in text for text in warnings)
        assert not (tmp_path / ITEMS_NAME).exists()

    def test_part_of_a_file_takes_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def only_items(path: Path) -> None:
            if path.name.startswith("items"):
                full()

        monkeypatch.setattr("common.atomic_write.sync_file", only_items)
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        assert not list(tmp_path.glob("items*"))

    def test_task_without_items_writes_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(classification.ClassificationTask, "per_item", lambda *_: {})
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        assert finished(tmp_path).items is None
        assert not (tmp_path / ITEMS_NAME).exists()

    def test_event_of_an_earlier_version_is_read(self, student: Path, tmp_path: Path) -> None:
        lines = (student / "events.jsonl").read_text().splitlines()
        assert '"items":"items.parquet",' in lines[-1]
        old = "\n".join((*lines[:-1], lines[-1].replace('"items":"items.parquet",', ""), ""))
        (tmp_path / "events.jsonl").write_text(old)
        assert finished(tmp_path) == finished(student).model_copy(update={"items": None})
        assert [event for event in events(tmp_path) if isinstance(event, Metrics)]


class TestPictures:
    def test_images_on_which_student_and_teacher_differ_have_a_picture(self, student: Path) -> None:
        last = finished(student)
        assert last.pictures == PICTURES_NAME
        pictures = read_pictures(student / last.pictures)
        items = read_items(student / ITEMS_NAME)
        predicted, target = items.column("predicted"), items.column("target")
        wanted = np.flatnonzero((predicted != items.column("teacher_predicted")) | (predicted != target))
        assert list(pictures) == wanted.tolist()
        assert all(picture.startswith(b"\xff\xd8\xff") for picture in pictures.values())

    def test_pictures_take_a_limited_number_of_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("core.train.item_results.MOST_PICTURE_BYTES", 2_000)
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        pictures = read_pictures(tmp_path / PICTURES_NAME)
        assert pictures
        assert sum(map(len, pictures.values())) <= 2_000


class TestCorrelations:
    def test_student_has_its_own_and_its_teachers(self, student: Path, teacher: TeacherSource) -> None:
        last = finished(student)
        assert last.correlations == CORRELATIONS_NAME
        found = read_correlations(student / last.correlations)
        assert (found.size, list(found.networks)) == (6, ["student", "teacher"])
        of_teacher = read_correlations(teacher.weights.parent / CORRELATIONS_NAME)
        assert list(of_teacher.networks) == ["student"]
        # The logits that a student reads may be stored in 16 bits.
        np.testing.assert_allclose(found.matrix("teacher"), of_teacher.matrix("student"), atol=2e-3)
        assert found.images == of_teacher.images == read_items(student / ITEMS_NAME).images

    def test_too_many_classes_are_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(classification, "MOST_CLASSES", 5)
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        assert finished(tmp_path).correlations is None
        assert not (tmp_path / CORRELATIONS_NAME).exists()

    def test_they_are_not_evaluated_once_more(self) -> None:
        task = task_of()
        network = task.build_network()
        task.epoch_report(network)
        logits = task._test_logits[network].numpy()
        upper = np.corrcoef(logits.T)[np.triu_indices(logits.shape[1], 1)]
        np.testing.assert_allclose(task.logit_correlations(network)["student"], upper, atol=1e-3)


class TestDetections:
    def test_task_without_detections_writes_no_file(self, student: Path) -> None:
        assert finished(student).detections is None
        assert not (student / DETECTIONS_NAME).exists()

    @pytest.mark.parametrize("kind", ["written", "full disk"])
    def test_detections_of_a_task_are_beside_its_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        truth = random_truth(0)
        found = random_detections(truth, 1)
        kinds, about = np.zeros(len(found), np.uint8), np.full(len(found), -1)
        table = detection_table(truth, {"student": (found, kinds, about)}, {"student": {"ap": 12.5}})
        monkeypatch.setattr(classification.ClassificationTask, "detections", lambda *_: table)
        monkeypatch.setattr(classification.ClassificationTask, "per_item", lambda *_: {})
        (tmp_path / DETECTIONS_NAME).write_bytes(b"of an earlier run in this folder")
        if kind == "full disk":
            monkeypatch.setattr("core.train.item_results.atomic_write", full)
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        last = finished(tmp_path)
        warnings = [event.message for event in events(tmp_path) if isinstance(event, Log) and event.level == "warning"]
        refused = any(text.startswith("the detections of the test images could not be written: ") for text in warnings)
        if kind == "full disk":
            assert last.detections is None
            assert refused
            assert not (tmp_path / DETECTIONS_NAME).exists()
            return
        assert not refused
        assert last.detections == DETECTIONS_NAME
        back = read_detections(tmp_path / DETECTIONS_NAME)
        (started,) = (event for event in events(tmp_path) if isinstance(event, Started))
        assert (back.task, back.data) == ("classification", started.environment[IMAGES_KEY])
        assert back.fingerprint == RUNS["ce"].fingerprint()
        np.testing.assert_array_equal(back.boxes, table.boxes)

    def test_event_of_an_earlier_version_is_read(self, student: Path, tmp_path: Path) -> None:
        lines = (student / "events.jsonl").read_text().splitlines()
        assert '"detections":null,' in lines[-1]
        old = "\n".join((*lines[:-1], lines[-1].replace('"detections":null,', ""), ""))
        (tmp_path / "events.jsonl").write_text(old)
        assert finished(tmp_path) == finished(student)


class TestTask:
    def test_steps_end_what_a_report_has_kept(self) -> None:
        task = task_of()
        network = task.build_network()
        task.epoch_report(network)
        before = task.per_item(network)["probability"]
        batches = task.batches(task.context.spec.training, 0, 0, 0, share=slice)
        batches.close()
        with torch.no_grad():
            network.linear.weight.mul_(3)
        after = task.per_item(network)["probability"]
        assert not np.array_equal(before, after)
        task.epoch_report(network)
        np.testing.assert_array_equal(task.per_item(network)["probability"], after)

    def test_report_of_another_network_is_not_used(self) -> None:
        task = task_of()
        first, second = task.build_network(), task.build_network()
        expected = {name: values.copy() for name, values in task.per_item(first).items()}
        task.epoch_report(first)
        task.epoch_report(second)
        for name, values in task.per_item(first).items():
            np.testing.assert_array_equal(values, expected[name])
        assert not np.array_equal(task.per_item(second)["nll"], expected["nll"])


class TestColumns:
    @pytest.mark.parametrize(
        ("count", "num_classes", "item", "classes"),
        [
            (256, 256, "uint8", "uint8"),
            (257, 257, "uint16", "uint16"),
            (70_000, 2, "uint32", "uint8"),
            (1, 1, "uint8", "uint8"),
        ],
    )
    def test_integers_have_the_smallest_type(self, count: int, num_classes: int, item: str, classes: str) -> None:
        logits = torch.randn(count, num_classes)
        columns = item_columns(logits, torch.arange(count) % num_classes, logits)
        assert columns["item"].dtype == item
        assert {columns[name].dtype for name in ("target", "predicted", "teacher_predicted")} == {np.dtype(classes)}
        assert columns["item"].tolist() == list(range(count))
        assert columns["target"].max() == num_classes - 1

    def test_values_too_large_for_float16_are_its_largest(self) -> None:
        columns = item_columns(
            torch.tensor([[1e6, 0.0], [0.0, 1e6]]), torch.tensor([1, 1]), torch.tensor([[0.0, 1e6]] * 2)
        )
        assert columns["nll"].tolist() == [65_504, 0]
        assert columns["kl"].tolist() == [65_504, 0]
        assert columns["probability"].tolist() == [0, 1]

    def test_logits_that_are_no_numbers_stay_visible(self) -> None:
        columns = item_columns(torch.full((2, 3), torch.nan), torch.tensor([1, 2]))
        assert np.isnan(columns["nll"]).all()
        assert np.isnan(columns["probability"]).all()
