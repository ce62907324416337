"""DOT and DeepKD: momenta of their own for the gradients of terms, against plain loops and in whole trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from core.catalog import METHODS, load_plugins
from core.catalog.methods.deepkd import DeepKDParams
from core.distill.logits.deepkd import top_classes
from core.distill.loss import build_loss
from core.distill.objective import LogitObjective, Outputs
from core.distill.rows import Rows
from core.events import JOURNAL_NAME, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, MethodRef, Optimizer, SpecError, parse_experiment, warnings_of
from core.specs.momenta import momenta_of
from core.tasks.classification.data import Batch
from core.tasks.task import TeacherSource
from core.testing import MethodContract
from core.train import run_training
from core.train.optimizer import build_term_momentum, term_groups
from core.train.performance import ExecutionPlan
from core.train.stepper import Stepper, Update
from tests.core.task_of import task_of

Array = NDArray[np.float64]

CLASSES, SIZE, EPOCH = 5, 12, 3


class TestDOT(MethodContract):
    method: ClassVar[Any] = "dot"


class TestDeepKD(MethodContract):
    method: ClassVar[Any] = {"name": "deepkd", "params": {"ramp_epochs": 1, "mask": "static", "top": 0.5}}


class TestDOTOnLayers(MethodContract):
    method: ClassVar[Any] = {"name": "dot", "params": {"kd_weight": 0.0}, "with": ["test_hint"]}
    plugins = ("tests.core.hint_plugin",)
    networks = ({"name": "small_cnn", "params": {"width": 8}}, {"name": "small_cnn", "params": {"width": 4}})


def experiment(*methods: Any, **changes: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "momenta",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": CLASSES, "image_size": 8, "train_size": 69, "test_size": 40},
            },
            "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 32}},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": list(methods),
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.02}},
        }
        | changes
    )


def log_softmax(row: Array) -> Array:
    shifted = row - row.max()
    result: Array = shifted - np.log(np.exp(shifted).sum())
    return result


def divergence(teacher: Array, student: Array) -> float:
    """KL(softmax(teacher) ‖ softmax(student))."""
    q, p = log_softmax(teacher), log_softmax(student)
    return float((np.exp(q) * (q - p)).sum())


def slow_deepkd(z: Array, v: Array, target: list[int], params: DeepKDParams, count: int) -> dict[str, float]:
    """The three terms, row by row, with NCKD over the ``count`` non-target classes that the teacher ranks first."""
    temperature, found = params.temperature, {"ce": 0.0, "tckd": 0.0, "nckd": 0.0}
    for row, teacher, t in zip(z, v, target, strict=True):
        found["ce"] -= float(log_softmax(row)[t])
        binary = []
        for logits in (teacher, row):
            others = np.logaddexp.reduce(np.delete(logits, t) / temperature)
            binary.append(np.array([logits[t] / temperature, others]))
        found["tckd"] += temperature**2 * divergence(*binary)
        ranked = sorted((k for k in range(len(row)) if k != t), key=lambda k: -teacher[k])
        if params.variant == "public_code" and params.kind == "static":
            ranked = [k for k in sorted(range(len(row)), key=lambda k: -teacher[k])[:count] if k != t]
        kept = ranked[:count]
        found["nckd"] += temperature**2 * divergence(teacher[kept] / temperature, row[kept] / temperature)
    return {name: value / len(z) for name, value in found.items()}


def rows(classes: int = 10, seed: int = 0) -> Rows:
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(SIZE, classes, generator=random, dtype=torch.float64) for _ in range(2))
    target = torch.randint(classes, (SIZE,), generator=random)
    return Rows(student.requires_grad_(), 3 * teacher, target)


class TestLossOfDeepKD:
    @pytest.mark.parametrize(
        ("params", "epoch", "count"),
        [
            ({"mask": "off"}, 0, 9),
            ({"mask": "static", "top": 0.4}, 5, 4),
            ({"mask": "static", "top": 0.4, "variant": "public_code"}, 5, 4),
            ({"variant": "public_code"}, 5, 9),
            ({"start": 0.2, "top": 0.6, "mask_epochs": [4, 6, 10]}, 0, 2),
            ({"start": 0.2, "top": 0.6, "mask_epochs": [4, 6, 10]}, 2, 4),
            ({"start": 0.2, "top": 0.6, "mask_epochs": [4, 6, 10]}, 5, 6),
            ({"start": 0.2, "top": 0.6, "mask_epochs": [4, 6, 10]}, 8, 8),
            ({"start": 0.2, "top": 0.6, "mask_epochs": [4, 6, 10]}, 10, 9),
        ],
    )
    def test_terms_and_gradients_equal_plain_loops(self, params: dict[str, Any], epoch: int, count: int) -> None:
        method = MethodRef(name="deepkd", params={"ramp_epochs": 0} | params)
        parsed = method.parsed_params
        assert isinstance(parsed, DeepKDParams)
        batch = rows()
        terms = build_loss(method)(batch, epoch)
        z, v, target = batch.student.detach().numpy(), batch.teacher32.numpy(), batch.target.tolist()
        expected = slow_deepkd(z, v, target, parsed, count)
        for name, value in expected.items():
            assert float(terms.values[name]) == pytest.approx(value, rel=1e-10), name
        (gradient,) = torch.autograd.grad(terms.total, batch.student)

        def total(at: Array) -> float:
            found = slow_deepkd(at, v, target, parsed, count)
            return found["ce"] + parsed.alpha * found["tckd"] + parsed.beta * found["nckd"]

        generator = np.random.default_rng(0)
        for _ in range(4):
            direction = generator.standard_normal(z.shape)
            slope = (total(z + 1e-6 * direction) - total(z - 1e-6 * direction)) / 2e-6
            assert slope == pytest.approx(float((gradient.numpy() * direction).sum()), rel=1e-5)

    def test_full_mask_is_dkd(self) -> None:
        batch = rows()
        masked = build_loss(MethodRef(name="deepkd"))(batch, None)
        plain = build_loss(MethodRef(name="dkd"))(batch, None)
        assert float(masked.total.detach()) == float(plain.total.detach())
        for name, gradient in plain.gradients.items():
            assert torch.equal(masked.gradients[name], gradient)

    def test_mask_leaves_out_the_target_and_keeps_at_least_one_class(self) -> None:
        batch = rows()
        members = top_classes(batch, DeepKDParams(start=0.01), 0)
        assert members is not None
        assert members.sum(1).tolist() == [1] * SIZE
        assert not members.gather(1, batch.target.unsqueeze(1)).any()
        public = top_classes(batch, DeepKDParams(mask="static", top=0.3, variant="public_code"), 0)
        assert public is not None
        among = batch.teacher32.topk(3).indices.eq(batch.target.unsqueeze(1)).any(1)
        assert among.any()
        assert public.sum(1).tolist() == [2 if hit else 3 for hit in among.tolist()]

    def test_half_precision_is_near_float32(self) -> None:
        batch = rows()
        method = MethodRef(name="deepkd", params={"mask": "static"})
        half = Rows(batch.student.detach().bfloat16().requires_grad_(), batch.teacher32.bfloat16(), batch.target)
        full = Rows(half.student.detach().float().requires_grad_(), half.teacher32.float(), batch.target)
        totals = [float(build_loss(method)(each, None).total.detach()) for each in (half, full)]
        assert totals[0] == pytest.approx(totals[1], rel=1e-6)


class TestMomenta:
    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("kd", None),
            ({"name": "dot", "params": {"delta": 0.0}}, None),
            ("dot", {"ce": 0.825, "kd": 0.975, "rest": 0.975}),
            ("deepkd", {"tckd": 0.825, "ce": 0.975, "nckd": 0.95, "rest": 0.9}),
            (
                {"name": "deepkd", "params": {"variant": "public_code"}},
                {"tckd": 0.825, "ce": 0.825, "nckd": 0.95, "rest": 0.9},
            ),
            ({"name": "at", "with": ["dot"]}, {"ce": 0.825, "kd": 0.975, "rest": 0.975}),
        ],
    )
    def test_momenta_are_those_of_the_papers(self, method: Any, expected: dict[str, float] | None) -> None:
        momenta = momenta_of(MethodRef.model_validate(method), Optimizer())
        actual = momenta and {**momenta.of_terms, "rest": momenta.rest}
        assert actual == (expected and pytest.approx(expected))

    def test_terms_with_one_momentum_are_a_group(self) -> None:
        assert term_groups({"tckd": 0.8, "ce": 0.8, "nckd": 0.9}) == {
            "tckd": "tckd+ce",
            "ce": "tckd+ce",
            "nckd": "nckd",
        }

    def test_entries_name_the_parameters_that_decide_a_momentum(self) -> None:
        for entry in METHODS:
            if entry.momenta:
                momenta = entry.momenta(entry.params(), 0.9)
                assert set(momenta.params) == set(momenta.of_terms)
                assert set(momenta.params.values()) <= entry.params.model_fields.keys()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES)).double()


class Teacher:
    """A teacher whose logits are given."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def outputs(self, batch: Any, epoch: int) -> Any:
        with torch.no_grad():
            return Outputs(3 * self._network(batch.images))


def batches() -> list[Batch]:
    random = torch.Generator().manual_seed(4)
    made = []
    for _ in range(4):
        images = torch.randn(SIZE, 1, 4, 4, generator=random, dtype=torch.float64)
        labels = torch.randint(CLASSES, (SIZE,), generator=random)
        made.append(Batch(images, labels, torch.arange(SIZE), SIZE))
    return made


WHOLE = Update()


def stepper(method: Any, optimizer: Optimizer, update: Update = WHOLE) -> tuple[nn.Sequential, Stepper]:
    ref = MethodRef.model_validate(method)
    momenta = momenta_of(ref, optimizer)
    assert momenta
    model, objective = network(), LogitObjective(build_loss(ref))
    objective.momenta = dict(momenta.of_terms)
    built = build_term_momentum(model, [], optimizer, objective.momenta)
    torch.manual_seed(9)
    teacher: Any = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)).double())
    return model, Stepper(task_of(), model, teacher, objective, built, ExecutionPlan(threads=1), update=update)


def slow_steps(method: Any, optimizer: Optimizer, clip: float | None = None) -> list[Array]:
    """The same steps with a gradient of each term by autograd, and the update written out in NumPy."""
    ref = MethodRef.model_validate(method)
    momenta = momenta_of(ref, optimizer)
    assert momenta
    model = network()
    torch.manual_seed(9)
    teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)).double())
    parameters = list(model.parameters())
    theta = [parameter.detach().numpy().copy() for parameter in parameters]
    velocity = {name: [np.zeros_like(array) for array in theta] for name in momenta.of_terms}
    for batch in batches():
        with torch.no_grad():
            for parameter, array in zip(parameters, theta, strict=True):
                parameter.copy_(torch.from_numpy(array))
        logits = model(batch.images)
        terms = build_loss(ref)(Rows(logits, teacher.outputs(batch, 0).logits, batch.labels), EPOCH)
        gradients = {
            name: [
                gradient.numpy()
                for gradient in torch.autograd.grad(logits, parameters, terms.gradients[name], retain_graph=True)
            ]
            for name in momenta.of_terms
        }
        if clip is not None:
            total = [sum(parts) for parts in zip(*gradients.values(), strict=True)]
            norm = np.sqrt(sum(float((np.asarray(part) ** 2).sum()) for part in total))
            factor = min(1.0, clip / (norm + 1e-6))
            gradients = {name: [factor * part for part in parts] for name, parts in gradients.items()}
        start = [array.copy() for array in theta]
        for number, (name, momentum) in enumerate(momenta.of_terms.items()):
            for index, gradient in enumerate(gradients[name]):
                decayed = gradient + (optimizer.weight_decay * start[index] if number == 0 else 0.0)
                velocity[name][index] = momentum * velocity[name][index] + decayed
                moved = decayed + momentum * velocity[name][index] if optimizer.nesterov else velocity[name][index]
                theta[index] -= optimizer.lr * moved
    return theta


class TestSteps:
    @pytest.mark.parametrize(
        "method",
        [
            "dot",
            {"name": "deepkd", "params": {"ramp_epochs": 0, "mask": "off"}},
            {"name": "deepkd", "params": {"ramp_epochs": 0, "variant": "public_code"}},
            {"name": "dot", "shares": {"kd": 0.6}},
        ],
        ids=["dot", "deepkd", "public code", "shares"],
    )
    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("clip", [None, 0.05])
    @pytest.mark.parametrize("micro_batch", [None, 5])
    def test_steps_equal_the_formula(
        self, method: Any, nesterov: bool, clip: float | None, micro_batch: int | None
    ) -> None:
        optimizer = Optimizer(lr=0.1, weight_decay=0.01, nesterov=nesterov)
        model, steps = stepper(method, optimizer, Update(micro_batch, clip))
        for batch in batches():
            steps.step(batch, EPOCH, optimizer.lr)
        for parameter, array in zip(model.parameters(), slow_steps(method, optimizer, clip), strict=True):
            torch.testing.assert_close(parameter.detach(), torch.from_numpy(array), rtol=1e-8, atol=1e-10)
        assert ("grad/norm" in steps.means.read()) == (clip is not None)

    def test_momenta_move_the_weights_elsewhere_than_one_momentum(self) -> None:
        optimizer = Optimizer(lr=0.1, weight_decay=0.0)
        results = []
        for delta in (0.075, 0.001):
            model, steps = stepper({"name": "dot", "params": {"delta": delta}}, optimizer)
            for batch in batches():
                steps.step(batch, EPOCH, optimizer.lr)
            results.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert float((results[0] - results[1]).norm() / results[1].norm()) > 1e-3


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    spec = experiment("kd").plan()[0].spec
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


def train(method: Any, folder: Path, teacher: TeacherSource, **training: Any) -> dict[str, Tensor]:
    settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
    plain = {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.02}}
    spec = experiment(method, training=plain | training).plan()[-1].spec
    assert run_training(spec, folder, teacher, settings=settings) == "finished"
    return load_file(folder / "weights.safetensors")


class TestTraining:
    def test_dot_without_a_difference_is_kd_bit_for_bit(self, tmp_path: Path, teacher: TeacherSource) -> None:
        kd = train("kd", tmp_path / "kd", teacher)
        dot = train({"name": "dot", "params": {"delta": 0.0}}, tmp_path / "dot", teacher)
        assert all(torch.equal(kd[name], dot[name]) for name in kd)

    def test_deepkd_without_differences_and_mask_is_dkd_bit_for_bit(
        self, tmp_path: Path, teacher: TeacherSource
    ) -> None:
        deltas = {"task_delta": 0.0, "target_delta": 0.0, "non_target_delta": 0.0, "mask": "off"}
        dkd = train("dkd", tmp_path / "dkd", teacher)
        deepkd = train({"name": "deepkd", "params": deltas}, tmp_path / "deepkd", teacher)
        assert all(torch.equal(dkd[name], deepkd[name]) for name in dkd)

    @pytest.mark.parametrize(
        "training",
        [{"accumulate": 2}, {"speed": {"precision": "bfloat16"}}, {"augment": ["standard", "mixup"]}, {"ema": 0.9}],
        ids=["micro-batches", "16 bits", "mixtures", "average"],
    )
    def test_momenta_work_with_every_setting_of_a_training(
        self, tmp_path: Path, teacher: TeacherSource, training: dict[str, Any]
    ) -> None:
        weights = train("deepkd", tmp_path, teacher, **training)
        assert all(tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point())

    def test_layers_of_an_added_method_are_trained(self, tmp_path: Path, teacher: TeacherSource) -> None:
        load_plugins(["tests.core.hint_plugin"])
        hint = {"name": "test_hint", "params": {"student_tap": "features", "teacher_tap": "features"}}
        train({"name": "dot", "with": [hint]}, tmp_path, teacher, epochs=2)
        values = [e.event.values for e in read_journal(tmp_path / JOURNAL_NAME) if isinstance(e.event, Metrics)]
        assert values[-1]["train/hint"] < values[0]["train/hint"]
        shares = [values[0][f"grad/share_{name}"] for name in ("ce", "kd", "hint")]
        assert sum(shares) == pytest.approx(100.0, rel=1e-4)


def refused(*methods: Any, **changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as error:
        experiment(*methods, **changes)
    return {problem.path: problem.message for problem in error.value.problems}


class TestBadInput:
    @pytest.mark.parametrize("name", ["dot", "deepkd"])
    def test_another_optimizer_is_refused_with_its_path(self, name: str) -> None:
        training = {"epochs": 1, "optimizer": {"name": "adamw", "lr": 0.001}}
        found = refused("kd", name, training=training)
        assert list(found) == ["training.optimizer.name"]
        assert found["training.optimizer.name"].startswith(f"{name} gives each term a momentum of its own")

    def test_momentum_out_of_range_is_refused_at_its_parameter(self) -> None:
        found = refused({"name": "dot", "params": {"delta": 0.1}})
        assert list(found) == ["methods.0.params.delta"]
        assert "gives kd a momentum of 1 beside the optimiser's 0.9" in found["methods.0.params.delta"]
        low = refused({"name": "deepkd", "params": {"target_delta": -0.95}})
        assert list(low) == ["methods.0.params.target_delta"]
        zero = {"epochs": 1, "optimizer": {"momentum": 0.1, "nesterov": True}}
        found = refused({"name": "dot", "params": {"delta": 0.1}}, training=zero)
        assert "Nesterov's needs one above 0" in found["methods.0.params.delta"]

    def test_two_methods_with_momenta_are_refused(self) -> None:
        found = refused({"name": "deepkd", "with": ["dot"]})
        assert "gives every term its momentum already" in found["methods.0.with.0"]

    def test_method_with_a_first_stage_is_refused(self) -> None:
        found = refused({"name": "dot", "with": [{"name": "ft", "params": {"init_epochs": 1}}]})
        assert "ft has a first stage of one" in found["methods.0.with.0"]
        hints = {"name": "fitnet", "params": {"hint_epochs": 1}}
        assert "fitnet has a first stage of one" in refused({"name": "dot", "with": [hints]})["methods.0.with.0"]

    @pytest.mark.parametrize("name", ["fitnet", "fsp"])
    def test_method_whose_first_stage_has_no_epochs_is_accepted(self, name: str) -> None:
        """FitNet and FSP have a first stage only if they are given epochs for it."""
        spec = experiment({"name": "dot", "with": [name]}, student={"model": "resnet8"})
        assert [member.name for member in spec.methods[0].members] == ["dot", name]

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"mask_epochs": [5, 4, 9]}, "mask_epochs do not grow"),
            ({"variant": "public_code", "task_delta": 0.05}, "task_delta has no effect with variant: public_code"),
            ({"start": 0.8}, "start is above top"),
        ],
    )
    def test_inconsistent_parameters_are_refused(self, params: dict[str, Any], message: str) -> None:
        assert message in refused({"name": "deepkd", "params": params})["methods.0.params"]

    def test_mask_that_does_not_open_is_warned_of(self) -> None:
        messages = {problem.path: problem.message for problem in warnings_of(experiment("deepkd"))}
        assert "does not open within the training" in messages["methods.0.params.mask_epochs"]
        spec = experiment({"name": "deepkd", "params": {"mask": "off"}})
        assert "methods.0.params.mask_epochs" not in {problem.path for problem in warnings_of(spec)}
