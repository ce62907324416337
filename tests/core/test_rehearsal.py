"""What a student's start would refuse is found before its teacher is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from core.events import JOURNAL_NAME, Failed, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import RunSpec, SpecError, parse_experiment
from core.standalone import run_experiment
from core.train import run_training
from core.train.rehearsal import rehearse


def settings(folder: Path) -> TrainingSettings:
    return TrainingSettings(cache_dir=folder / "cache", data_dir=folder / "data", threads=1)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder of images of two classes, which only the worker knows; return the folder of the test."""
    for split in ("train", "test"):
        for number, name in enumerate(("red", "white")):
            folder = tmp_path / "data" / "cells" / split / name
            folder.mkdir(parents=True)
            for at in range(6):
                Image.new("RGB", (16, 16), (100 * number, 20 * at, 0)).save(folder / f"{at}.png")
    return tmp_path


def spec(*methods: Any, **fields: Any) -> dict[str, Any]:
    return {
        "name": "cells",
        "dataset": {"name": "folder", "params": {"path": "cells", "image_size": 16}},
        "teacher": {"model": "resnet8"},
        "student": {"model": "small_cnn"},
        "methods": list(methods),
        "seeds": [0, 1],
        "training": {"epochs": 1, "batch_size": 4},
    } | fields


def planned(*methods: Any, **fields: Any) -> tuple[RunSpec, list[RunSpec]]:
    """Return the teacher's run and the students'."""
    runs = [run.spec for run in parse_experiment(spec(*methods, **fields)).plan()]
    return runs[0], runs[1:]


def events(folder: Path, kind: type) -> list[Any]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME) if isinstance(record.event, kind)]


class TestRehearsal:
    def test_too_few_classes_are_found_once_for_all_seeds(self, cells: Path) -> None:
        teacher, students = planned("kd", "dkd")
        found = rehearse(students, [teacher], settings(cells))
        assert found.kinds == 2
        assert not found.all_refused
        [(refused, reason)] = found.refused
        assert refused.method.name == "dkd"
        assert reason.startswith("method: dkd ")
        assert "with beta: 0 it is TCKD alone" in reason

    def test_layers_that_cannot_be_joined_are_found_without_weights_of_the_teacher(self, cells: Path) -> None:
        method = {"name": "fitnet", "params": {"student_tap": "blocks.nowhere"}}
        teacher, students = planned(method)
        [(_, reason)] = rehearse(students, [teacher], settings(cells)).refused
        assert "nowhere" in reason
        assert rehearse(students, [], settings(cells)).refused == [], "a teacher that is unknown is not guessed"

    def test_missing_data_are_left_to_the_run(self, tmp_path: Path) -> None:
        teacher, students = planned("dkd")
        assert rehearse(students, [teacher], settings(tmp_path)).refused == []

    def test_random_state_stays(self, cells: Path) -> None:
        teacher, students = planned("kd")
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        assert rehearse(students, [teacher], settings(cells)).refused == []
        assert torch.equal(torch.rand(2), expected)

    def test_time_is_bounded(self, cells: Path) -> None:
        teacher, students = planned("dkd")
        found = rehearse(students, [teacher], settings(cells), seconds=-1)
        assert (found.refused, found.kinds, found.all_refused) == ([], 1, False)


class TestTeachersRun:
    def test_teacher_of_impossible_students_is_not_trained(self, cells: Path) -> None:
        teacher, students = planned("dkd", "dkd_divergence")
        out = cells / "teacher"
        assert run_training(teacher, out, settings=settings(cells), students=students) == "failed"
        assert events(out, Metrics) == []
        [failed] = events(out, Failed)
        assert failed.kind == "spec"
        assert failed.reason.startswith("not trained, because no run that waits for this teacher can be trained: dkd: ")

    def test_teacher_of_a_possible_student_is_trained_and_names_the_others(self, cells: Path) -> None:
        teacher, students = planned("kd", "dkd")
        out = cells / "teacher"
        assert run_training(teacher, out, settings=settings(cells), students=students) == "finished"
        warnings = [event.message for event in events(out, Log) if event.level == "warning"]
        assert any(text.startswith("a run that waits for this teacher cannot be trained: dkd: ") for text in warnings)

    def test_numbers_do_not_depend_on_the_students(self, cells: Path) -> None:
        teacher, students = planned("kd")
        losses = []
        for name, waiting in (("alone", []), ("awaited", students)):
            run_training(teacher, cells / name, settings=settings(cells), students=waiting)
            losses.append([event.values["train/ce"] for event in events(cells / name, Metrics)])
        assert losses[0] == losses[1] != []


class TestStandalone:
    def test_experiment_is_refused_before_any_training_with_the_path(self, cells: Path) -> None:
        experiment = parse_experiment(spec("kd", {"name": "dkd", "label": "mine"}))
        with pytest.raises(SpecError) as error:
            run_experiment(experiment, cells / "out", settings=settings(cells))
        [problem] = error.value.problems
        assert problem.path == "methods.1"
        assert problem.message.startswith("dkd ")
        assert not list((cells / "out").glob("*/events.jsonl"))

    def test_possible_experiment_is_trained(self, cells: Path) -> None:
        experiment = parse_experiment(spec("kd", {"name": "dkd", "params": {"beta": 0}}, seeds=[0]))
        assert run_experiment(experiment, cells / "out", settings=settings(cells)) == 0
