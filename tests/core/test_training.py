"""The engine: repeatable, resumable, and with a readable reason for every failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from core.catalog.metric import VARYING_PREFIXES
from core.distill.loss import Loss, build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.events import JOURNAL_NAME, Checkpointed, Event, Failed, Finished, Metrics, Started, Stopped, read_journal
from core.specs import ExperimentSpec, MethodRef, RunSpec, parse_experiment
from core.tasks.classification import data, models
from core.tasks.classification.diagnostics import report as diagnostics_report
from core.train import TeacherSource, TrainOptions, engine, run_training, stop_on_sigterm
from core.train.checkpoint import CHECKPOINT_NAME, load_checkpoint
from core.train.interruption import Interruption, StopRequested
from core.train.stepper import Stepper

SPEC: dict[str, Any] = {
    "name": "engine",
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 5, "image_size": 8, "train_size": 150, "test_size": 100},
    },
    "teacher": {"model": "resnet8"},
    "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "methods": ["dkd", {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}, "ce", "kd"],
    "seeds": [0, 1],
    "training": {"epochs": 3, "batch_size": 32},
}


def experiment(**changes: object) -> ExperimentSpec:
    return parse_experiment(SPEC | changes)


def students(spec: ExperimentSpec, label: str) -> list[RunSpec]:
    return [planned.spec for planned in spec.plan() if planned.label == label]


def events(folder: Path) -> list[Event]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def points(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The metrics without what depends on the clock."""
    return [
        (event.step, {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)})
        for event in events(folder)
        if isinstance(event, Metrics)
    ]


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    spec = experiment().teacher_run()
    assert spec
    folder = tmp_path_factory.mktemp("teacher")
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


def stop_after(steps: int) -> TrainOptions:
    """Asks to stop once so many steps have been taken."""
    polled = iter(range(steps + 1))
    return TrainOptions(stop_requested=lambda: next(polled, None) == steps)


class TestRun:
    def test_training_improves_accuracy_and_reports_it(self, tmp_path: Path, teacher: TeacherSource) -> None:
        (spec, _) = students(experiment(training={"epochs": 8, "batch_size": 32}), "dkd")
        first = experiment(training={"epochs": 8, "batch_size": 32}).teacher_run()
        assert first
        run_training(first, tmp_path / "teacher")
        source = TeacherSource(first, tmp_path / "teacher" / "weights.safetensors")
        assert run_training(spec, tmp_path, source) == "finished"
        journal = events(tmp_path)
        assert isinstance(journal[0], Started)
        assert (journal[0].total_steps, journal[0].train_size, journal[0].test_size) == (8 * 5, 150, 100)
        assert isinstance(journal[-1], Finished)
        assert journal[-1].summary["test/top1"] > 40  # five classes: chance is 20, five standard deviations below
        losses = [values["train/ce"] for _, values in points(tmp_path)]  # the whole loss grows with the ramp
        assert len(losses) == 8
        assert losses[-1] < losses[0]

    def test_alignment_diagnostics_are_reported(self, tmp_path: Path, teacher: TeacherSource) -> None:
        (spec, _) = students(experiment(), "dkd_align (log)")
        run_training(spec, tmp_path, teacher)
        _, last = points(tmp_path)[-1]
        assert last["grad/align_share"] == pytest.approx(10, rel=1e-3)
        assert -1 <= last["grad/align_cosine"] < 0  # maximising the distance pulls against distillation
        assert {"train/tckd", "train/nckd", "train/align", "grad/similarity", "fidelity/agreement"} <= last.keys()

    def test_training_repeats_bit_for_bit(self, tmp_path: Path, teacher: TeacherSource) -> None:
        (spec, other) = students(experiment(), "dkd")
        for name, run in (("a", spec), ("b", spec), ("c", other)):
            run_training(run, tmp_path / name, teacher)
        assert points(tmp_path / "a") == points(tmp_path / "b")
        a, b, c = (weights(tmp_path / name) for name in "abc")
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert not all(torch.equal(a[key], c[key]) for key in a)

    @pytest.mark.parametrize("steps", [1, 5, 7, 14])
    def test_run_resumed_at_any_step_repeats_bit_for_bit(
        self, tmp_path: Path, teacher: TeacherSource, steps: int
    ) -> None:
        (spec, _) = students(experiment(), "dkd_align (log)")
        uninterrupted, half, resumed = tmp_path / "whole", tmp_path / "half", tmp_path / "rest"
        run_training(spec, uninterrupted, teacher)
        assert run_training(spec, half, teacher, options=stop_after(steps)) == "stopped"
        last = events(half)[-1]
        assert isinstance(last, Stopped)
        assert last.step == steps
        assert run_training(spec, resumed, teacher, resume=half / CHECKPOINT_NAME) == "finished"
        assert points(resumed) == points(uninterrupted)
        assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(uninterrupted).items())
        sequence = [record.seq for record in read_journal(resumed / JOURNAL_NAME)]
        assert sequence == list(range(1, len(sequence) + 1))

    def test_damaged_checkpoint_is_reported_and_training_starts_over(
        self, tmp_path: Path, teacher: TeacherSource
    ) -> None:
        (spec, _) = students(experiment(), "dkd")
        damaged = tmp_path / "damaged.pt"
        damaged.write_bytes(b"not a checkpoint")
        assert run_training(spec, tmp_path / "out", teacher, resume=damaged) == "finished"
        journal = events(tmp_path / "out")
        assert "cannot be read" in journal[0].message  # type: ignore[union-attr]
        assert isinstance(journal[1], Started)
        assert journal[1].start_step == 0

    def test_neural_collapse_is_measured_at_the_requested_interval(self, tmp_path: Path) -> None:
        often = experiment(methods=["ce"], training=SPEC["training"] | {"collapse_every": 2})
        for name, spec in (("default", experiment(methods=["ce"])), ("often", often)):
            run_training(students(spec, "ce")[0], tmp_path / name)
        measured = {
            name: [index for index, (_, values) in enumerate(points(tmp_path / name), 1) if "collapse/nc1" in values]
            for name in ("default", "often")
        }
        assert measured == {"default": [3], "often": [2, 3]}

    def test_batch_norm_can_be_frozen_after_an_epoch(self, tmp_path: Path) -> None:
        frozen = experiment(methods=["ce"], training=SPEC["training"] | {"freeze_batch_norm_after": 1})
        (plain, _), (spec, _) = students(experiment(), "ce"), students(frozen, "ce")
        for name, run in (("plain", plain), ("frozen", spec)):
            run_training(run, tmp_path / name)
        counts = [int(weights(tmp_path / name)["stem.1.num_batches_tracked"]) for name in ("plain", "frozen")]
        assert counts == [3 * 5, 5]


class TestFailure:
    def test_non_finite_loss_names_the_epoch_and_the_term(self, tmp_path: Path, teacher: TeacherSource) -> None:
        training = {"epochs": 3, "batch_size": 32, "optimizer": {"lr": 100.0}, "schedule": {"name": "constant"}}
        broken = experiment(training=training, teacher={"model": "resnet8", "training": SPEC["training"]})
        (spec, _) = students(broken, "dkd")
        # A rate this high may also merely fail to learn, so the loss itself is made to overflow.
        original = data.Dataset.normalise
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data.Dataset, "normalise", lambda self, images: original(self, images) * float("nan"))
            assert run_training(spec, tmp_path, teacher) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert last.kind == "nan"
        assert "epoch 1" in last.reason
        assert "ce" in last.reason

    @pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["at a checkpoint", "at the end of the epoch"])
    def test_first_non_finite_step_is_named_and_not_saved(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        build = build_loss

        def breaking(method: MethodRef) -> Loss:
            inner, steps = build(method), iter(range(-1, 100))  # the trial before the first step calls it twice

            def loss(batch: Rows, epoch: int | None) -> LossTerms:
                terms = inner(batch, epoch)
                bad = torch.tensor(torch.nan if next(steps) == 8 else 1.0)
                return replace(
                    terms, total=terms.total * bad, values=terms.values | {"nckd": terms.values["nckd"] * bad}
                )

            return loss

        monkeypatch.setattr("core.distill.objective.build_loss", breaking)
        (spec, _) = students(experiment(), "dkd")
        assert run_training(spec, tmp_path, teacher, options=TrainOptions(seconds)) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert last.kind == "nan"
        # What is NaN from step 9 on, since the weights are, is not at fault.
        assert last.reason.startswith("not finite at step 8 (of epoch 2): loss, nckd; ")
        steps = [event.step for event in events(tmp_path) if isinstance(event, Checkpointed)]
        assert steps == ([*range(8)] if seconds == 0 else [])

    def test_sums_are_checked_within_the_epoch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "CHECK_FINITE_EVERY", 2)
        step, seen = Stepper.step, []

        def breaking(self: Stepper, batch: data.Batch, epoch: int, rate: float, *, measure: bool) -> None:
            step(self, replace(batch, images=batch.images * torch.nan), epoch, rate, measure=measure)
            seen.append(epoch)

        monkeypatch.setattr(Stepper, "step", breaking)
        assert run_training(students(experiment(), "ce")[0], tmp_path) == "failed"
        assert len(seen) == 2
        assert "at step 1 (of epoch 1)" in events(tmp_path)[-1].reason  # type: ignore[union-attr]

    def test_non_finite_weights_are_not_saved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        step = Stepper.step

        def breaking(self: Stepper, *arguments: Any, **named: Any) -> None:
            step(self, *arguments, **named)
            with torch.no_grad():
                next(self.model.parameters()).mul_(torch.inf)

        monkeypatch.setattr(Stepper, "step", breaking)
        assert run_training(students(experiment(), "ce")[0], tmp_path, options=TrainOptions(0.0)) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert (last.kind, "weights are not finite after step 1: stem" in last.reason) == ("nan", True)
        assert (
            load_checkpoint(tmp_path / CHECKPOINT_NAME, students(experiment(), "ce")[0].fingerprint()).progress.step
            == 0
        )

    @pytest.mark.parametrize("error", ["the CPU's", MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
    @pytest.mark.parametrize("when", ["setup", "training"])
    def test_out_of_memory_names_the_batch_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str | Exception, when: str
    ) -> None:
        def refuse(*_: object, **__: object) -> Any:
            if isinstance(error, Exception):
                raise error
            return torch.empty(1 << 55, dtype=torch.uint8)

        monkeypatch.setattr(*((data, "load", refuse) if when == "setup" else (Stepper, "step", refuse)))
        assert run_training(students(experiment(), "ce")[0], tmp_path) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert (last.kind, "batch size 32" in last.reason) == ("oom", True)
        assert ("before the first step" in last.reason) == (when == "setup")

    def test_missing_teacher_fails_with_a_reason(self, tmp_path: Path) -> None:
        (spec, _) = students(experiment(), "dkd")
        assert run_training(spec, tmp_path) == "failed"
        last = events(tmp_path)[-1]
        assert isinstance(last, Failed)
        assert (last.kind, "teacher" in last.reason) == ("spec", True)

    def test_weights_of_another_network_fail_with_the_mismatched_keys(
        self, tmp_path: Path, teacher: TeacherSource
    ) -> None:
        (spec, _) = students(experiment(), "ce")
        run_training(spec, tmp_path / "ce")
        (distilled, _) = students(experiment(), "dkd")
        wrong = TeacherSource(teacher.spec, tmp_path / "ce" / "weights.safetensors")
        assert run_training(distilled, tmp_path / "out", wrong) == "failed"
        last = events(tmp_path / "out")[-1]
        assert isinstance(last, Failed)
        assert "layers.stage3" in last.reason

    def test_unexpected_error_is_the_reason_of_the_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (spec, _) = students(experiment(), "ce")
        monkeypatch.setattr(models, "build", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("boom")))
        assert run_training(spec, tmp_path) == "failed"
        assert [event.type for event in events(tmp_path)] == ["log", "log", "failed"]
        assert "boom" in events(tmp_path)[-1].reason  # type: ignore[union-attr]


class TestStopOutsideOfSteps:
    """SIGTERM while something takes minutes that is no step."""

    def test_interrupted_evaluation_is_repeated_after_resuming(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (spec, _) = students(experiment(methods=["ce"]), "ce")
        run_training(spec, tmp_path / "whole")
        options, report = TrainOptions(), diagnostics_report.epoch_report

        def stopping_report(*arguments: Any) -> dict[str, float]:
            report(*arguments)
            options.interruption.request()
            raise AssertionError("nothing was broken off")

        monkeypatch.setattr("core.tasks.classification.task.epoch_report", stopping_report)
        assert run_training(spec, tmp_path / "half", options=options) == "stopped"
        monkeypatch.undo()
        journal = events(tmp_path / "half")
        assert [event.type for event in journal[-2:]] == ["checkpoint", "stopped"]
        assert journal[-1].step == 5  # type: ignore[union-attr]
        assert run_training(spec, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME) == "finished"
        assert points(tmp_path / "rest") == points(tmp_path / "whole")
        assert all(torch.equal(v, weights(tmp_path / "rest")[k]) for k, v in weights(tmp_path / "whole").items())

    def test_sigterm_interrupts_reading_the_data_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def slow(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 60)
            raise AssertionError("nothing was broken off")

        monkeypatch.setattr(data, "load", slow)
        with stop_on_sigterm(TrainOptions()) as options:
            assert run_training(students(experiment(), "ce")[0], tmp_path, options=options) == "stopped"
        assert [event.type for event in events(tmp_path)] == ["stopped"]

    def test_shielded_block_is_completed_before_the_stop(self) -> None:
        interruption, done = Interruption(), []

        def work() -> None:
            with interruption.interruptible():
                with interruption.shielded():
                    interruption.request()
                    done.append(1)
                done.append(2)

        with pytest.raises(StopRequested):
            work()
        assert done == [1]
        interruption.request()  # outside of such a block nothing is broken off
        assert interruption.requested()


def test_methods_of_one_seed_start_from_the_same_weights_and_see_the_same_batches(
    tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Tensor]] = {}
    starts: dict[str, Tensor] = {}
    build = build_loss

    def spy(method: MethodRef) -> Loss:
        inner = build(method)

        def loss(batch: Rows, epoch: int | None) -> LossTerms:
            if len(batch.target) > 2:  # not the trial before the first step
                seen.setdefault(method.label, []).append(batch.teacher if batch.teacher is not None else batch.target)
                starts.setdefault(method.label, batch.student.detach().clone())
            return inner(batch, epoch)

        return loss

    monkeypatch.setattr("core.distill.objective.build_loss", spy)
    for label in ("dkd", "dkd_align (log)", "kd"):
        run_training(students(experiment(), label)[0], tmp_path / label, teacher)
    # The teacher's logits are a fingerprint of the images it was shown.
    for label in ("dkd_align (log)", "kd"):
        assert torch.equal(starts["dkd"], starts[label])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen["dkd"], seen[label], strict=True))


class TestCommand:
    """``python -m core`` as a process."""

    def run(self, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "core", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def test_run_without_services_skips_finished_runs(self, tmp_path: Path) -> None:
        spec = tmp_path / "spec.json"
        small = SPEC | {"methods": ["dkd"], "seeds": [0], "training": {"epochs": 1, "batch_size": 64}}
        spec.write_text(json.dumps(small))
        first = self.run("run", spec, "--out", tmp_path / "out")
        assert first.returncode == 0, first.stderr
        assert "test accuracy" in first.stdout
        written = (tmp_path / "out" / "dkd-seed0" / JOURNAL_NAME).stat().st_mtime_ns
        again = self.run("run", spec, "--out", tmp_path / "out")
        assert again.stdout == first.stdout
        assert (tmp_path / "out" / "dkd-seed0" / JOURNAL_NAME).stat().st_mtime_ns == written

    def test_bad_input_prints_one_line_per_problem_and_exits_with_2(self, tmp_path: Path) -> None:
        spec = tmp_path / "spec.yaml"
        spec.write_text(json.dumps(SPEC | {"methods": ["dkd_aling"], "training": {"epochs": 0}}))
        result = self.run("run", spec, "--out", tmp_path / "out")
        assert result.returncode == 2
        lines = result.stderr.strip().splitlines()
        assert [line.split(": ")[1] for line in lines] == ["methods.0.name", "training.epochs"]
        assert "dkd_align" in lines[0]
        assert not (tmp_path / "out").exists()

    def test_sigterm_writes_a_checkpoint_that_can_be_resumed(self, tmp_path: Path) -> None:
        long = experiment(training={"epochs": 10_000, "batch_size": 32}, methods=["ce"])
        (spec, _) = students(long, "ce")
        (tmp_path / "run.json").write_text(spec.model_dump_json())
        out = tmp_path / "out"
        command = [sys.executable, "-m", "core", "train", "--run", str(tmp_path / "run.json"), "--out", str(out)]
        process = subprocess.Popen(command, env=os.environ | {"DKD_THREADS": "1"})
        try:
            while not (out / JOURNAL_NAME).exists() or len(points(out)) < 3:
                assert process.poll() is None
                signal.sigtimedwait([], 0.05)
            process.terminate()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
        journal = events(out)
        assert [event.type for event in journal[-2:]] == ["checkpoint", "stopped"]
        assert run_training(spec, tmp_path / "rest", resume=out / CHECKPOINT_NAME, options=stop_after(2)) == "stopped"
        resumed = next(event for event in events(tmp_path / "rest")[len(journal) - 2 :] if isinstance(event, Started))
        assert resumed.start_step == journal[-1].step  # type: ignore[union-attr]

    def test_catalog_is_printed_as_json(self) -> None:
        catalog = json.loads(self.run("catalog", "--json").stdout)
        assert {"dkd", "dkd_align"} <= {entry["name"] for entry in catalog["methods"]}
        align = next(entry for entry in catalog["methods"] if entry["name"] == "dkd_align")
        assert align["params"]["required"] == ["reduction"]


@pytest.mark.parametrize(("name", "count"), [("resnet8", 83_892), ("resnet14", 181_108), ("resnet20", 278_324)])
def test_cifar_resnets_have_the_parameter_counts_of_the_literature(name: str, count: int) -> None:
    # With 1×1-convolution shortcuts, as in the distillation literature: 0.08, 0.18 and 0.28 M for 100 classes.
    assert models.count_parameters(models.build(name, num_classes=100, image_size=32)) == count


def test_image_below_the_minimum_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 px"):
        models.build("resnet8", num_classes=10, image_size=4)
