"""A student detects that its teacher was trained on other images under the same data set name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.events import JOURNAL_NAME, Event, Failed, Finished, Log, Started, read_journal
from core.specs import ExperimentSpec, SpecError, parse_experiment
from core.standalone import run_experiment
from core.train import TeacherSource, TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from tests.core import data_files as files


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentSpec:
    """Three classes of four images, and a teacher trained on them in ``teacher/``."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DKD_PACK_DIR", str(tmp_path / "packs"))
    files.tree(tmp_path / "pets", ["ant", "bee", "cat"], per_class=4)
    network = {"name": "small_cnn", "params": {"width": 2}}
    spec = parse_experiment(
        {
            "name": "origin",
            "dataset": {"name": "folder", "params": {"path": "pets", "image_size": 8}},
            "teacher": {"model": network},
            "student": {"model": network},
            "methods": ["kd"],
            "seeds": [0],
            "training": {"epochs": 1, "batch_size": 4},
        }
    )
    assert run_training(spec.plan()[0].spec, tmp_path / "teacher") == "finished"
    return spec


def student(experiment: ExperimentSpec, root: Path) -> list[Event]:
    teacher, pupil = (planned.spec for planned in experiment.plan())
    run_training(pupil, root / "student", TeacherSource(teacher, root / "teacher" / "weights.safetensors"))
    return [record.event for record in read_journal(root / "student" / JOURNAL_NAME)]


def warnings(found: list[Event]) -> list[str]:
    return [event.message for event in found if isinstance(event, Log) and event.level == "warning"]


def image_identity(journal: list[Event]) -> str:
    return next(event.environment["images"] for event in journal if isinstance(event, Started))


def test_modification_times_do_not_change_the_identity_of_images(experiment: ExperimentSpec, tmp_path: Path) -> None:
    for path in (tmp_path / "pets").rglob("*.png"):
        os.utime(path, ns=(1, 1))
    journal = student(experiment, tmp_path)
    assert isinstance(journal[-1], Finished)
    assert warnings(journal) == []
    teachers = [record.event for record in read_journal(tmp_path / "teacher" / JOURNAL_NAME)]
    assert image_identity(journal) == image_identity(teachers)


def test_changed_image_is_warned_of_and_recorded(experiment: ExperimentSpec, tmp_path: Path) -> None:
    files.picture(tmp_path / "pets/train/bee/2.png", (9, 9, 9))
    journal = student(experiment, tmp_path)
    assert isinstance(journal[-1], Finished)
    [warning] = warnings(journal)
    assert "the teacher was trained on other images" in warning
    teachers = [record.event for record in read_journal(tmp_path / "teacher" / JOURNAL_NAME)]
    assert image_identity(journal) != image_identity(teachers)


def test_other_classes_are_refused(experiment: ExperimentSpec, tmp_path: Path) -> None:
    """The teacher's third logit would be taken for another class's."""
    for split in ("train", "test"):
        (tmp_path / "pets" / split / "bee").rename(tmp_path / "pets" / split / "dog")
    last = student(experiment, tmp_path)[-1]
    assert isinstance(last, Failed)
    assert last.kind == "spec"
    assert "only in the data set: dog" in last.reason


def test_weights_without_metadata_are_used(experiment: ExperimentSpec, tmp_path: Path) -> None:
    """As those from before, and those from elsewhere."""
    import safetensors.torch

    path = tmp_path / "teacher" / "weights.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    files.picture(tmp_path / "pets/train/bee/2.png", (9, 9, 9))
    journal = student(experiment, tmp_path)
    assert isinstance(journal[-1], Finished)
    assert warnings(journal) == []


def test_unknown_timm_student_is_refused_before_its_teacher_is_trained(tmp_path: Path) -> None:
    spec = parse_experiment(
        {
            "name": "misspelt",
            "dataset": "digits",
            "teacher": {"model": "small_cnn"},
            "student": {"model": "timm:vit_smal_patch16_224"},
            "methods": ["kd"],
            "seeds": [0],
            "training": {"epochs": 1},
        }
    )
    with pytest.raises(SpecError, match=r"student\.model: unknown timm model .*timm:vit_small_patch16_224"):
        run_experiment(spec, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_summary_does_not_average_over_changed_images(
    experiment: ExperimentSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The same command again, with a seed more, after an image has changed: what had finished is kept.
    alone = experiment.model_dump(mode="json", exclude={"teacher"}) | {"methods": ["ce"]}
    assert run_experiment(parse_experiment(alone), tmp_path / "out") == 0
    files.picture(tmp_path / "pets/train/bee/2.png", (9, 9, 9))
    capsys.readouterr()
    assert run_experiment(parse_experiment(alone | {"seeds": [0, 1]}), tmp_path / "out") == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if "last epoch" in line]
    assert len(lines) == 2
    assert all("(n = 1," in line and ", images " in line for line in lines)
    assert "the data changed between these runs" in printed.err
    assert "nan" not in printed.out


def test_run_resumed_with_other_images_belongs_to_neither_set(experiment: ExperimentSpec, tmp_path: Path) -> None:
    run = experiment.plan()[0].spec
    longer = run.model_copy(update={"training": run.training.model_copy(update={"epochs": 3})})

    def attempt(name: str, resume: str | None, steps: int) -> list[Event]:
        polled = iter(range(100))
        before = tmp_path / resume / CHECKPOINT_NAME if resume else None
        run_training(
            longer, tmp_path / name, resume=before, options=TrainOptions(stop_requested=lambda: next(polled) == steps)
        )
        return [record.event for record in read_journal(tmp_path / name / JOURNAL_NAME)]

    one = image_identity(attempt("one", None, 2))
    files.picture(tmp_path / "pets/train/bee/2.png", (9, 9, 9))
    second = attempt("two", "one", 2)
    assert any("continues with other images than it began with" in text for text in warnings(second))
    other = image_identity(student(experiment, tmp_path))
    third = attempt("three", "two", 50)
    assert isinstance(third[-1], Finished)
    identities = [event.environment["images"] for event in third if isinstance(event, Started)]
    assert identities[0] == one
    assert one != other
    assert not {one, other} & set(identities[1:])  # also after an attempt that saw the new images alone


def test_images_without_a_pack_are_recorded_too(tmp_path: Path) -> None:
    identities = []
    for size in (40, 41):
        dataset = {"name": "synthetic", "params": {"train_size": size, "test_size": 20, "image_size": 8}}
        spec = parse_experiment(
            {
                "name": "recorded",
                "dataset": dataset,
                "student": {"model": {"name": "small_cnn", "params": {"width": 2}}},
                "methods": ["ce"],
                "seeds": [0],
                "training": {"epochs": 1, "batch_size": 8},
            }
        )
        for again in range(2):
            folder = tmp_path / f"{size}-{again}"
            assert run_training(spec.plan()[0].spec, folder) == "finished"
            identities.append(image_identity([record.event for record in read_journal(folder / JOURNAL_NAME)]))
    assert identities[0] == identities[1] != identities[2] == identities[3]
