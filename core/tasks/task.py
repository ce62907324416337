"""The contract of a task: its data, its networks, and how they are measured. The training engine knows nothing else.

``core.testing_tasks.TaskContract`` checks a task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.distill.objective import NetworkShape, Outputs, Step
from core.distill.rows import Rows
from core.errors import TrainingError
from core.items.detection_table import DetectionTable
from core.items.features import FeatureImages, NetworkFeatures, Snapshot
from core.settings import TrainingSettings
from core.specs import ModelRef, RunSpec, Training
from core.tasks.workload import Workload
from core.weights.metadata import Metadata


@dataclass(frozen=True)
class RunContext:
    """What a task knows of the run that it prepares.

    Attributes:
        spec: The run.
        settings: What the training takes from its environment.
        log: Logs a message with its level in the run's journal.
    """

    spec: RunSpec
    settings: TrainingSettings
    log: Callable[[str, Literal["info", "warning"]], object]

    def warn(self, message: str) -> None:
        """Log a warning."""
        self.log(message, "warning")


@dataclass(frozen=True)
class TeacherSource:
    """Where a student's teacher comes from.

    Attributes:
        spec: The run that made the teacher.
        weights: The file with the teacher's weights (safetensors).
    """

    spec: RunSpec
    weights: Path


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher that is ready to be used.

    Attributes:
        network: In eval mode, without gradients, on the device of the training.
        cache_key: What identifies the teacher's outputs on disk, except the epoch; None if they are not cached.
        members: Of an ensemble, its teachers, each of which is cached by itself.
    """

    network: nn.Module
    cache_key: Mapping[str, Any] | None = None
    members: tuple[LoadedTeacher, ...] = ()


@dataclass(frozen=True)
class FeatureReport:
    """An epoch report, and the features from the same pass.

    Attributes:
        values: The metrics.
        images: The test images whose features are kept; None if the network has none to keep.
        snapshot: The features; None with ``images``.
    """

    values: dict[str, float]
    images: FeatureImages | None = None
    snapshot: Snapshot | None = None


class Batch(Protocol):
    """The input of one optimiser step on one rank.

    Attributes:
        index: (B,) int64, the samples' numbers in the training split, on the CPU.
        total: The number of samples of the step on all ranks.
        copies: The rows of each sample: two if it is a mixture of two, each with its label; T if its T parts are rows.
    """

    @property
    def index(self) -> Tensor: ...
    @property
    def total(self) -> int: ...
    @property
    def copies(self) -> int: ...
    def part(self, samples: slice) -> Self:
        """Return some of this rank's samples."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors on the device, in a fixed order."""
        ...

    def with_tensors(self, *tensors: Tensor) -> Self:
        """Return the same batch with other tensors in the same order."""
        ...

    def to_memory_format(self, memory_format: torch.memory_format) -> Self:
        """Return the batch with its inputs stored in a memory format."""
        ...


NetworkFn = Callable[..., Any]
"""A network, or a compiled one, that is called with a batch's inputs and returns logits, or logits and taps."""


class SuppliedWeights(Protocol):
    """Weights from elsewhere that a run starts from, or hands out unchanged."""

    @property
    def warnings(self) -> tuple[str, ...]: ...


class Task(ABC):
    """A task with the data of one run, on one device."""

    headline: str
    """Name of the metric that ranks runs, which is in every epoch report: that of the task, measured on the images that
    the spec names. A higher value is better."""
    has_fixed_shapes: ClassVar[bool] = True
    """Whether all full batches have tensors of the same shapes, so that a step can be compiled, or recorded and
    replayed."""

    train_size: int
    test_size: int
    device: torch.device

    @classmethod
    @abstractmethod
    def load(cls, context: RunContext) -> Self:
        """Read the data that a run's spec names.

        Raises:
            TrainingError: The data cannot be read, or do not fit the spec.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Return the task with its batches on a device."""

    @abstractmethod
    def read_supplied_weights(self) -> SuppliedWeights | None:
        """Read the weights that the spec names, and compare them with the data; None if it names none."""

    @abstractmethod
    def build_network(self, weights: Any = None, resumed: Metadata | None = None) -> nn.Module:
        """Build the network, with new weights from torch's random state.

        Args:
            weights: The weights that it will start from, which may expect other inputs and another form of it.
            resumed: The metadata of the checkpoint that the run continues from.
        """

    @abstractmethod
    def build_another(self, model: ModelRef) -> nn.Module:
        """Build a network of the catalog for the inputs of the run's, with new weights from torch's random state."""

    @abstractmethod
    def load_supplied_weights(self, network: nn.Module, weights: Any) -> None:
        """Load the weights from ``read_supplied_weights`` into the network."""

    @abstractmethod
    def check_network(self, network: nn.Module) -> None:
        """Check before the first step that the network can be trained on the data.

        Raises:
            TrainingError: The network cannot be trained on them; the message says what to change.
        """

    @abstractmethod
    def tapped(self, network: nn.Module, names: Sequence[str]) -> nn.Module:
        """Return a module that runs the network and returns logits and the named taps.

        Raises:
            TrainingError: The network has no such tap; the message suggests similar names.
        """

    @abstractmethod
    def network_shape(self, network: nn.Module, names: Sequence[str]) -> NetworkShape:
        """Return the shapes of the network's logits and of its named taps. The network stays as it is."""

    def teacher_shape(self, network: nn.Module, names: Sequence[str]) -> NetworkShape:
        """Return the shapes of a teacher's outputs in a step, by which they are cached."""
        return self.network_shape(network, names)

    def training_labels(self) -> Tensor | None:
        """Return the class of each training sample (N,) int64; None where a sample has no single class."""
        return None

    def outputs_of(self, network: nn.Module, names: Sequence[str], index: Tensor) -> Outputs:
        """Return a network's logits and taps for training samples without augmentation, in eval mode and in float32.

        Args:
            network: The network; it stays as it is.
            names: The taps.
            index: (M,), the indices of the samples.

        Raises:
            TrainingError: The task cannot, or the network has no such tap.
        """
        raise TrainingError("spec", f"{type(self).__name__} shows training samples only during the training")

    @abstractmethod
    def load_teacher(self, source: TeacherSource) -> LoadedTeacher:
        """Build the teacher's network and load its weights, in eval mode and without gradients."""

    def check_teacher_network(self, model: str, network: nn.Module) -> None:  # noqa: B027  # most tasks accept any
        """Check that a network can be the teacher of the run, whatever its weights are.

        Args:
            model: The network's name in the catalog.
            network: The network, in eval mode.

        Raises:
            TrainingError: It cannot; the message says what to change.
        """

    @abstractmethod
    def workload(self, network: nn.Module, weights: Any = None, *, count_products: bool) -> Workload:
        """Return how much the run has to compute."""

    @abstractmethod
    def example(self, count: int) -> Tensor:
        """Return inputs of ``count`` samples, all zero, on the device."""

    @abstractmethod
    def batches(
        self,
        training: Training,
        data_seed: int,
        epoch: int,
        start: int,
        share: Callable[[int], slice],
        *,
        strong_view: bool = False,
    ) -> Generator[Batch]:
        """Yield the training batches of one epoch from number ``start``; ``share`` selects this rank's samples.

        With ``strong_view``, they contain a second view of the samples, for the tap ``strong_logits``.
        """

    @abstractmethod
    def forward(self, network: NetworkFn, batch: Any, taps: Sequence[str] = (), *, first_tap: bool = False) -> Outputs:
        """Return a network's outputs for a batch; with names of taps, the network is a tapped one.

        Args:
            network: The network.
            batch: The batch.
            taps: The names of the taps.
            first_tap: Whether to set ``Outputs.first_tap``, if there are taps and they have a graph.
        """

    def with_teacher(self, batch: Any, teacher: Outputs | None) -> Any:
        """Return a batch with what the student's pass needs of the teacher's outputs."""
        return batch

    @abstractmethod
    def rows(self, student: Outputs, teacher: Outputs | None, batch: Any) -> Rows:
        """Return the rows that the objective compares."""

    def step(
        self, student: Outputs, teacher: Outputs | None, batch: Any, epoch: int, *, with_index: bool = False
    ) -> Step:
        """Return the input of the objective in a step; with the samples' indices only if ``with_index``."""
        rows = self.rows(student, teacher, batch)
        index = batch.index.to(rows.target.device, non_blocking=True) if with_index else None
        return Step(rows, student, teacher, index, epoch)

    @abstractmethod
    def step_metrics(self, rows: Rows) -> dict[str, Tensor]:
        """Return scalars about the rows of a step by name, without the prefix ``train/``."""

    @abstractmethod
    def prepare_reports(self, teacher: nn.Module | None) -> None:
        """Compute once the values with which the reports compare, such as the teacher's outputs for the test split."""

    @abstractmethod
    def epoch_report(self, network: nn.Module) -> dict[str, float]:
        """Measure a network on the test and validation splits."""

    def feature_cost(self, network: nn.Module) -> float | None:
        """Return the multiplications that keeping features takes in an epoch report; None if the task keeps none."""
        return None

    def feature_report(self, network: nn.Module, snapshots: int) -> FeatureReport:
        """Measure a network like ``epoch_report``, and keep penultimate features of test images from the same pass.

        Args:
            network: The network. It stays as it is, and no random numbers are drawn.
            snapshots: How often the run keeps features, which bounds the number of images.
        """
        return FeatureReport(self.epoch_report(network))

    def keep_teacher_features(self, snapshots: int) -> None:
        """Have ``prepare_reports`` keep the teacher's features too; ``snapshots`` is that of ``feature_report``."""
        return

    def teacher_features(self) -> NetworkFeatures | None:
        """Return the teacher's features, from the pass of ``prepare_reports``; None without any."""
        return None

    @abstractmethod
    def per_item(self, network: nn.Module) -> Mapping[str, NDArray[Any]]:
        """Return per-item results of a network and of the teacher; empty if the task keeps none.

        It is called at the end, after ``epoch_report`` of the same weights, whose outputs a task can use again.

        Returns:
            Values (N,) by column, in the order of the test split. The column ``item`` has the samples' indices in it.
        """

    def detections(self, network: nn.Module) -> DetectionTable | None:
        """Return the detections of a network and of the teacher in the test images; None if the task is not detection.

        It is called at the end, like ``per_item``. The fields that identify the run and its data are not set.
        """
        return None

    def pictures(self, network: nn.Module) -> Sequence[tuple[int, NDArray[np.uint8]]]:
        """Return some test images (height, width, 3) each with its index; none if the task shows no images.

        The first ones are kept if all of them take too much room.
        """
        return ()

    def logit_correlations(self, network: nn.Module) -> Mapping[str, NDArray[np.float16]]:
        """Return the correlations of the logits by network (``student``, ``teacher``); none if the task has none.

        It is called at the end, like ``per_item``.

        Returns:
            (C·(C−1)/2,) of each network, see ``core.items.correlations.Correlations``.
        """
        return {}

    @abstractmethod
    def extra_report(self, network: nn.Module, teacher: nn.Module | None, *, last: bool) -> dict[str, float]:
        """Return metrics that are measured less often: at the end of the training, or every few epochs."""

    @abstractmethod
    def check_teacher(self, network: nn.Module, weights: Any, report: Mapping[str, float]) -> tuple[str, ...]:
        """Return warnings about supplied weights that are handed out unchanged, given their epoch report.

        Raises:
            TrainingError: No student could learn from the weights.
        """

    @abstractmethod
    def with_expected_inputs(self, network: nn.Module, weights: Any) -> nn.Module:
        """Return a network behind the change of inputs that its supplied weights expect."""

    @abstractmethod
    def supplied_metadata(self, weights: Any, warnings: Sequence[str]) -> Metadata:
        """Return the metadata of a copy of supplied weights."""

    @abstractmethod
    def compare_checkpoint(self, metadata: Metadata) -> list[str]:
        """Return warnings if a run continues with other data than it began with.

        Raises:
            TrainingError: The data are of other classes.
        """

    @abstractmethod
    def metadata(self, network: nn.Module | None = None, headline: float | None = None) -> Metadata:
        """Return the metadata of a file with the run's weights.

        Args:
            network: The network whose weights they are; None if only the data matter.
            headline: The value of the headline metric.
        """

    @abstractmethod
    def data_identity(self) -> dict[str, str]:
        """Return texts that identify the data, by name, for the environment of the first event.

        That of ``core.events.IMAGES_KEY`` is always there, and differs where the samples do.
        """
