"""Penultimate features that a run keeps: which images, when, the measures, and that training does not notice."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog.metric import VARYING_PREFIXES
from core.events import Finished, Log, Metrics, read_journal
from core.items.feature_file import decode_features, encode_features, read_features
from core.items.features import (
    FEATURES_NAME,
    FINAL,
    MEASURES,
    MOST_CLASSES,
    MOST_IMAGES,
    NetworkFeatures,
    RunFeatures,
    Snapshot,
)
from core.items.table import ItemsError
from core.specs import SpecError, Training, parse_experiment
from core.tasks.classification import task as classification
from core.tasks.classification.diagnostics import penultimate
from core.tasks.classification.diagnostics.inference import eval_mode, predict, predict_logits
from core.tasks.classification.diagnostics.penultimate import ChosenImages, choose_images, take_snapshot
from core.train import TeacherSource, run_training
from core.train.checkpoint import CHECKPOINT_NAME, load_checkpoint
from core.train.feature_log import LEAST_IMAGES, LEAST_TRAINED, Schedule
from tests.core.task_of import task_of
from tests.core.test_training import stop_after, weights

SPEC: dict[str, Any] = {
    "name": "features",
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 6, "image_size": 8, "train_size": 120, "test_size": 90},
    },
    "teacher": {"model": "resnet8"},
    "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "methods": ["kd", "ce"],
    "seeds": [0],
    "training": {"epochs": 5, "batch_size": 32, "features_every": 2},
}
RUNS = {planned.label: planned.spec for planned in parse_experiment(SPEC).plan()}


def finished(folder: Path) -> Finished:
    *_, last = (record.event for record in read_journal(folder / "events.jsonl"))
    assert isinstance(last, Finished)
    return last


def numbers(folder: Path) -> list[dict[str, float]]:
    """Return all metrics except durations, by epoch."""
    found = (record.event for record in read_journal(folder / "events.jsonl"))
    return [
        {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)}
        for event in found
        if isinstance(event, Metrics)
    ]


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


class TestImages:
    def test_classes_have_equally_many_images(self) -> None:
        labels = np.random.default_rng(0).integers(0, 7, 3000)
        images = choose_images(labels, length=64, snapshots=20).images
        assert len(images.items) == MOST_IMAGES == len(set(images.items.tolist()))
        counts = np.bincount(images.labels, minlength=7)
        assert counts.max() - counts.min() <= 1
        np.testing.assert_array_equal(labels[images.items], images.labels)

    def test_fewer_images_of_longer_features_are_the_first_ones(self) -> None:
        labels = np.random.default_rng(1).integers(0, 10, 2000)
        all_of_them, fewer = (choose_images(labels, length, snapshots=20).images for length in (64, 4096))
        assert len(fewer.items) == 102
        np.testing.assert_array_equal(fewer.items, all_of_them.items[:102])

    def test_pictures_are_of_some_of_many_classes_and_measures_of_all(self) -> None:
        labels = np.repeat(np.arange(100), 50)
        chosen = choose_images(labels, length=64, snapshots=20)
        assert len(chosen.images.classes) == MOST_CLASSES == len(np.unique(chosen.images.labels))
        assert (chosen.images.measured, chosen.images.measured_classes) == (5000, 100)
        np.testing.assert_array_equal(chosen.captured[chosen.kept], chosen.images.items)

    def test_long_features_are_measured_on_part_of_the_images(self) -> None:
        labels = np.repeat(np.arange(1000), 50)
        chosen = choose_images(labels, length=2048, snapshots=20)
        assert (chosen.images.measured, chosen.images.measured_classes) == (8192, 1000)
        counts = np.bincount(labels[chosen.captured[chosen.measured]])
        assert set(counts.tolist()) <= {8, 9}

    def test_class_without_a_test_image_is_left_out(self) -> None:
        images = choose_images(np.array([0, 3, 3, 0]), length=4, snapshots=1).images
        assert images.classes.tolist() == [0, 3]
        assert sorted(images.items.tolist()) == [0, 1, 2, 3]


def loops(
    values: NDArray[Any], labels: NDArray[Any], predicted: NDArray[Any], weight: NDArray[Any]
) -> dict[str, float]:
    """Return the measures by their definitions, with plain loops over images, classes and dimensions."""
    classes, dimensions = len(weight), values.shape[1]
    means = [[0.0] * dimensions for _ in range(classes)]
    for label in range(classes):
        own = [row for row, other in zip(values, labels, strict=True) if other == label]
        for at in range(dimensions):
            means[label][at] = math.fsum(float(row[at]) for row in own) / len(own)
    centre = [math.fsum(mean[at] for mean in means) / classes for at in range(dimensions)]
    around = [[mean[at] - centre[at] for at in range(dimensions)] for mean in means]
    within, between = np.zeros((dimensions, dimensions)), np.zeros((dimensions, dimensions))
    for one in range(dimensions):
        for two in range(dimensions):
            for row, label in zip(values, labels, strict=True):
                within[one, two] += (row[one] - means[label][one]) * (row[two] - means[label][two]) / len(values)
            for mean in around:
                between[one, two] += mean[one] * mean[two] / classes

    def length(row: Any) -> float:
        return math.sqrt(math.fsum(float(value) ** 2 for value in row))

    def cosine(one: Any, two: Any) -> float:
        return math.fsum(float(a) * float(b) for a, b in zip(one, two, strict=True)) / (length(one) * length(two))

    def spread(rows: Any) -> float:
        lengths = [length(row) for row in rows]
        mean = math.fsum(lengths) / len(lengths)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in lengths) / len(lengths)) / mean

    def pairs(rows: Any) -> list[float]:
        return [cosine(rows[a], rows[b]) for a in range(classes) for b in range(a + 1, classes)]

    def excess(rows: Any) -> float:
        return math.fsum(abs(value + 1 / (classes - 1)) for value in pairs(rows)) / len(pairs(rows))

    whole, other = (
        math.sqrt(sum(length(row) ** 2 for row in weight)),
        math.sqrt(sum(length(row) ** 2 for row in around)),
    )
    apart = sum(
        (float(weight[label][at]) / whole - around[label][at] / other) ** 2
        for label in range(classes)
        for at in range(dimensions)
    )
    unlike = 0
    for row, guess in zip(values, predicted, strict=True):
        distances = [length([a - b for a, b in zip(row, mean, strict=True)]) for mean in means]
        unlike += distances.index(min(distances)) != guess
    angles = [math.degrees(math.acos(value)) for value in pairs(around)]
    return {
        "nc1": float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10))) / classes,
        "nc2_norms": spread(around),
        "nc2_angles": excess(around),
        "nc2_weight_norms": spread(weight),
        "nc2_weight_angles": excess(weight),
        "nc3": apart,
        "nc4": 100 * unlike / len(values),
        "angle_mean": math.fsum(angles) / len(angles),
        "angle_least": min(angles),
    }


def everything(labels: NDArray[np.int64], length: int) -> ChosenImages:
    return choose_images(labels, length, snapshots=1)


class TestMeasures:
    @pytest.mark.parametrize(("classes", "length"), [(4, 7), (6, 3), (2, 5)])
    def test_measures_equal_plain_loops(self, classes: int, length: int) -> None:
        random = np.random.default_rng(classes)
        labels = random.permutation(np.arange(classes).repeat(6))
        values = random.normal(size=(len(labels), length)) + 2 * random.normal(size=(classes, length))[labels]
        weight, logits = random.normal(size=(classes, length)), random.normal(size=(len(labels), classes))
        chosen = everything(labels, length)
        tensors = [torch.from_numpy(array) for array in (values, labels, logits, weight)]
        found = take_snapshot(tensors[0], chosen, *tensors[1:])
        expected = loops(values, labels, logits.argmax(1), weight)
        # The arc cosine of −1 amplifies rounding.
        assert found.measures == pytest.approx(expected, rel=1e-7)
        assert set(found.measures) == set(MEASURES)
        np.testing.assert_array_equal(found.values, values[chosen.images.items].astype(np.float32).astype(np.float16))

    def test_simplex_is_fully_collapsed(self) -> None:
        classes, length = 5, 8
        frame = torch.eye(classes, dtype=torch.float64) - 1 / classes
        corners = torch.cat([frame, torch.zeros(classes, length - classes, dtype=torch.float64)], 1)
        labels = torch.arange(classes).repeat(6)
        found = take_snapshot(
            3 * corners[labels] + 10, everything(labels.numpy(), length), labels, corners[labels] @ corners.T, corners
        )
        ideal = math.degrees(math.acos(-1 / (classes - 1)))
        collapsed = dict.fromkeys(MEASURES, 0.0) | {"angle_mean": ideal, "angle_least": ideal}
        assert found.measures == pytest.approx(collapsed, abs=1e-6)
        np.testing.assert_allclose(found.cosines, -1 / (classes - 1), atol=1e-3)

    def test_two_classes_are_opposite(self) -> None:
        labels = torch.tensor([0, 1, 0, 1])
        values = torch.tensor([[1.0, 0], [3, 0], [1, 0], [3, 0]])
        weight = torch.tensor([[-1.0, 0], [1, 0]])
        found = take_snapshot(values, everything(labels.numpy(), 2), labels, values @ weight.T, weight)
        assert found.measures["angle_mean"] == pytest.approx(180)
        assert found.measures["nc1"] == 0

    def test_numbers_beyond_float16_are_its_largest(self) -> None:
        labels = torch.tensor([0, 1, 0, 1])
        values = torch.tensor([[1e6, 0], [3, 0], [-1e6, 0], [3, 0]])
        found = take_snapshot(values, everything(labels.numpy(), 2), labels, values, torch.eye(2))
        assert set(np.abs(found.values[:, 0]).tolist()) == {65504.0, 3.0}


class TestRun:
    def test_features_are_kept_after_first_and_last_epoch_and_every_second(self, student: Path) -> None:
        assert finished(student).features == FEATURES_NAME
        own = read_features(student / FEATURES_NAME).networks["student"]
        assert list(own.snapshots) == [1, 2, 4, 5]
        assert len(own.images.items) == 90

    def test_teacher_is_kept_once_with_the_same_images(self, student: Path) -> None:
        found = read_features(student / FEATURES_NAME)
        assert list(found.networks["teacher"].snapshots) == [FINAL]
        assert list(found.networks["teacher"].snapshots[FINAL].measures) == list(MEASURES)
        assert found.networks["teacher"].images.items.tolist() == found.networks["student"].images.items.tolist()

    def test_last_features_are_those_of_the_weights(self, teacher: TeacherSource) -> None:
        # The weights of the file, evaluated without training.
        task = task_of()
        network = task.build_network()
        report = task.feature_report(network, 1)
        assert report.images
        assert report.snapshot
        with eval_mode(network):
            features = predict(network.features, task.dataset, task.dataset.test).numpy()
        np.testing.assert_array_equal(report.snapshot.values, features[report.images.items].astype(np.float16))
        assert report.values == pytest.approx(task.epoch_report(network), rel=0, abs=0)
        assert not network.linear._forward_pre_hooks

    def test_file_names_run_data_and_classes(self, student: Path) -> None:
        found = read_features(student / FEATURES_NAME)
        assert found.fingerprint == RUNS["kd"].fingerprint()
        assert found.data
        assert len(found.classes) == 6

    def test_no_further_pass_over_the_test_images(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes: list[nn.Module] = []

        def counted(network: nn.Module, *arguments: Any) -> Tensor:
            passes.append(network)
            return predict_logits(network, *arguments)

        monkeypatch.setattr(classification, "predict_logits", counted)
        assert run_training(RUNS["kd"], tmp_path, teacher) == "finished"
        assert len(passes) == 1 + 5, "the teacher once, and the student after each epoch"

    def test_training_is_the_same_bit_for_bit_without_them(
        self, tmp_path: Path, teacher: TeacherSource, student: Path
    ) -> None:
        off = RUNS["kd"].model_copy(update={"training": RUNS["kd"].training.model_copy(update={"features_every": 0})})
        assert run_training(off, tmp_path, teacher) == "finished"
        assert finished(tmp_path).features is None
        assert not (tmp_path / FEATURES_NAME).exists()
        ours, theirs = weights(tmp_path), weights(student)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        assert numbers(tmp_path) == numbers(student)

    @pytest.mark.parametrize("steps", [2, 9, 17])
    def test_resumed_run_loses_none_and_writes_none_twice(
        self, tmp_path: Path, teacher: TeacherSource, student: Path, steps: int
    ) -> None:
        half, rest = tmp_path / "half", tmp_path / "rest"
        assert run_training(RUNS["kd"], half, teacher, options=stop_after(steps)) == "stopped"
        assert run_training(RUNS["kd"], rest, teacher, resume=half / CHECKPOINT_NAME) == "finished"
        assert (rest / FEATURES_NAME).read_bytes() == (student / FEATURES_NAME).read_bytes()

    def test_checkpoint_of_an_earlier_version_has_no_features(self, tmp_path: Path) -> None:
        assert run_training(RUNS["ce"], tmp_path, options=stop_after(9)) == "stopped"
        checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME, RUNS["ce"].fingerprint())
        assert list(checkpoint.features["snapshots"]) == [1, 2]
        assert replace(checkpoint, features={}).features == {}

    def test_weights_that_are_not_trained_have_features_once(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATA_DIR", str(teacher.weights.parent))
        given = SPEC | {"teacher": {"model": "resnet8", "weights": teacher.weights.name}}
        run = parse_experiment(given).teacher_run()
        assert run
        assert run_training(run, tmp_path) == "finished"
        found = read_features(tmp_path / FEATURES_NAME).networks["student"]
        assert list(found.snapshots) == [FINAL]

    def test_network_whose_last_layer_is_not_a_vectors_keeps_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(penultimate.Capture, "features", lambda _: None)
        assert run_training(RUNS["ce"], tmp_path) == "finished"
        assert finished(tmp_path).features is None
        assert not any(
            isinstance(record.event, Log) and record.event.level == "warning" and "features" in record.event.message
            for record in read_journal(tmp_path / "events.jsonl")
        )


class TestSchedule:
    @staticmethod
    def kept(samples: int = 50_000, cost: float | None = 1.0, parameters: int = 100_000, **training: Any) -> list[int]:
        made = Schedule(Training(**training), samples, cost, parameters)
        tested = [done for done in range(1, training["epochs"] + 1) if done % training.get("evaluate_every", 1) == 0]
        kept = [done for done in tested if made.keeps(done)]
        assert len(kept) <= made.count
        return kept

    def test_about_twenty_times_by_default(self) -> None:
        assert self.kept(epochs=200) == [1, *range(10, 201, 10)]
        assert self.kept(epochs=5) == [1, 2, 3, 4, 5]

    def test_further_apart_where_few_images_are_trained_in_between(self) -> None:
        assert self.kept(samples=LEAST_IMAGES // 4, epochs=40) == [1, *range(4, 41, 4)]

    def test_never_by_default_where_it_costs_too_much(self) -> None:
        assert self.kept(samples=LEAST_TRAINED // 40, epochs=39) == []
        # 2 % of 3 · 10,000 images · 100 parameters.
        assert self.kept(samples=10_000, epochs=2, parameters=100, cost=60_001.0) == []
        assert self.kept(samples=10_000, epochs=2, parameters=100, cost=60_000.0) == [1, 2]

    def test_as_often_as_the_spec_says_whatever_it_costs(self) -> None:
        assert self.kept(samples=10, epochs=7, features_every=3, cost=1e30) == [1, 3, 6, 7]
        assert self.kept(epochs=7, features_every=0) == []
        assert self.kept(epochs=7, features_every=3, cost=None) == []

    def test_only_where_the_network_is_tested(self) -> None:
        assert self.kept(epochs=10, evaluate_every=4, features_every=1) == [4, 8]
        assert Schedule(Training(epochs=10, evaluate_every=4), 50_000, 1.0, 100_000).keeps(10)

    def test_number_of_times_is_bounded(self) -> None:
        assert len(self.kept(epochs=1000, features_every=1)) == 101


class TestSpec:
    def test_default_is_left_out_and_teachers_do_not_depend_on_it(self) -> None:
        training: dict[str, Any] = {name: value for name, value in SPEC["training"].items() if name != "features_every"}
        plain = parse_experiment(SPEC | {"training": training})
        explicit = parse_experiment(SPEC | {"training": training | {"features_every": None}})
        assert plain.model_dump(mode="json") == explicit.model_dump(mode="json")
        assert "features_every" not in plain.training.model_dump()
        assert plain.teacher_run() == parse_experiment(SPEC).teacher_run()
        assert parse_experiment(SPEC).training.model_dump()["features_every"] == 2

    @pytest.mark.parametrize("value", [-1, 10_001, 1.5, "often"])
    def test_impossible_distances_are_refused_by_name(self, value: Any) -> None:
        with pytest.raises(SpecError, match="features_every"):
            parse_experiment(SPEC | {"training": SPEC["training"] | {"features_every": value}})


@pytest.fixture
def kept() -> RunFeatures:
    labels = np.array([0, 0, 1, 1, 2, 2])
    images = choose_images(labels, length=3, snapshots=2).images
    random = np.random.default_rng(0)

    def snapshot(length: int) -> Snapshot:
        values = random.normal(size=(6, length)).astype(np.float16)
        return Snapshot(values, np.array([0.5, np.nan, -0.5], np.float16), dict.fromkeys(MEASURES, 0.25))

    return RunFeatures(
        {
            "student": NetworkFeatures(images, {1: snapshot(3), 4: snapshot(3)}),
            "teacher": NetworkFeatures(images, {FINAL: snapshot(5)}),
        },
        "0123",
        "of a run",
        ("cat", "dog", "owl"),
    )


class TestFile:
    def test_what_is_written_is_read(self, kept: RunFeatures) -> None:
        found = decode_features(encode_features(kept), "f")
        assert (found.data, found.fingerprint, found.classes) == (kept.data, kept.fingerprint, kept.classes)
        for name, network in kept.networks.items():
            assert found.networks[name].snapshots.keys() == network.snapshots.keys()
            np.testing.assert_array_equal(found.networks[name].images.items, network.images.items)
            np.testing.assert_array_equal(found.networks[name].images.classes, network.images.classes)
            for epoch, snapshot in network.snapshots.items():
                read = found.networks[name].snapshots[epoch]
                np.testing.assert_array_equal(read.values, snapshot.values)
                np.testing.assert_array_equal(read.cosines, snapshot.cosines)
                assert read.measures == snapshot.measures

    def test_equal_features_give_equal_bytes(self, kept: RunFeatures) -> None:
        assert encode_features(kept) == encode_features(copy.deepcopy(kept))

    def test_measure_that_is_not_defined_is_kept_as_such(self, kept: RunFeatures) -> None:
        student = kept.networks["student"]
        nothing = {1: replace(student.snapshots[1], measures=dict.fromkeys(MEASURES, math.nan))}
        found = decode_features(encode_features(RunFeatures({"student": replace(student, snapshots=nothing)})), "f")
        assert all(math.isnan(value) for value in found.networks["student"].snapshots[1].measures.values())

    def test_damaged_and_other_files_are_refused(self, kept: RunFeatures, student: Path) -> None:
        content = bytearray(encode_features(kept))
        content[60] ^= 1
        with pytest.raises(ItemsError, match="damaged"):
            decode_features(bytes(content), "f")
        with pytest.raises(ItemsError, match="not with the features"):
            read_features(student / "items.parquet")
        with pytest.raises(ItemsError, match="limit"):
            decode_features(encode_features(kept), "f", most_bytes=10)

    @pytest.mark.parametrize("wrong", ["classes", "cosines", "no rows"])
    def test_content_that_does_not_fit_together_is_refused(self, kept: RunFeatures, wrong: str) -> None:
        student = kept.networks["student"]
        snapshots = dict(student.snapshots)
        images = student.images
        if wrong == "classes":
            images = replace(images, classes=np.array([0, 1]))
        elif wrong == "cosines":
            snapshots[1] = replace(snapshots[1], cosines=np.zeros(2, np.float16))
        else:
            snapshots = {}
        with pytest.raises(ItemsError, match="not those of features"):
            decode_features(encode_features(RunFeatures({"student": NetworkFeatures(images, snapshots)})), "f")
