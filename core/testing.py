"""A test suite that every method, and every plug-in method, runs against itself with pytest.

A test module subclasses ``MethodContract`` and names the method::

    class TestMyMethod(MethodContract):
        method = {"name": "my_method", "params": {"weight": 0.5}}
        plugins = ("my_plugin",)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.catalog import load_plugins
from core.catalog.methods.entry import LABEL_TERM
from core.distill.objective import Objective, Outputs, Step, student_shapes
from core.distill.rows import Rows
from core.launch import RankInfo
from core.settings import TrainingSettings
from core.specs import parse_experiment
from core.tasks.registry import load_task
from core.tasks.task import RunContext
from core.testing_ranks import run_two_ranks
from core.testing_runs import train_interrupted
from core.train.method import objective_for
from core.train.rank_loss import average_gradients, step_loss
from core.train.ranks import process_group

_ROWS = 7
_H = 1e-6  # step of the finite differences, in float64

Gradients = dict[str, Tensor]
"""Gradients by the name of the tensor: ``logits``, ``tap NAME``, ``parameter NAME`` for the method's own, or
``parameter of the student N``.
"""


@dataclass(frozen=True)
class Inputs:
    """Random outputs of student and teacher for the rows of one step.

    Attributes:
        student: The student's outputs; they receive gradients.
        teacher: The teacher's outputs; None for a method without a teacher.
        target: (R,) class indices.
        samples: (R,) the indices of the rows' samples in the training split.
        weight: (R,) weights of the rows; None for ones.
        epoch: Counted from 0; None for full strength of every schedule.
    """

    student: Outputs
    teacher: Outputs | None
    target: Tensor
    samples: Tensor
    weight: Tensor | None = None
    epoch: int | None = None

    def select(self, index: Tensor) -> Inputs:
        """Return the rows of an index (R',), as new tensors that receive gradients."""

        def chosen(outputs: Outputs, *, trained: bool) -> Outputs:
            return Outputs(
                outputs.logits.detach()[index].requires_grad_(trained),
                {name: tap.detach()[index].requires_grad_(trained) for name, tap in outputs.taps.items()},
            )

        return Inputs(
            chosen(self.student, trained=True),
            chosen(self.teacher, trained=False) if self.teacher else None,
            self.target[index],
            self.samples[index],
            self.weight[index] if self.weight is not None else None,
            self.epoch,
        )

    def moved(self, directions: Sequence[Tensor], distance: float) -> Inputs:
        """Return inputs whose student's outputs are moved along directions, one for each tensor."""
        names = list(self.student.taps)
        logits, *taps = (
            tensor.detach() + distance * direction for tensor, direction in zip(self.tensors(), directions, strict=True)
        )
        return replace(self, student=Outputs(logits, dict(zip(names, taps, strict=True))))

    def tensors(self) -> list[Tensor]:
        """Return the student's logits and taps."""
        return [self.student.logits, *self.student.taps.values()]

    def step(self) -> Step:
        """Return the input of the method."""
        rows = Rows(self.student.logits, self.teacher.logits if self.teacher else None, self.target, self.weight)
        return Step(rows, self.student, self.teacher, self.samples, self.epoch)


def _spec(method: Any, networks: tuple[str, Any]) -> dict[str, Any]:
    teacher, student = networks
    return {
        "name": "contract",
        "dataset": {
            "name": "synthetic",
            "params": {"num_classes": 5, "image_size": 8, "train_size": 69, "test_size": 40},
        },
        "teacher": {"model": teacher, "training": {"epochs": 1, "batch_size": 32}},
        "student": {"model": student},
        "methods": [method],
        "seeds": [0],
        "training": {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.02}},
    }


def build_problem(spec: dict[str, Any], epoch: int | None = None) -> tuple[Objective, Inputs]:
    """Return a method in float64 for the networks of a spec, and random outputs of them.

    Args:
        spec: An experiment with one method.
        epoch: Counted from 0; None for full strength of every schedule.
    """
    run = parse_experiment(spec).plan()[-1].spec
    settings = TrainingSettings()
    task = load_task(RunContext(run, settings, lambda *_: None))
    torch.manual_seed(run.seed)  # a method may read the weights of the classifiers
    student = task.build_network().double()
    teacher = _teacher_network(spec, settings) if run.teacher else None
    objective, setting = objective_for(run, task, student, teacher)
    generator = torch.Generator().manual_seed(0)

    def outputs(taps: dict[str, torch.Size], scale: float) -> Outputs:
        def sample(*shape: int) -> Tensor:
            return scale * torch.randn(_ROWS, *shape, generator=generator, dtype=torch.float64)

        return Outputs(sample(setting.student.num_classes), {name: sample(*shape) for name, shape in taps.items()})

    target = torch.randint(setting.student.num_classes, (_ROWS,), generator=generator)
    teacher_outputs = outputs(dict(setting.teacher.taps), 2.0) if setting.teacher else None
    student_outputs = outputs(student_shapes(objective, setting), 1.0)
    inputs = Inputs(student_outputs, teacher_outputs, target, torch.arange(_ROWS), epoch=epoch)
    objective.double().train()
    objective(inputs.step())  # what a method keeps from its first step is then there
    return objective, inputs.select(torch.arange(_ROWS))


def _teacher_network(spec: dict[str, Any], settings: TrainingSettings) -> nn.Module:
    run = parse_experiment(spec).plan()[0].spec
    network = load_task(RunContext(run, settings, lambda *_: None)).build_network()
    return network.double().eval().requires_grad_(False)


@contextmanager
def keeping_buffers(objective: Objective) -> Iterator[None]:
    """A block after which a method's buffers are as before: a memory, or a number of steps."""
    before = [buffer.clone() for buffer in objective.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(objective.buffers(), before, strict=True):
            buffer.copy_(value)


def value_and_gradients(objective: Objective, inputs: Inputs) -> tuple[Tensor, Gradients]:
    """Return the loss, and its gradients with respect to the student's outputs and the method's own parameters."""
    named = _named_tensors(objective, inputs)
    with keeping_buffers(objective):
        total = objective(inputs.step()).total
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return total.detach(), {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(named.items(), gradients, strict=True)
    }


def _named_tensors(objective: Objective, inputs: Inputs) -> dict[str, Tensor]:
    taps = {f"tap {name}": tap for name, tap in inputs.student.taps.items()}
    own = {f"parameter {name}": parameter for name, parameter in objective.named_parameters()}
    read = {f"parameter of the student {n}": p for n, p in enumerate(objective.student_parameters())}
    return {"logits": inputs.student.logits} | taps | own | read


def _rank_of_two(rank: int, spec: dict[str, Any], epoch: int | None, plugins: tuple[str, ...], folder: str) -> None:
    """Compute the gradients of one rank's rows, averaged over two ranks as a training does."""
    torch.set_num_threads(1)
    load_plugins(plugins)
    objective, inputs = build_problem(spec, epoch)
    with process_group(RankInfo(rank, 2, Path(folder))) as ranks:
        part = inputs.select(torch.arange(_ROWS)[ranks.share(_ROWS)])
        loss = step_loss(objective, part.step(), _ROWS, ranks)
        loss.local.backward()  # type: ignore[no-untyped-call]
        if objective.scope == "row":
            average_gradients(objective, ranks)
        for parameter in objective.student_parameters():  # as DistributedDataParallel does
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= ranks.size
    gradients = {
        name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for name, tensor in _named_tensors(objective, part).items()
    }
    torch.save((loss.terms.total.detach(), gradients), f"{folder}/rank{rank}.pt")


class MethodContract:
    """What holds for every method. The tests train networks of a few hundred weights on synthetic images."""

    method: ClassVar[Any]
    """The method as a spec names it."""
    plugins: ClassVar[tuple[str, ...]] = ()
    """Modules that add the method to the catalog."""
    networks: ClassVar[tuple[Any, Any]] = ("resnet8", {"name": "small_cnn", "params": {"width": 4}})
    """Teacher and student, as a spec names them."""
    epoch: ClassVar[int | None] = None
    """The epoch of single steps, counted from 0; None for full strength of every schedule."""
    has_exact_gradient: ClassVar[bool] = True
    """False for a loss whose gradient is not that of its value: its weights depend on its own gradients, or one network
    is a constant in the loss of another."""

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> dict[str, Any]:
        """The experiment of the tests."""
        load_plugins(cls.plugins)
        return _spec(cls.method, cls.networks)

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls, spec: dict[str, Any]) -> tuple[Objective, Inputs]:
        """The method in float64, and random outputs."""
        return build_problem(spec, cls.epoch)

    def test_terms_are_finite_scalars(self, problem: tuple[Objective, Inputs]) -> None:
        objective, inputs = problem
        with keeping_buffers(objective):
            terms = objective(inputs.step())
        for name, value in {"total": terms.total, **terms.values}.items():
            assert value.shape == (), name
            assert value.isfinite(), name
        assert terms.total.requires_grad

    def test_gradient_is_that_of_finite_differences(self, problem: tuple[Objective, Inputs]) -> None:
        objective, inputs = problem
        _, gradients = value_and_gradients(objective, inputs)
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        if not self.has_exact_gradient:
            return  # finite differences would move the weights too
        exact = [gradients["logits"], *(gradients[f"tap {name}"] for name in inputs.student.taps)]
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            directions = [
                torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in inputs.tensors()
            ]
            sides = []
            for h in (_H, -_H):
                with keeping_buffers(objective):
                    sides.append(float(objective(inputs.moved(directions, h).step()).total.detach()))
            slope = (sides[0] - sides[1]) / (2 * _H)
            expected = sum(float((g * direction).sum()) for g, direction in zip(exact, directions, strict=True))
            assert slope == pytest.approx(expected, rel=1e-4, abs=1e-6)

    def test_order_of_the_rows_does_not_matter(self, problem: tuple[Objective, Inputs]) -> None:
        objective, inputs = problem
        order = torch.randperm(_ROWS, generator=torch.Generator().manual_seed(2))
        value, gradients = value_and_gradients(objective, inputs)
        permuted_value, permuted = value_and_gradients(objective, inputs.select(order))
        assert float(permuted_value) == pytest.approx(float(value), rel=1e-9)
        for name, gradient in gradients.items():
            expected = gradient if name.startswith("parameter") else gradient[order]
            torch.testing.assert_close(permuted[name], expected, rtol=1e-7, atol=1e-10)

    def test_row_of_weight_zero_is_absent(self, problem: tuple[Objective, Inputs]) -> None:
        objective, inputs = problem
        weight = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 0.25], dtype=torch.float64)
        weighted, kept = replace(inputs, weight=weight), weight.nonzero().flatten()
        value, gradients = value_and_gradients(objective, weighted.select(torch.arange(_ROWS)))
        present_value, present = value_and_gradients(objective, weighted.select(kept))
        assert float(value) == pytest.approx(float(present_value), rel=1e-9)
        for name, gradient in gradients.items():
            own = name.startswith("parameter")
            assert own or not gradient[weight == 0].any(), name
            torch.testing.assert_close(gradient if own else gradient[kept], present[name], rtol=1e-7, atol=1e-10)

    def test_cross_entropy_has_the_label_smoothing_of_the_rows(self, problem: tuple[Objective, Inputs]) -> None:
        objective, inputs = problem
        step, found = inputs.step(), []
        for smoothing in (0.0, 0.1, 0.3):
            with keeping_buffers(objective), torch.no_grad():
                terms = objective(replace(step, rows=replace(step.rows, label_smoothing=smoothing)))
            found.append(float(terms.values.get(LABEL_TERM, torch.nan)))
        if math.isnan(found[0]):
            return  # the loss has no cross-entropy
        none, little, much = found
        assert little != none
        assert much - none == pytest.approx(3 * (little - none), rel=1e-6), "it is linear in the label"

    def test_two_ranks_equal_one(self, spec: dict[str, Any], tmp_path: Path) -> None:
        run_two_ranks(_rank_of_two, spec, self.epoch, self.plugins, str(tmp_path))
        objective, inputs = build_problem(spec, self.epoch)
        value, gradients = value_and_gradients(objective, inputs)
        parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
        for total, _ in parts:
            assert float(total) == pytest.approx(float(value), rel=1e-9)
        for name, gradient in gradients.items():
            first, second = (part[name] for _, part in parts)
            if name.startswith("parameter"):
                torch.testing.assert_close(first, gradient, rtol=1e-7, atol=1e-10)
                torch.testing.assert_close(second, gradient, rtol=1e-7, atol=1e-10)
            else:  # DistributedDataParallel averages the gradients of the two ranks
                torch.testing.assert_close(torch.cat((first, second)) / 2, gradient, rtol=1e-7, atol=1e-10)

    def test_run_stopped_at_any_step_continues_bit_for_bit(self, spec: dict[str, Any], tmp_path: Path) -> None:
        train_interrupted(spec, tmp_path).check()
