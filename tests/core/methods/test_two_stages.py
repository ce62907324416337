"""Trainings with a first stage: what each stage trains, how it resumes, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.events import JOURNAL_NAME, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import SpecError
from core.train import TeacherSource, TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from tests.core.methods.two_stage_runs import METHODS, STEPS, experiment
from tests.core.test_ranks import furthest


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    spec = experiment("kd").plan()[0].spec
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


def train(
    method: Any,
    folder: Path,
    teacher: TeacherSource,
    *,
    stop_at: int | None = None,
    resume: Path | None = None,
    **training: Any,
) -> Checkpoint | None:
    """Train a method to its end, or to a checkpoint before a step, which is returned."""
    spec = experiment(method, **training).plan()[-1].spec
    polls = iter(range(100))
    options = TrainOptions(stop_requested=lambda: next(polls) == stop_at)
    settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
    result = run_training(spec, folder, teacher, resume, options, settings=settings)
    assert result == ("finished" if stop_at is None else "stopped")
    return None if stop_at is None else load_checkpoint(folder / CHECKPOINT_NAME, spec.fingerprint())


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def stages(
    method: Any, folder: Path, teacher: TeacherSource, **training: Any
) -> tuple[Checkpoint, Checkpoint, Checkpoint]:
    """Return the checkpoints before the training, between its two stages, and near its end."""
    found = []
    for stop_at in (0, STEPS, 2 * STEPS - 1):
        checkpoint = train(method, folder / str(stop_at), teacher, stop_at=stop_at, **training)
        assert checkpoint is not None
        found.append(checkpoint)
    start, between, end = found
    return start, between, end


@pytest.mark.parametrize("label", ["ft", "ft public"])
@pytest.mark.parametrize("training", [{}, {"accumulate": 2}], ids=["whole", "micro-batches"])
def test_ft_trains_the_paraphraser_first_and_the_student_then(
    tmp_path: Path, teacher: TeacherSource, label: str, training: dict[str, Any]
) -> None:
    start, between, end = stages(METHODS[label], tmp_path, teacher, **training)
    assert changed(start.model, between.model) == set()  # not even by weight decay or the statistics of batch norm
    own = changed(start.objective, between.objective)
    assert {name.split(".")[0] for name in own} == {"encoder", "decoder"}
    assert len(own) == 12
    assert "stem.0.weight" in changed(between.model, end.model)
    own = changed(between.objective, end.objective)
    assert {name.split(".")[0] for name in own} == {"translator"}


@pytest.mark.parametrize("training", [{}, {"accumulate": 2}], ids=["whole", "micro-batches"])
def test_ab_trains_the_stages_first_and_the_classifier_then(
    tmp_path: Path, teacher: TeacherSource, training: dict[str, Any]
) -> None:
    start, between, end = stages(METHODS["ab"], tmp_path, teacher, **training)
    first = changed(start.model, between.model)
    assert first == {name for name in start.model if not name.startswith("classifier")}
    assert changed(start.objective, between.objective) == start.objective.keys()
    assert changed(between.model, end.model) == end.model.keys()
    assert changed(between.objective, end.objective) == set()


def test_each_stage_reports_its_own_terms(tmp_path: Path, teacher: TeacherSource) -> None:
    train(METHODS["ft"], tmp_path, teacher)
    epochs = [
        record.event.values for record in read_journal(tmp_path / JOURNAL_NAME) if isinstance(record.event, Metrics)
    ]
    terms = [{name for name in values if name in ("train/ce", "train/ft", "train/reconstruction")} for values in epochs]
    assert terms == [{"train/reconstruction"}, {"train/ce", "train/ft"}]
    assert epochs[0]["train/loss"] == epochs[0]["train/reconstruction"]


def test_term_of_an_added_method_begins_with_the_second_stage(tmp_path: Path, teacher: TeacherSource) -> None:
    train(METHODS["ab"] | {"with": ["kd"]}, tmp_path, teacher)
    epochs = [
        record.event.values for record in read_journal(tmp_path / JOURNAL_NAME) if isinstance(record.event, Metrics)
    ]
    terms = [{name for name in values if name in ("train/ce", "train/kd", "train/ab")} for values in epochs]
    assert terms == [{"train/ab"}, {"train/ce", "train/kd"}]


@pytest.mark.parametrize("label", ["ab", "ft public", "hint"])
@pytest.mark.parametrize("stop_at", [1, STEPS, STEPS + 1], ids=["first stage", "between", "second stage"])
def test_run_stopped_in_either_stage_continues_bit_for_bit(
    tmp_path: Path, teacher: TeacherSource, label: str, stop_at: int
) -> None:
    train(METHODS[label], tmp_path / "whole", teacher)
    train(METHODS[label], tmp_path / "half", teacher, stop_at=stop_at)
    train(METHODS[label], tmp_path / "rest", teacher, resume=tmp_path / "half" / CHECKPOINT_NAME)
    whole, rest = (tmp_path / name / "weights.safetensors" for name in ("whole", "rest"))
    assert whole.read_bytes() == rest.read_bytes()


def test_share_of_a_second_stage_term_leaves_the_first_stage_as_it_is(tmp_path: Path, teacher: TeacherSource) -> None:
    params = {name: value for name, value in METHODS["ft"]["params"].items() if name != "weight"}
    weighted = {"name": "ft", "params": params, "shares": {"ft": 0.3}}
    plain = train(METHODS["ft"], tmp_path / "plain", teacher, stop_at=STEPS)
    shared = train(weighted, tmp_path / "shared", teacher, stop_at=STEPS)
    assert plain is not None
    assert shared is not None
    assert changed(plain.objective, shared.objective) == set()
    train(weighted, tmp_path / "end", teacher)
    metrics = [
        record.event for record in read_journal(tmp_path / "end" / JOURNAL_NAME) if isinstance(record.event, Metrics)
    ]
    assert "train/weight_ft" not in metrics[0].values
    assert metrics[1].values["train/weight_ft"] > 0


LAYERS = ["stem", "stages"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("method", "field"),
        [
            ({"name": "ab", "params": {"init_epochs": 2}}, "init_epochs"),
            ("ft", "init_epochs"),
            (
                {"name": "fsp", "params": {"init_epochs": 2, "student_taps": LAYERS, "teacher_taps": LAYERS}},
                "init_epochs",
            ),
            ({"name": "fitnet", "params": {"hint_epochs": 7, "student_tap": "stage1"}}, "hint_epochs"),
        ],
    )
    def test_training_without_epochs_for_the_second_stage_is_refused(self, method: Any, field: str) -> None:
        with pytest.raises(SpecError) as refused:
            experiment("kd", method)
        (problem,) = refused.value.problems
        assert problem.path == f"methods.1.params.{field}"
        assert "leaves none of the training's 2 for the second" in problem.message

    @pytest.mark.parametrize("name", ["ab", "ft"])
    def test_first_stage_of_no_epochs_is_refused(self, name: str) -> None:
        with pytest.raises(SpecError) as refused:
            experiment({"name": name, "params": {"init_epochs": 0}})
        assert [problem.path for problem in refused.value.problems] == ["methods.0.params.init_epochs"]

    @pytest.mark.parametrize(
        ("name", "term", "epochs"),
        [("ab", "ab", "init_epochs"), ("ft", "reconstruction", "init_epochs"), ("fitnet", "fitnet", "hint_epochs")],
    )
    def test_share_of_a_first_stage_is_refused(self, name: str, term: str, epochs: str) -> None:
        taps = {"student_tap": "stage1"} if name == "fitnet" else {}
        with pytest.raises(SpecError) as refused:
            experiment({"name": name, "params": {epochs: 1} | taps, "shares": {term: 0.3}})
        (problem,) = refused.value.problems
        assert problem.path == f"methods.0.shares.{term}"
        assert "the whole loss of the first stage" in problem.message

    def test_two_first_stages_are_refused(self) -> None:
        with pytest.raises(SpecError) as refused:
            experiment(
                {"name": "ab", "params": {"init_epochs": 1}, "with": [{"name": "ft", "params": {"init_epochs": 1}}]}
            )
        assert [problem.path for problem in refused.value.problems] == ["methods.0.with.0"]

    def test_hint_in_every_epoch_is_no_first_stage(self) -> None:
        hint = {"name": "fitnet", "params": {"student_tap": "stage1"}}
        experiment({"name": "ab", "params": {"init_epochs": 1}, "with": [hint]})

    def test_share_of_a_hint_beside_cross_entropy_is_accepted(self) -> None:
        experiment({"name": "fitnet", "params": {"student_tap": "stage1"}, "shares": {"fitnet": 0.3}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method, trained by one process in ``one`` and by two in ``two``."""
    root = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.core.methods.two_stage_runs", str(root)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    return root


@pytest.mark.slow
@pytest.mark.parametrize("label", METHODS)
def test_two_ranks_train_what_one_process_trains(trained: Path, label: str) -> None:
    """Also where some of the student's parameters, or all, get no gradient, and where a rank has no row."""
    one, two = (load_file(trained / name / label / "weights.safetensors") for name in ("one", "two"))
    assert furthest(one, two) < 1e-5
