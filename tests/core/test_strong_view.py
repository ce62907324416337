"""A second view of each sample: how it is drawn, how networks compute it, and whole trainings with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.catalog.augmentations import STRONG
from core.catalog.taps import FEATURES, STRONG_LOGITS
from core.distill.objective import NetworkShape, Outputs, Setting, build_objective
from core.events import JOURNAL_NAME, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, MethodRef, SpecError, Training, parse_experiment
from core.specs.warnings import warnings_of
from core.tasks.classification import models
from core.tasks.classification.data import Batch, Dataset
from core.tasks.classification.models.taps import Tapped
from core.tasks.task import TeacherSource
from core.train import run_training
from core.train.accumulation import MicroBatches
from core.train.cached_teacher import cache_key
from core.train.performance import ExecutionPlan
from core.train.rank_loss import step_loss
from core.train.ranks import SINGLE_PROCESS
from core.train.teacher import LiveTeacher
from tests.core.speed_runs import DEVICES, synthetic
from tests.core.task_of import task_of


def batches(dataset: Dataset, strong: Any = STRONG, size: int = 64, **choices: Any) -> list[Batch]:
    seed, epoch = choices.pop("seed", 0), choices.pop("epoch", 0)
    augment = None if strong is None else Training(epochs=1, strong_augment=strong).strong_augment
    return list(dataset.batches(size, seed, epoch, strong=augment, **choices))


def strong_images(found: list[Batch]) -> dict[int, Tensor]:
    images: dict[int, Tensor] = {}
    for batch in found:
        assert batch.strong is not None
        images |= dict(zip(batch.index.tolist(), batch.strong, strict=True))
    return images


class TestDraws:
    def test_it_does_not_change_the_first_view(self) -> None:
        dataset = synthetic()
        for own, plain in zip(batches(dataset), batches(dataset, None), strict=True):
            assert torch.equal(own.images, plain.images)
            assert torch.equal(own.labels, plain.labels)
            assert torch.equal(own.index, plain.index)
            assert plain.strong is None

    def test_image_depends_on_seed_epoch_and_sample_alone(self) -> None:
        dataset = synthetic()
        reference = strong_images(batches(dataset))
        for other in (batches(dataset, size=7), batches(dataset, size=7, start=20)):
            assert all(torch.equal(reference[sample], image) for sample, image in strong_images(other).items())
        for change in ({"seed": 1}, {"epoch": 1}):
            changed = strong_images(batches(dataset, **change))
            assert sum(torch.equal(reference[sample], changed[sample]) for sample in reference) < len(reference) / 10

    def test_shares_of_the_ranks_concatenate_to_the_whole_batch(self) -> None:
        dataset = synthetic(100)
        parts = [
            batches(dataset, size=33, share=lambda n, rank=rank: slice(n * rank // 3, n * (rank + 1) // 3))
            for rank in range(3)
        ]
        for whole, *shares in zip(batches(dataset, size=33), *parts, strict=True):
            found = [share.strong for share in shares if share.strong is not None]
            assert whole.strong is not None
            assert torch.equal(torch.cat(found), whole.strong)

    def test_shifts_and_flips_are_drawn_again(self) -> None:
        for batch in batches(synthetic(), ["standard"]):
            assert batch.strong is not None
            same = (batch.images == batch.strong).flatten(1).all(1)
            assert same.float().mean() < 0.2

    def test_without_augmentation_both_views_are_the_image(self) -> None:
        for batch in batches(synthetic(), ["none"], augment="none"):
            assert batch.strong is not None
            assert torch.equal(batch.images, batch.strong)

    def test_mixtures_have_none(self) -> None:
        with pytest.raises(ValueError, match="no second view"):
            batches(synthetic(), augment=("standard", {"name": "mixup", "params": {"alpha": 0.2}}))

    @pytest.mark.parametrize("device", DEVICES)
    def test_parts_and_tensors_carry_it(self, device: str) -> None:
        batch = batches(synthetic(40).to(torch.device(device)))[0]
        assert batch.strong is not None
        part = batch.part(slice(3, 9))
        assert part.strong is not None
        assert torch.equal(part.strong, batch.strong[3:9])
        *first, last = batch.tensors()
        assert last is batch.strong
        again = batch.with_tensors(*first, last + 1)
        assert again.strong is not None
        assert torch.equal(again.strong, batch.strong + 1)
        assert again.mixed is None
        stored = batch.to_memory_format(torch.channels_last).strong
        assert stored is not None
        assert stored.is_contiguous(memory_format=torch.channels_last)


def network() -> nn.Module:
    torch.manual_seed(0)
    return models.build("small_cnn", num_classes=5, image_size=16, in_channels=3, width=4)


class TestNetworks:
    def test_views_are_computed_one_after_the_other(self) -> None:
        """Batch norm normalises each by its own statistics, and its running statistics count both."""
        tapped, plain = Tapped(network(), [FEATURES, STRONG_LOGITS]), network()
        weak, strong = torch.randn(2, 6, 3, 16, 16)
        logits, features, strong_logits = tapped(torch.cat((weak, 3 * strong)))
        assert torch.equal(logits, plain(weak))
        assert torch.equal(strong_logits, plain(3 * strong))
        states = zip(tapped.network.state_dict().values(), plain.state_dict().values(), strict=True)
        assert all(torch.equal(own, other) for own, other in states)
        assert features.shape == (6, 8), "the other taps are of the first view"

    def test_teacher_returns_the_logits_of_both(self) -> None:
        teacher, batch = network().eval(), batches(synthetic(40), size=20)[0]
        outputs = LiveTeacher(teacher, ExecutionPlan(threads=1), task_of(), (STRONG_LOGITS,)).outputs(batch, 0)
        assert batch.strong is not None
        with torch.no_grad():
            torch.testing.assert_close(outputs.logits, teacher(batch.images), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(outputs.taps[STRONG_LOGITS], teacher(batch.strong), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("count", [2, 3])
    def test_micro_batches_have_the_gradient_of_the_whole_batch(self, count: int) -> None:
        task, batch = task_of(), batches(synthetic(20), size=20)[0]
        first, second = (network().eval() for _ in range(2))  # without statistics of the batch
        teacher = LiveTeacher(network(), ExecutionPlan(threads=1), task, (STRONG_LOGITS,)).outputs(batch, 0)
        shape, taps = NetworkShape(5, {STRONG_LOGITS: torch.Size((5,))}), (STRONG_LOGITS,)
        objective = build_objective(MethodRef(name="mlkd"), Setting(shape, shape, 20))
        own, other = (Tapped(model, taps) for model in (first, second))
        scaler = torch.amp.GradScaler("cpu", enabled=False)

        def forward(part: Any) -> Outputs:
            return task.forward(own, part, taps)

        MicroBatches(task, first, objective, SINGLE_PROCESS, forward, own, scaler).backward(batch, count, teacher, 0)
        step = task.step(task.forward(other, batch, taps), teacher, batch, 0)
        step_loss(objective, step, 20, SINGLE_PROCESS).local.backward()  # type: ignore[no-untyped-call]
        for mine, expected in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-4, atol=1e-6)


def experiment(*methods: Any, **training: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "views",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 100, "test_size": 20},
            },
            "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 32}},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": list(methods or ["mlkd"]),
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": 32} | training,
        }
    )


MIXUP = ["standard", {"name": "mixup", "params": {"alpha": 0.2}}]
ONE_VIEW = {"name": "mlkd", "label": "one view", "params": {"strong_view": False}}


class TestSpecs:
    def test_method_with_two_views_refuses_mixtures(self) -> None:
        with pytest.raises(SpecError) as caught:
            experiment("kd", "mlkd", augment=MIXUP)
        (problem,) = caught.value.problems
        assert problem.path == "methods.1"
        assert "mixup in training.augment mixes two" in problem.message
        experiment("kd", ONE_VIEW, augment=MIXUP)

    def test_mixture_is_no_second_view(self) -> None:
        with pytest.raises(SpecError) as caught:
            experiment(strong_augment=MIXUP)
        (problem,) = caught.value.problems
        assert problem.path == "training.strong_augment"
        assert "mixup mixes two images" in problem.message

    def test_default_is_not_written_out(self) -> None:
        for given in ({}, {"strong_augment": ["fixmatch"]}):
            assert "strong_augment" not in experiment(**given).training.model_dump(mode="json")

    def test_only_methods_that_read_it_are_other_runs_with_another_view(self) -> None:
        default, other = (
            [run.spec.fingerprint() for run in experiment("kd", "mlkd", ONE_VIEW, **given).plan()]
            for given in ({}, {"strong_augment": ["randaugment"]})
        )
        assert [own == changed for own, changed in zip(default, other, strict=True)] == [True, True, False, True]

    def test_view_that_no_method_reads_is_warned_of(self) -> None:
        def paths(*methods: Any, **given: Any) -> list[str]:
            return [problem.path for problem in warnings_of(experiment(*methods, **given))]

        assert "training.strong_augment" in paths("kd", ONE_VIEW, strong_augment="randaugment")
        assert "training.strong_augment" not in paths("kd", "mlkd", strong_augment="randaugment")
        assert "training.strong_augment" not in paths("kd")

    def test_cached_outputs_are_keyed_by_the_view(self) -> None:
        def key(*taps: str, **given: Any) -> dict[str, Any]:
            spec, plan = experiment(**given).plan()[-1].spec, ExecutionPlan(threads=1)
            return cache_key(spec, {}, plan, 32, torch.device("cpu"), taps)

        strong = {"strong_augment": ["randaugment"]}
        assert key() == key(**strong)
        assert key(STRONG_LOGITS) != key(STRONG_LOGITS, **strong)
        assert key(STRONG_LOGITS) != key()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    spec = experiment().plan()[0].spec
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


def events(folder: Path) -> list[Any]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [event.values for event in events(folder) if isinstance(event, Metrics)]


class TestRuns:
    def train(self, folder: Path, teacher: TeacherSource, cache: Path, **training: Any) -> str:
        settings = TrainingSettings(cache_dir=cache, threads=1)
        return run_training(experiment(**training).plan()[-1].spec, folder, teacher, settings=settings)

    def test_cached_outputs_of_both_views_give_the_same_run(self, teacher: TeacherSource, tmp_path: Path) -> None:
        for name in ("first", "again"):
            assert self.train(tmp_path / name, teacher, tmp_path / "cache") == "finished"
        shares = [[v["speed/teacher_reused"] for v in metrics(tmp_path / name)] for name in ("first", "again")]
        assert shares == [[0.0, 0.0], [100.0, 100.0]]
        weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("first", "again")]
        assert weights[0] == weights[1]
        messages = [event.message for event in events(tmp_path / "again") if isinstance(event, Log)]
        assert any("1 batches checked against the network" in m or "2 batches checked" in m for m in messages)

    def test_another_strong_view_is_another_training(self, teacher: TeacherSource, tmp_path: Path) -> None:
        for name, strong in (("one", "fixmatch"), ("other", "trivialaugment")):
            assert self.train(tmp_path / name, teacher, tmp_path / "cache", strong_augment=strong) == "finished"
        one, other = (metrics(tmp_path / name) for name in ("one", "other"))
        assert one[0]["train/loss"] != other[0]["train/loss"]
        assert other[0]["speed/teacher_reused"] == 0.0


@pytest.mark.slow
def test_training_on_two_ranks_equals_that_of_one_process(tmp_path: Path) -> None:
    spec = experiment()
    (tmp_path / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    for ranks in ("1", "2"):
        command = ["-m", "core", "run", str(tmp_path / "spec.json"), "--out", str(tmp_path / ranks), "--ranks", ranks]
        result = subprocess.run(
            [sys.executable, *command],
            env=os.environ | {"OMP_NUM_THREADS": "1", "DKD_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    one, two = (metrics(tmp_path / ranks / "mlkd-seed0") for ranks in ("1", "2"))
    for name in ("train/ce", "train/instance_level", "train/class_level", "train/loss", "test/loss"):
        assert [values[name] for values in one] == pytest.approx([values[name] for values in two], rel=1e-4), name
