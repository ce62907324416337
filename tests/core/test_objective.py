"""A method with taps and parameters of its own, in whole trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.catalog import load_plugins
from core.distill.objective import Step
from core.distill.terms import LossTerms
from core.events import JOURNAL_NAME, Failed, Log, Metrics, Started, read_journal
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, SpecError, parse_experiment
from core.tasks.classification import models
from core.train import TeacherSource, TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME, load_checkpoint
from tests.core.hint_objective import Hint

load_plugins(["tests.core.hint_plugin"])


def experiment(*methods: Any, **changes: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "hints",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 96, "test_size": 40},
            },
            "teacher": {
                "model": {"name": "small_cnn", "params": {"width": 8}},
                "training": {"epochs": 1, "batch_size": 32},
            },
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": list(methods),
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": 32, "optimizer": {"lr": 0.02}},
        }
        | changes
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    spec = experiment("kd").plan()[0].spec
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


def train(method: Any, folder: Path, teacher: TeacherSource, options: TrainOptions | None = None) -> str:
    settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
    spec = experiment(method).plan()[-1].spec
    return run_training(spec, folder, teacher if spec.teacher else None, options=options, settings=settings)


def events(folder: Path) -> list[Any]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def test_terms_of_the_method_are_reported_and_the_teacher_runs_in_every_step(
    tmp_path: Path, teacher: TeacherSource
) -> None:
    assert train("test_hint", tmp_path, teacher) == "finished"
    metrics = [event.values for event in events(tmp_path) if isinstance(event, Metrics)]
    assert metrics[1]["train/hint"] < metrics[0]["train/hint"]
    assert metrics[0]["train/loss"] == pytest.approx(metrics[0]["train/ce"] + metrics[0]["train/hint"], rel=1e-6)
    messages = [event.message for event in events(tmp_path) if isinstance(event, Log)]
    assert (
        "the teacher runs in every step: the method reads its stage1, and only logits and vectors are cached"
        in messages
    )


def test_parameters_of_the_method_are_counted_and_not_exported(tmp_path: Path, teacher: TeacherSource) -> None:
    assert train("test_hint", tmp_path, teacher) == "finished"
    (started,) = (event for event in events(tmp_path) if isinstance(event, Started))
    assert started.environment["method_parameters"] == str(4 * 2 * 8 * 2 + 8 * 2)
    student = models.build("small_cnn", num_classes=5, image_size=8, in_channels=3, width=4)
    assert load_file(tmp_path / "weights.safetensors").keys() == student.state_dict().keys()


def test_layers_of_the_method_work_on_networks_in_16_bits(tmp_path: Path, teacher: TeacherSource) -> None:
    training = {"epochs": 1, "batch_size": 32, "speed": {"precision": "bfloat16"}}
    spec = experiment("test_hint", training=training).plan()[-1].spec
    settings = TrainingSettings(cache_dir=tmp_path / "cache", threads=1)
    assert run_training(spec, tmp_path, teacher, settings=settings) == "finished", events(tmp_path)[-1]


def test_student_starts_from_the_weights_that_it_has_with_every_method(
    tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, Tensor]] = []

    def stop_at_once() -> bool:
        return True

    for name in ("ce", "test_hint"):
        folder = tmp_path / name
        assert train(name, folder, teacher, TrainOptions(stop_requested=stop_at_once)) == "stopped"
        spec = experiment(name).plan()[-1].spec
        starts.append(load_checkpoint(folder / CHECKPOINT_NAME, spec.fingerprint()).model)
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_parameters_of_the_method_are_trained_and_in_the_checkpoint(tmp_path: Path, teacher: TeacherSource) -> None:
    spec = experiment("test_hint").plan()[-1].spec
    adapters = []
    for stop_at in (0, 4):
        polls = iter(range(10))
        options = TrainOptions(stop_requested=lambda polls=polls, stop_at=stop_at: next(polls) == stop_at)  # type: ignore[misc]
        folder = tmp_path / str(stop_at)
        assert train("test_hint", folder, teacher, options) == "stopped"
        adapters.append(load_checkpoint(folder / CHECKPOINT_NAME, spec.fingerprint()).objective["adapter.weight"])
    assert not torch.equal(*adapters)


def test_parameters_that_are_not_finite_end_the_training(
    tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.train.stepper import Stepper

    step = Stepper.step

    def spoil(self: Stepper, *arguments: Any, **named: Any) -> None:
        step(self, *arguments, **named)
        with torch.no_grad():
            self.objective.get_buffer("steps").fill_(torch.inf)

    monkeypatch.setattr(Stepper, "step", spoil)
    assert train("test_hint", tmp_path, teacher) == "failed"
    last = events(tmp_path)[-1]
    assert isinstance(last, Failed)
    assert last.kind == "nan"
    assert "test_hint.steps" in last.reason


class TestBadInput:
    def test_unknown_tap_is_refused_at_submission_with_its_field(self) -> None:
        with pytest.raises(SpecError) as refused:
            experiment({"name": "test_hint", "params": {"teacher_tap": "stage3"}})
        (problem,) = refused.value.problems
        assert problem.path == "methods.0.params.teacher_tap"
        assert "the teacher small_cnn: there is no tap 'stage3'; did you mean stage1" in problem.message

    def test_method_for_another_task_is_refused_at_submission(self) -> None:
        with pytest.raises(SpecError) as refused:
            experiment("kd", "test_boxes")
        (problem,) = refused.value.problems
        assert problem.path == "methods.1"
        assert problem.message == "test_boxes is for detection; synthetic is a data set of classification"

    def test_module_path_that_does_not_exist_fails_before_the_first_step(
        self, tmp_path: Path, teacher: TeacherSource
    ) -> None:
        method = {"name": "test_hint", "params": {"student_tap": "layers.stage7"}}
        assert train(method, tmp_path, teacher) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert last.kind == "spec"
        assert "the network has no layer 'layers.stage7'; did you mean layers.stage1" in last.reason

    def test_shapes_that_cannot_be_joined_fail_before_the_first_step(
        self, tmp_path: Path, teacher: TeacherSource
    ) -> None:
        method = {"name": "test_hint", "params": {"student_tap": "features"}}
        assert train(method, tmp_path, teacher) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert last.kind == "spec"
        assert "student_tap gives maps of" in last.reason


@pytest.mark.slow
def test_training_on_two_ranks_equals_that_of_one_process(tmp_path: Path) -> None:
    """A tap on batch norm too, which is replaced by one over all ranks."""
    norm = {"student_tap": "layers.stage1.0.bn1", "teacher_tap": "layers.stage1.0.bn1"}
    stage = {"student_tap": "stage2", "teacher_tap": "stage2"}
    methods = [{"name": "test_hint", "label": name, "params": tap} for name, tap in (("norm", norm), ("stage", stage))]
    networks = {"teacher": {"model": "resnet8", "training": {"epochs": 1}}, "student": {"model": "resnet8"}}
    spec = experiment(*methods, **networks)
    (tmp_path / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    for ranks in ("1", "2"):
        command = ["-m", "core", "--plugin", "tests.core.hint_plugin", "run", str(tmp_path / "spec.json")]
        result = subprocess.run(
            [sys.executable, *command, "--out", str(tmp_path / ranks), "--ranks", ranks],
            env=os.environ | {"OMP_NUM_THREADS": "1", "DKD_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    for label in ("norm", "stage"):
        one, two = (
            [event.values for event in events(tmp_path / ranks / f"{label}-seed0") if isinstance(event, Metrics)]
            for ranks in ("1", "2")
        )
        for name in ("train/hint", "train/ce", "train/loss", "test/loss"):
            assert [values[name] for values in one] == pytest.approx([values[name] for values in two], rel=1e-4), name


@pytest.mark.parametrize("reads_index", [False, True])
def test_numbers_of_the_samples_are_given_to_methods_that_read_them(
    tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch, reads_index: bool
) -> None:
    steps: list[Step] = []
    forward = Hint.forward

    def record(self: Hint, step: Step) -> LossTerms:
        steps.append(step)
        return forward(self, step)

    monkeypatch.setattr(Hint, "forward", record)
    monkeypatch.setattr(Hint, "reads_index", reads_index)
    assert train("test_hint", tmp_path, teacher) == "finished"
    numbers = [step.index.tolist() if step.index is not None else None for step in steps[2:5]]  # after the trial of two
    if reads_index:
        assert sorted(number for part in numbers if part for number in part) == list(range(96))
    else:
        assert numbers == [None] * 3


class TestTrialBeforeTheFirstStep:
    def test_method_that_fails_on_the_shapes_ends_the_run_before_the_first_step(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward = Hint.forward

        def multiply_unequal_shapes(self: Hint, step: Step) -> LossTerms:
            terms = forward(self, step)
            return replace(terms, total=terms.total + (step.rows.student @ torch.ones(6, 1)).sum())

        monkeypatch.setattr(Hint, "forward", multiply_unequal_shapes)
        assert train("test_hint", tmp_path, teacher) == "failed"
        *before, last = events(tmp_path)
        assert isinstance(last, Failed)
        assert last.kind == "spec"
        assert "test_hint cannot compute its loss of these networks: mat1 and mat2 shapes" in last.reason
        assert not any(isinstance(event, Started | Metrics) for event in before)

    def test_method_with_one_sum_cannot_be_weighted_by_share(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward = Hint.forward
        monkeypatch.setattr(Hint, "forward", lambda self, step: replace(forward(self, step), parts={}))
        assert train({"name": "test_hint", "shares": {"hint": 0.3}}, tmp_path, teacher) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert last.kind == "spec"
        assert "returns its loss as one sum" in last.reason

    def test_trial_changes_neither_buffers_nor_the_random_state(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward = Hint.forward
        calls: list[int] = []

        def count_and_draw(self: Hint, step: Step) -> LossTerms:
            calls.append(len(step.rows.target))
            self.get_buffer("steps").add_(1)
            torch.rand(3)
            return forward(self, step)

        monkeypatch.setattr(Hint, "forward", count_and_draw)
        states, counts = [], []
        for name in ("tried", "untried"):
            if name == "untried":
                monkeypatch.setattr("core.train.method.try_out", lambda *_, **__: ())
            options = TrainOptions(stop_requested=lambda: True)
            assert train("test_hint", tmp_path / name, teacher, options) == "stopped"
            spec = experiment("test_hint").plan()[-1].spec
            checkpoint = load_checkpoint(tmp_path / name / CHECKPOINT_NAME, spec.fingerprint())
            states.append(checkpoint.random[0].cpu)
            counts.append(float(checkpoint.objective["steps"]))
        assert calls == [2, 2], "two rows, in the first epoch and at full strength"
        assert counts == [0, 0]
        assert torch.equal(*states)
