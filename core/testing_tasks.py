"""A test suite that every task, also of a plug-in, runs against itself with pytest.

A test module subclasses ``TaskContract`` and names an experiment of the task::

    class TestMyTask(TaskContract):
        experiment = {
            "name": "contract",
            "dataset": {"name": "my_data", "params": {"train_size": 42}},
            "teacher": {"model": "my_network", "training": {"epochs": 1, "batch_size": 8}},
            "student": {"model": "my_network"},
            "methods": ["kd"],
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": 8},
        }
        plugins = ("my_plugin",)

It trains a teacher and three times a student, so that its networks and data should be small.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.catalog import DATASETS, METRICS, TASKS, load_plugins
from core.distill.objective import Objective, Outputs, Step
from core.events import IMAGES_KEY, Finished, Started
from core.launch import RankInfo
from core.settings import TrainingSettings
from core.specs import RunSpec, parse_experiment
from core.tasks.registry import load_task
from core.tasks.task import Batch, RunContext, Task
from core.testing_ranks import run_two_ranks
from core.testing_runs import Interrupted, events_of, metrics_of, train_interrupted
from core.train.accumulation import MicroBatches
from core.train.method import objective_for
from core.train.rank_loss import average_gradients, step_loss
from core.train.ranks import SINGLE_PROCESS, Ranks, process_group
from core.weights.metadata import read_metadata

_PRECISION = 1e-4
"""Of the largest number: gradients are added in other orders, in float32."""
_NOISE = nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd


class Problem:
    """The first step of a run: its task, its networks and its method.

    The networks have other weights than in a training, and neither batch norm nor dropout make a sample depend on the
    others or on chance.

    Args:
        experiment: The experiment of the run.
        plugins: Modules that add to the catalog.
    """

    def __init__(self, experiment: dict[str, Any], plugins: tuple[str, ...] = ()) -> None:
        load_plugins(plugins)
        plan = parse_experiment(experiment).plan()
        self.spec = plan[-1].spec
        self.task, teacher_task = (_task_of(run.spec) for run in (plan[-1], plan[0]))
        torch.manual_seed(0)
        self.student = _without_noise(self.task.build_network().train())
        self.teacher = teacher_task.build_network().eval().requires_grad_(False)
        self.objective: Objective = objective_for(self.spec, self.task, self.student, self.teacher)[0]
        taps = self.objective.taps
        self.network = self.task.tapped(self.student, taps.student) if taps.student else self.student
        self._teacher = self.task.tapped(self.teacher, taps.teacher) if taps.teacher else self.teacher

    def batches(
        self, epoch: int = 0, start: int = 0, share: Callable[[int], slice] = SINGLE_PROCESS.share
    ) -> list[Batch]:
        """Return the batches of an epoch."""
        return list(self.task.batches(self.spec.training, self.spec.data_seed, epoch, start, share))

    def forward(self, batch: Batch) -> Outputs:
        """Return the student's outputs."""
        return self.task.forward(self.network, batch, self.objective.student_outputs)

    def with_teacher(self, batch: Batch) -> tuple[Batch, Outputs]:
        """Return the batch with what the student's pass needs, and the teacher's outputs."""
        with torch.no_grad():
            outputs = self.task.forward(self._teacher, batch, self.objective.taps.teacher)
        seen: Batch = self.task.with_teacher(batch, outputs)
        return seen, outputs

    def step(self, batch: Batch) -> Step:
        """Return the input of the method."""
        seen, teacher = self.with_teacher(batch)
        return self.task.step(self.forward(seen), teacher, seen, 0, with_index=True)

    def gradients(self, batch: Batch, ranks: Ranks = SINGLE_PROCESS) -> tuple[float, list[Tensor]]:
        """Return the loss of a batch, and its gradients at the student's and at the method's parameters."""
        loss = step_loss(self.objective, self.step(batch), batch.total, ranks, copies=batch.copies)
        loss.local.backward()  # type: ignore[no-untyped-call]
        if self.objective.scope == "row":
            average_gradients(self.objective, ranks)
        for parameter in self.student.parameters() if ranks.size > 1 else ():  # as DistributedDataParallel does
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks.size
        return float(loss.terms.total.detach()), self.taken()

    def taken(self) -> list[Tensor]:
        """Return the gradients that all parameters have, and remove them."""
        parameters = [*self.student.parameters(), *self.objective.parameters()]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        return gradients


def _task_of(run: RunSpec) -> Task:
    return load_task(RunContext(run, TrainingSettings(), lambda *_: None)).to(torch.device("cpu"))


def _without_noise(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, _NOISE):
            module.eval()
    return network


def _rank_of_two(rank: int, experiment: dict[str, Any], plugins: tuple[str, ...], folder: str) -> None:
    torch.set_num_threads(1)
    problem = Problem(experiment, plugins)
    with process_group(RankInfo(rank, 2, Path(folder))) as ranks:
        result = problem.gradients(problem.batches(share=ranks.share)[0], ranks)
    torch.save(result, f"{folder}/rank{rank}.pt")


def _check_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    greatest = max(float(gradient.abs().max()) for gradient in expected)
    assert greatest > 0, "no parameter has a gradient"
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) <= _PRECISION * greatest


class TaskContract:
    """What holds for every task."""

    experiment: ClassVar[dict[str, Any]]
    """An experiment of the task: a data set, a teacher, and one method that reads the teacher. Its students take at
    least ten steps."""
    plugins: ClassVar[tuple[str, ...]] = ()
    """Modules that add the task to the catalog."""

    @pytest.fixture
    @classmethod
    def problem(cls) -> Problem:
        """The first step of the experiment's student."""
        return Problem(cls.experiment, cls.plugins)

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
        """The student's training, whole and interrupted."""
        load_plugins(cls.plugins)
        return train_interrupted(cls.experiment, tmp_path_factory.mktemp("task"))

    def test_catalog_and_code_name_one_headline_metric(self, problem: Problem) -> None:
        entry = TASKS[DATASETS[problem.spec.dataset.name].task]
        assert problem.task.headline == entry.headline

    def test_an_epoch_has_every_sample_once(self, problem: Problem) -> None:
        batches = problem.batches()
        found = torch.cat([batch.index for batch in batches])
        assert sorted(found.tolist()) == list(range(problem.task.train_size))
        assert all(batch.total == len(batch.index) for batch in batches)

    def test_views_are_a_function_of_seed_and_epoch(self, problem: Problem) -> None:
        first, again, later = problem.batches(1), problem.batches(1), problem.batches(1, start=1)
        for expected, others in ((first, again), (first[1:], later)):
            for one, other in zip(expected, others, strict=True):
                assert torch.equal(one.index, other.index)
                assert all(map(torch.equal, one.tensors(), other.tensors()))

    def test_ranks_divide_each_batch(self, problem: Problem) -> None:
        halves = [problem.batches(share=partial(_half, rank)) for rank in range(2)]
        for whole, first, second in zip(problem.batches(), *halves, strict=True):
            assert torch.equal(torch.cat((first.index, second.index)), whole.index)
            assert first.total == second.total == whole.total

    def test_forward_and_rows_fit(self, problem: Problem) -> None:
        batch = problem.batches()[0]
        step = problem.step(batch)
        rows, classes = step.rows, problem.task.network_shape(problem.student, ()).num_classes
        count = len(rows.target)
        assert count > 0
        assert rows.student.shape == (count, classes)
        assert rows.student.requires_grad
        assert rows.teacher is not None
        assert rows.teacher.shape == (count, classes)
        assert not rows.teacher.requires_grad
        weights = [weight for weight in (rows.weight, rows.label_weight) if weight is not None]
        assert all(bool((weight >= 0).all() and weight.isfinite().all()) for weight in weights)
        counted = rows.target if not weights else rows.target[torch.stack(weights).sum(0) > 0]
        assert bool(((counted >= 0) & (counted < classes)).all())
        if step.sample_rows:
            assert count == batch.copies * len(batch.index)
        else:
            assert step.index is not None
            assert torch.equal(step.index.cpu(), batch.index)

    def test_first_tap_is_where_the_taps_have_a_graph(self, problem: Problem) -> None:
        names = problem.objective.taps.student
        batch, _ = problem.with_teacher(problem.batches()[0])
        if not names:  # the method reads no layer
            assert problem.task.forward(problem.network, batch).taps == {}
            return
        assert problem.task.forward(problem.network, batch, names, first_tap=True).first_tap is not None
        with torch.no_grad():
            assert problem.task.forward(problem.network, batch, names, first_tap=True).taps.keys() == set(names)

    def test_rows_of_parts_are_those_of_the_batch(self, problem: Problem) -> None:
        batch = problem.batches()[0]
        size = len(batch.index)
        whole = problem.step(batch)
        if not whole.sample_rows:  # then the step says of which samples its rows are
            assert whole.index is not None
            return
        parts = [problem.step(batch.part(part)).rows for part in (slice(0, size // 2), slice(size // 2, size))]
        torch.testing.assert_close(torch.cat([part.student for part in parts]), whole.rows.student)
        assert torch.equal(torch.cat([part.target for part in parts]), whole.rows.target)
        if whole.rows.weight is not None:
            weights = [part.weight for part in parts if part.weight is not None]
            torch.testing.assert_close(torch.cat(weights), whole.rows.weight)

    def test_micro_batches_give_the_gradients_of_the_batch(self, problem: Problem) -> None:
        batch = problem.batches()[0]
        step = problem.step(batch)
        if not step.sample_rows:  # the parts of a batch draw other rows than the batch
            assert step.index is not None
            return
        loss, expected = problem.gradients(batch)
        seen, teacher = problem.with_teacher(batch)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        micro = MicroBatches(
            problem.task, problem.student, problem.objective, SINGLE_PROCESS, problem.forward, None, scaler
        )
        found = micro.backward(seen, 2, teacher, 0)
        assert float(found.terms.total.detach()) == pytest.approx(loss, rel=_PRECISION)
        _check_equal(problem.taken(), expected)

    def test_two_ranks_equal_one(self, problem: Problem, tmp_path: Path) -> None:
        loss, expected = problem.gradients(problem.batches()[0])
        run_two_ranks(_rank_of_two, self.experiment, self.plugins, str(tmp_path))
        for rank in range(2):
            of_rank, found = torch.load(tmp_path / f"rank{rank}.pt")
            assert of_rank == pytest.approx(loss, rel=_PRECISION)
            _check_equal(found, expected)

    def test_reports_repeat_and_leave_the_network_as_it_is(self, problem: Problem) -> None:
        task, network = problem.task, problem.student
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        task.prepare_reports(problem.teacher)
        reports = [task.epoch_report(network) for _ in range(2)]
        assert reports[0] == pytest.approx(reports[1], nan_ok=True)
        assert task.headline in reports[0]
        assert network.training
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())

    def test_run_stopped_at_any_step_continues_bit_for_bit(self, trained: Interrupted) -> None:
        trained.check()

    def test_every_metric_is_described(self, trained: Interrupted) -> None:
        names = {name for values in metrics_of(trained.whole) for name in values}
        assert {name for name in names if name not in METRICS} == set()

    def test_results_name_their_data(self, problem: Problem, trained: Interrupted) -> None:
        events = events_of(trained.whole)
        (started,) = (event for event in events if isinstance(event, Started))
        (finished,) = (event for event in events if isinstance(event, Finished))
        task = problem.task
        assert started.environment[IMAGES_KEY] == task.data_identity()[IMAGES_KEY]
        assert (started.train_size, started.test_size) == (task.train_size, task.test_size)
        assert task.headline in finished.summary
        assert read_metadata(trained.whole / finished.weights).classes == task.metadata().classes

    def test_items_are_the_test_samples(self, problem: Problem, trained: Interrupted) -> None:
        pytest.importorskip("pyarrow")
        from core.items.file import read_items

        (finished,) = (event for event in events_of(trained.whole) if isinstance(event, Finished))
        if finished.items is None:
            assert problem.task.per_item(problem.student) == {}
            return
        items = read_items(trained.whole / finished.items)
        assert sorted(items.columns["item"].tolist()) == list(range(problem.task.test_size))


def _half(rank: int, count: int) -> slice:
    return slice(0, count // 2) if rank == 0 else slice(count // 2, count)
