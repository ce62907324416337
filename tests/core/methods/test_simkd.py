"""SimKD: the loss against a formula, and the network that a training with it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core import cli
from core.catalog.methods.simkd import SimKDParams
from core.distill.features.projector import ProjectedHead, Projector
from core.distill.features.simkd import SimKD
from core.distill.objective import NetworkShape, ObjectiveError, Setting
from core.events import JOURNAL_NAME, Failed, Finished, Log, Metrics, Started, read_journal
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, RunSpec, parse_experiment
from core.tasks.classification import models
from core.tasks.classification.models.heads import head_form, with_head_form
from core.testing import MethodContract
from core.train import TeacherSource, TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME, load_checkpoint
from core.weights.errors import WeightsError
from core.weights.metadata import HeadForm, Metadata, read_metadata
from tests.core.methods.oracle import Values, assert_equals_oracle, lower_precision_ratio, random_step, shape, shares
from tests.core.methods.slow_layers import Array, batch_norm, convolve, pool, relu

WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
STUDENT, TEACHER = 3, 4  # channels


def objective(
    student: tuple[int, int] = (4, 4), teacher: tuple[int, int] = (4, 4), **params: Any
) -> tuple[SimKD, Setting]:
    torch.manual_seed(0)
    networks = shape(5, (STUDENT, *student), "stage1"), shape(5, (TEACHER, *teacher))
    setting = Setting(*networks, samples=8)
    method = SimKD(SimKDParams(**params), setting).double().train()
    for parameter in method.parameters():  # batch norm too, so that its weight and bias count
        nn.init.normal_(parameter, std=0.7)
    return method, setting


def projected(values: Values, share: Array) -> Array:
    maps = values["stage1"]
    for name, padding in (("reduce", 0), ("mix", 1), ("expand", 0)):
        maps = convolve(maps, values[f"projector.{name}.weight"], padding=padding)
        weight, bias = (values[f"projector.{name}_norm.{part}"] for part in ("weight", "bias"))
        maps = relu(batch_norm(maps, weight, bias, share))
    return maps


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_loss_equals_the_formula(weight: Tensor | None) -> None:
    method, setting = objective(factor=2, weight=0.5)
    step = random_step(setting, weight=weight)
    assert step.teacher is not None
    target = step.teacher.taps["last_map"].numpy()

    def oracle(values: Values) -> float:
        share = shares(weight, 4)
        distances = (projected(values, share) - target) ** 2
        return 0.5 * sum(float(part * row.mean()) for part, row in zip(share, distances, strict=True))

    assert_equals_oracle(method, step, oracle)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((3, 3), (2, 2)), ((4, 2), (2, 4))]
)
def test_larger_maps_are_averaged_to_the_smaller(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    method, setting = objective(student, teacher)
    step = random_step(setting)
    assert step.teacher is not None
    size = min(student[0], teacher[0]), min(student[1], teacher[1])
    target = pool(step.teacher.taps["last_map"].numpy(), size)

    def oracle(values: Values) -> float:
        smaller = {**values, "stage1": pool(values["stage1"], size)}
        return float(((projected(smaller, shares(None, 4)) - target) ** 2).mean())

    assert_equals_oracle(method, step, oracle)


def test_logits_are_those_of_the_teachers_classifier() -> None:
    method, setting = objective()
    step = random_step(setting)
    logits = method(step).logits
    assert setting.teacher is not None
    linear = setting.teacher.linear
    assert linear is not None
    values = {name: parameter.detach().numpy() for name, parameter in method.named_parameters()}
    values["stage1"] = step.student.taps["stage1"].detach().numpy()
    features = projected(values, shares(None, 4)).mean((2, 3))
    expected = features @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-9)


def test_batch_of_one_row_and_one_position_is_finite() -> None:
    method, setting = objective((1, 1), (1, 1))
    step = random_step(setting, rows=1)
    total = method(step).total
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())
    assert all(buffer.isfinite().all() for buffer in method.buffers())


def test_taps_in_bfloat16_give_nearly_the_same_loss() -> None:
    method, setting = objective()
    assert lower_precision_ratio(method, random_step(setting)) == pytest.approx(1, abs=0.02)


def test_teacher_whose_classifier_does_not_read_the_mean_of_the_maps_is_refused() -> None:
    teacher = replace(shape(5, (4, 2, 2)), averaged=frozenset())
    with pytest.raises(ObjectiveError, match="teacher_tap: the classifier of the teacher does not read the mean of"):
        SimKD(SimKDParams(), Setting(shape(5, (3, 2, 2)), teacher, 8))


def test_vectors_are_refused() -> None:
    vectors = NetworkShape(5, {"features": torch.Size((3,))})
    with pytest.raises(ObjectiveError, match=r"student_tap: 'features' gives outputs of the shape .3,., not maps"):
        SimKD(SimKDParams(), Setting(vectors, shape(5, (4, 2, 2)), 8))


class TestSimKD(MethodContract):
    method = "simkd"


class TestSimKDWithLargerStudentMaps(MethodContract):
    method: ClassVar[Any] = {"name": "simkd", "params": {"factor": 4}}
    networks: ClassVar[Any] = (
        {"name": "small_cnn", "params": {"width": 2}},
        {"name": "small_cnn", "params": {"width": 4}},
    )


# Whole trainings

CNN: Any = {"name": "small_cnn", "params": {"width": 4}}


def experiment(**changes: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "simkd",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 96, "test_size": 60},
            },
            "teacher": {"model": "resnet8", "training": {"epochs": 3, "batch_size": 16, "optimizer": {"lr": 0.05}}},
            "student": {"model": CNN},
            "methods": ["simkd"],
            "seeds": [0],
            "training": {"epochs": 4, "batch_size": 16, "optimizer": {"lr": 0.1}},
        }
        | changes
    )


def settings(folder: Path) -> TrainingSettings:
    return TrainingSettings(cache_dir=folder / "cache", threads=1, data_dir=folder)


def events(folder: Path) -> list[Any]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def train(spec: RunSpec, folder: Path, teacher: TeacherSource | None = None, **options: Any) -> str:
    return run_training(spec, folder, teacher, settings=settings(folder.parent), **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and a student, both trained."""
    root = tmp_path_factory.mktemp("simkd")
    teacher, student = experiment(training=experiment().training.model_dump(mode="json") | {"ema": 0.5}).plan()
    assert train(teacher.spec, root / "teacher") == "finished"
    source = TeacherSource(teacher.spec, root / "teacher" / "weights.safetensors")
    assert train(student.spec, root / "student", source) == "finished"
    return root


def supplied(runs: Path, model: Any = CNN, **weights: Any) -> RunSpec:
    """The teacher's run of an experiment that uses the student's weights."""
    teacher: dict[str, Any] = {
        "model": model,
        "weights": {"source": "student/weights.safetensors"} | weights,
    }
    if weights:
        teacher["training"] = {"epochs": 2, "batch_size": 32}
    return experiment(teacher=teacher, methods=["kd"]).plan()[0].spec


def test_exported_weights_load_again_and_have_the_recorded_accuracy(runs: Path, tmp_path: Path) -> None:
    (trained,) = (event for event in events(runs / "student") if isinstance(event, Finished))
    recorded = trained.summary["test/top1"]
    assert recorded > 20  # better than chance, so that a network with other weights would differ
    spec = supplied(runs)
    assert run_training(spec, tmp_path / "again", settings=settings(runs)) == "finished", events(tmp_path / "again")[-1]
    (loaded,) = (event for event in events(tmp_path / "again") if isinstance(event, Finished))
    for name in ("test/top1", "test/loss", "calibration/ece"):
        assert loaded.summary[name] == trained.summary[name], name
    copy = tmp_path / "again" / "weights.safetensors"
    assert read_metadata(copy).head == read_metadata(runs / "student" / "weights.safetensors").head
    student = (
        experiment(teacher={"model": CNN, "weights": "student/weights.safetensors"}, methods=["kd"]).plan()[-1].spec
    )
    assert student.teacher == spec.fingerprint()
    result = run_training(student, tmp_path / "kd", TeacherSource(spec, copy), settings=settings(runs))
    assert result == "finished", events(tmp_path / "kd")[-1]


def test_file_says_that_it_has_a_projector(runs: Path) -> None:
    path = runs / "student" / "weights.safetensors"
    metadata = read_metadata(path)
    assert metadata.head == HeadForm(channels=8, hidden=32, features=64, size=(2, 2))
    assert metadata.top1 == events(runs / "student")[-1].summary["test/top1"]
    teacher = load_file(runs / "teacher" / "weights.safetensors")
    exported = load_file(path)
    assert torch.equal(exported["classifier.weight"], teacher["classifier.weight"])
    assert torch.equal(exported["classifier.bias"], teacher["classifier.bias"])
    assert "head.projector.mix.weight" in exported


def test_parameters_of_the_exported_network_are_counted(runs: Path) -> None:
    (started,) = (event for event in events(runs / "student") if isinstance(event, Started))
    path = runs / "student" / "weights.safetensors"
    network = models.build("small_cnn", num_classes=5, image_size=8, width=4)
    exported = with_head_form(network, read_metadata(path).head)
    exported.load_state_dict(load_file(path))
    assert started.parameters == sum(parameter.numel() for parameter in exported.parameters())
    assert started.parameters > 2 * sum(parameter.numel() for parameter in network.parameters())
    assert "method_parameters" not in started.environment  # they are all in the network


def test_averaged_weights_are_of_the_exported_network(runs: Path) -> None:
    metrics = [event.values for event in events(runs / "student") if isinstance(event, Metrics)]
    assert metrics[-1]["test_ema/top1"] > 20
    assert metrics[-1]["test_ema/loss"] != metrics[-1]["test/loss"]


def test_accuracy_of_the_training_is_that_of_the_exported_network(runs: Path) -> None:
    metrics = [event.values for event in events(runs / "student") if isinstance(event, Metrics)]
    assert metrics[-1]["train/loss"] == pytest.approx(metrics[-1]["train/simkd"])
    assert metrics[-1]["train/simkd"] < metrics[0]["train/simkd"]
    # The student's own classifier is not trained, so that its accuracy would stay at 20 %.
    assert metrics[-1]["train/top1"] > 40


def test_own_classifier_of_the_student_gets_no_gradient(runs: Path, tmp_path: Path) -> None:
    planned = experiment().plan()
    source = TeacherSource(planned[0].spec, runs / "teacher" / "weights.safetensors")
    checkpoints = []
    for stop_at in (0, 4):
        polls = iter(range(10))
        options = TrainOptions(stop_requested=lambda polls=polls, stop_at=stop_at: next(polls) == stop_at)  # type: ignore[misc]
        folder = tmp_path / str(stop_at)
        assert train(planned[1].spec, folder, source, options=options) == "stopped"
        checkpoints.append(load_checkpoint(folder / CHECKPOINT_NAME, planned[1].spec.fingerprint()))
    before, after = checkpoints
    assert torch.equal(before.model["classifier.weight"], after.model["classifier.weight"])
    assert not torch.equal(before.model["stem.0.weight"], after.model["stem.0.weight"])
    assert not torch.equal(before.objective["projector.mix.weight"], after.objective["projector.mix.weight"])
    assert not any("classifier" in name for name in after.objective)  # the teacher has it


def test_frozen_batch_norm_of_the_projector_keeps_its_statistics(runs: Path, tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 32, "freeze_batch_norm_after": 1, "schedule": {"name": "constant"}}
    spec = experiment(training=training, teacher=experiment().teacher.model_dump(mode="json")).plan()[1].spec  # type: ignore[union-attr]
    source = TeacherSource(experiment().plan()[0].spec, runs / "teacher" / "weights.safetensors")
    folders = []
    for epochs in (1, 2):
        changed = spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": epochs})})
        folders.append(tmp_path / str(epochs))
        assert train(changed, folders[-1], source) == "finished", events(folders[-1])[-1]
    one, two = (load_file(folder / "weights.safetensors") for folder in folders)
    for name in ("head.projector.mix_norm.running_mean", "stem.1.running_mean"):
        assert torch.equal(one[name], two[name]), name
    assert not torch.equal(one["head.projector.mix.weight"], two["head.projector.mix.weight"])


def test_exported_weights_are_fine_tuned_and_the_training_resumes(runs: Path, tmp_path: Path) -> None:
    spec = supplied(runs, fine_tune=True)
    polls = iter(range(10))
    options = TrainOptions(stop_requested=lambda: next(polls) == 4)
    assert run_training(spec, tmp_path / "half", options=options, settings=settings(runs)) == "stopped"
    resumed = run_training(spec, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME, settings=settings(runs))
    assert resumed == "finished", events(tmp_path / "rest")[-1]
    assert run_training(spec, tmp_path / "whole", settings=settings(runs)) == "finished"
    whole, rest = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "rest"))
    assert whole == rest
    tuned, before = (
        load_file(tmp_path / "whole" / "weights.safetensors"),
        load_file(runs / "student" / "weights.safetensors"),
    )
    assert tuned.keys() == before.keys()
    assert not torch.equal(tuned["classifier.weight"], before["classifier.weight"])  # it is trained now
    assert read_metadata(tmp_path / "whole" / "weights.safetensors").head is not None


def test_exported_weights_are_converted(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = runs / "student" / "weights.safetensors", tmp_path / "copy.safetensors"
    shape_of_network = ["--num-classes", "5", "--image-size", "8", "--params", '{"width": 4}']
    arguments = ["convert", str(source), str(out), "--model", "small_cnn", *shape_of_network]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert read_metadata(out).head == read_metadata(source).head
    assert load_file(out).keys() == load_file(source).keys()


def test_weights_with_a_projector_are_refused_by_a_network_without_stages(runs: Path, tmp_path: Path) -> None:
    class Undivided(models.Network):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 5)

        def features(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

        def stages(self, images: Tensor) -> dict[str, Tensor]:
            return {}

        @property
        def linear(self) -> nn.Linear:
            return self.last

    expected = "the weights are of a student with SimKD's projector, which this network cannot have: its head cannot be"
    with pytest.raises(WeightsError, match=expected):
        with_head_form(Undivided(), HeadForm(3, 4, 5))
    method, _ = objective()
    with pytest.raises(ObjectiveError, match="the projector replaces the student's head, and its head cannot be"):
        method.exported(Undivided())
    with pytest.raises(ObjectiveError, match="this student is no network of stages"):
        method.exported(nn.Linear(3, 5))


def test_student_whose_head_cannot_be_replaced_fails_before_the_first_step(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = experiment().plan()
    source = TeacherSource(planned[0].spec, runs / "teacher" / "weights.safetensors")
    from core.tasks.classification.models.network import Network, StagedNetwork

    monkeypatch.setattr(StagedNetwork, "with_head", Network.with_head)
    assert train(planned[1].spec, tmp_path / "run", source) == "failed"
    last = events(tmp_path / "run")[-1]
    assert isinstance(last, Failed)
    assert last.kind == "spec"
    assert last.reason.startswith("simkd: the projector replaces the student's head, and its head cannot be replaced")


def test_form_of_a_head_is_read_from_the_network_and_from_text() -> None:
    form = HeadForm(8, 16, 32, (2, 2))
    network = with_head_form(models.build("small_cnn", num_classes=5, image_size=8, width=4), form)
    assert head_form(network) == form
    assert Metadata.parse(Metadata(head=form).texts()).head == form
    assert head_form(with_head_form(network, HeadForm(8, 16, 32))) == HeadForm(8, 16, 32)
    assert head_form(models.build("small_cnn", num_classes=5, image_size=8, width=4)) is None


@pytest.mark.parametrize(
    "changes",
    [{"channels": 0}, {"size": [1]}, {"size": 3}, {"channels": 1e999}, {"channels": 99999999999}, {"hidden": None}],
)
def test_invalid_form_of_a_head_is_refused(changes: dict[str, Any]) -> None:
    fields = {"channels": 1, "hidden": 1, "features": 1, "size": None}
    assert Metadata.parse({"dkd_head": json.dumps(fields)}).head == HeadForm(1, 1, 1)
    with pytest.raises(WeightsError, match="the metadata of the file"):
        Metadata.parse({"dkd_head": json.dumps(fields | changes)})


def test_exported_network_has_the_interface_of_the_catalogs_networks() -> None:
    network = models.build("resnet8", num_classes=5, image_size=8)
    exported = with_head_form(network, HeadForm(64, 8, 16)).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert exported(images).shape == (2, 5)
        torch.testing.assert_close(exported.linear(exported.features(images)), exported(images))
        assert list(exported.stages(images)) == ["stem", "stage1", "stage2", "stage3"]
    assert list(exported.tap_points()) == ["stem", "stage1", "stage2", "stage3", "features"]
    assert exported.layers is not network.layers
    assert next(exported.parameters()) is next(network.parameters())
    assert isinstance(exported.head, ProjectedHead)
    assert isinstance(exported.head.projector, Projector)


def test_warning_of_the_log_is_empty(runs: Path) -> None:
    warnings = [
        event.message for event in events(runs / "student") if isinstance(event, Log) and event.level == "warning"
    ]
    assert not warnings
