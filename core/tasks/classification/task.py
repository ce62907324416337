"""The classification of images as a task: every image is one row."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog.datasets import headline_of
from core.catalog.taps import STRONG_LOGITS
from core.distill.mixed_labels import with_both_labels
from core.distill.objective import NetworkShape, Outputs, Step
from core.distill.rows import Rows, to_loss_dtype
from core.errors import TrainingError
from core.items.correlations import MOST_CLASSES
from core.items.features import FINAL, NetworkFeatures
from core.specs import ModelRef, Training
from core.tasks.classification import data, models
from core.tasks.classification.data import Batch, Dataset
from core.tasks.classification.data.class_names import class_names
from core.tasks.classification.diagnostics.accuracy import top_accuracies
from core.tasks.classification.diagnostics.correlations import correlations
from core.tasks.classification.diagnostics.inference import predict_logits, predict_taps
from core.tasks.classification.diagnostics.penultimate import (
    Capture,
    ChosenImages,
    choose_images,
    last_layer,
    measured_images,
    take_snapshot,
)
from core.tasks.classification.diagnostics.per_item import item_columns
from core.tasks.classification.diagnostics.report import collapse_report, epoch_report, final_report
from core.tasks.classification.diagnostics.robustness import RobustnessInputs, robustness_inputs
from core.tasks.classification.diagnostics.thumbnails import thumbnail_items, thumbnails
from core.tasks.classification.models.heads import head_form
from core.tasks.classification.models.taps import Tapped
from core.tasks.classification.networks import build_network, forward_multiplications, network_shape
from core.tasks.classification.preflight import check_dataset_fits, check_last_batch
from core.tasks.classification.supplied_weights import (
    InitialWeights,
    read_initial_weights,
    with_supplied_normalization,
)
from core.tasks.classification.teacher import adapt_teacher_input, load_teacher
from core.tasks.classification.teacher_check import sample_test_logits, teacher_warnings
from core.tasks.classification.teacher_input import input_format_of
from core.tasks.classification.weights_metadata import image_identity, training_metadata
from core.tasks.measured_split import named_by_split
from core.tasks.task import FeatureReport, LoadedTeacher, NetworkFn, RunContext, Task, TeacherSource
from core.tasks.workload import Workload
from core.turns import shared
from core.weights.data_comparison import compare_checkpoint
from core.weights.errors import WeightsError
from core.weights.metadata import Metadata


class ClassificationTask(Task):
    """The images of a run.

    Args:
        context: The run.
        dataset: Its images.

    Raises:
        TrainingError: The data set does not fit the spec.
    """

    def __init__(self, context: RunContext, dataset: Dataset) -> None:
        self.context, self.dataset = context, dataset
        self.headline = headline_of(context.spec.dataset.name, context.spec.dataset.params)
        self.train_size, self.test_size = len(dataset.train), len(dataset.test)
        self.device = dataset.device
        self._teacher_logits: Tensor | None = None
        # Logits of the test images by network. The next step would make them out of date.
        self._test_logits: dict[nn.Module, Tensor] = {}
        self._robustness = RobustnessInputs()
        self._teacher_snapshots = 0
        self._teacher_features: NetworkFeatures | None = None
        self._chosen: dict[tuple[int, int], ChosenImages] = {}  # by length of the features and number of snapshots

    @classmethod
    def load(cls, context: RunContext) -> Self:
        """Read the data set that a spec names.

        Raises:
            TrainingError: The data set cannot be read, or does not fit the spec.
        """
        spec = context.spec
        try:
            dataset = shared(
                ("images", spec.dataset.model_dump_json()), lambda: data.load(spec.dataset, context.settings)
            )
        except data.DatasetError as error:
            raise TrainingError("error", str(error)) from error
        check_dataset_fits(spec, dataset)
        if spec.weights and spec.weights.fine_tune:
            dataset = with_supplied_normalization(spec.weights, dataset)
        return cls(context, dataset)

    def to(self, device: torch.device) -> Self:
        """Return the task with its batches on a device."""
        spec = self.context.spec
        weights = spec.weights.model_dump_json() if spec.weights else ""  # they may bring another normalisation
        key = ("images", spec.dataset.model_dump_json(), weights, str(device))
        return type(self)(self.context, shared(key, lambda: self.dataset.to(device)))

    # The network, and weights from elsewhere

    def read_supplied_weights(self) -> InitialWeights | None:
        """Read the weights that the spec names, and compare their classes and images with the data set's."""
        weights = self.context.spec.weights
        return read_initial_weights(self.context, weights, self.dataset) if weights else None

    def build_network(self, weights: InitialWeights | None = None, resumed: Metadata | None = None) -> models.Network:
        """Build the run's network for the images that the weights expect, with the head that they are of."""
        origin = weights.weights.metadata if weights else resumed
        expected, head = weights.input if weights else None, origin.head if origin else None
        return build_network(self.context.spec.model, self.dataset, expected, head)

    def build_another(self, model: ModelRef) -> models.Network:
        """Build a network of the catalog for the data set's images."""
        return build_network(model, self.dataset)

    def load_supplied_weights(self, network: nn.Module, weights: InitialWeights) -> None:
        """Load the weights, and log which keys did not match."""
        chosen = self.context.spec.weights
        assert isinstance(network, models.Network)
        assert chosen
        try:
            notes = models.load_supplied(
                network,
                weights.weights,
                any_classes=chosen.fine_tune,
                allow_download=self.context.settings.download,
                fresh_last_layer=weights.fresh_last_layer,
            )
        except WeightsError as error:
            raise TrainingError("spec", f"the teacher's weights: {error}") from error
        use = "trained on" if chosen.fine_tune else "used as they are"
        self.context.log("; ".join((f"weights from {chosen.source}, {use}", *notes)), "info")

    def with_expected_inputs(self, network: nn.Module, weights: InitialWeights) -> nn.Module:
        """Return the network behind the change of images that its weights expect."""
        shown = input_format_of(self.dataset)
        return adapt_teacher_input(network, shown, weights.input).to(self.device)

    def check_teacher(
        self, network: nn.Module, weights: InitialWeights, report: Mapping[str, float]
    ) -> tuple[str, ...]:
        """Return warnings about an accuracy at chance, below the claimed one, or with permuted classes."""
        logits = sample_test_logits(network, self.dataset)
        return tuple(teacher_warnings(logits, self.dataset, report[self.headline], weights.weights.metadata.top1))

    def supplied_metadata(self, weights: InitialWeights, warnings: Sequence[str]) -> Metadata:
        """Return the metadata of the original file with the warnings added."""
        extended = replace(weights, warnings=(*weights.warnings, *warnings))
        return extended.metadata(self.context.spec, self.dataset)

    def check_network(self, network: nn.Module) -> None:
        """Check that batch norm can compute statistics of the last batch of an epoch."""
        assert isinstance(network, models.Network)
        if not self.context.spec.uses_weights_unchanged:
            check_last_batch(self.context.spec, self.dataset, network)

    def tapped(self, network: nn.Module, names: Sequence[str]) -> nn.Module:
        """Return the network with hooks on the tapped layers."""
        return Tapped(network, names)

    def network_shape(self, network: nn.Module, names: Sequence[str]) -> NetworkShape:
        """Return the shapes of logits and taps, and the last linear layer."""
        return network_shape(network, names, self.dataset)

    def training_labels(self) -> Tensor:
        """Return the class of each training image."""
        return self.dataset.train.labels

    def outputs_of(self, network: nn.Module, names: Sequence[str], index: Tensor) -> Outputs:
        """Return a network's logits and taps for training images without augmentation."""
        return predict_taps(network, names, self.dataset, self.dataset.train, index)

    def load_teacher(self, source: TeacherSource) -> LoadedTeacher:
        """Build the teacher's network, behind the images that its weights expect."""
        return load_teacher(self.context, source, self.dataset)

    # The steps

    def workload(self, network: nn.Module, weights: InitialWeights | None = None, *, count_products: bool) -> Workload:
        """Return the workload of one process, whose images have the size that the weights expect."""
        training, shown = self.context.spec.training, self.dataset
        if weights and weights.input:
            shown = replace(shown, upscaled_size=weights.input.image_size)
        products = forward_multiplications(network, shown) * training.batch_size if count_products else math.inf
        steps = math.ceil(self.train_size / training.batch_size)
        return Workload(training.epochs * self.train_size, steps, shown.image_size, products)

    def example(self, count: int) -> Tensor:
        """Return images (count, channels, H, W)."""
        dataset = self.dataset
        return torch.zeros(count, dataset.channels, dataset.image_size, dataset.image_size, device=self.device)

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
        """Yield the training batches of one epoch."""
        self._test_logits.clear()
        strong, size = training.strong_augment if strong_view else None, training.batch_size
        return self.dataset.batches(size, data_seed, epoch, training.augment, start=start, share=share, strong=strong)

    def forward(
        self, network: NetworkFn, batch: Batch, taps: Sequence[str] = (), *, first_tap: bool = False
    ) -> Outputs:
        """Return the logits (B, C) and the taps by name."""
        if not taps:
            return Outputs(network(batch.images))
        if STRONG_LOGITS in taps:
            assert batch.strong is not None
            images = torch.cat((batch.images, batch.strong))
        else:
            images = batch.images
        logits, *values = network(images, first=True) if first_tap else network(images)
        edge = values.pop() if first_tap else None
        # A method's own layers are in float32, also if the network computes in 16 bits.
        taps_by_name = {name: to_loss_dtype(value) for name, value in zip(taps, values, strict=True)}
        return Outputs(logits, taps_by_name, edge)

    def rows(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Rows:
        """Return one row per image."""
        smoothing = self.context.spec.training.label_smoothing
        return Rows(student.logits, teacher.logits if teacher else None, batch.labels, label_smoothing=smoothing)

    def step(
        self, student: Outputs, teacher: Outputs | None, batch: Batch, epoch: int, *, with_index: bool = False
    ) -> Step:
        """Return the input of the objective in a step; a mixture of two images has a row for each of its labels."""
        step = super().step(student, teacher, batch, epoch, with_index=with_index)
        return with_both_labels(step, batch.mixed) if batch.mixed else step

    def step_metrics(self, rows: Rows) -> dict[str, Tensor]:
        """Return the accuracy of a step in %."""
        return top_accuracies(rows.student.detach(), rows.target, rows.relative_weight)

    # The reports

    def prepare_reports(self, teacher: nn.Module | None) -> None:
        """Compute the teacher's logits of the test images, and read the images of the robustness measurements."""
        if teacher and self._teacher_snapshots:
            self._teacher_logits, found = self._with_features(teacher, self._teacher_snapshots)
            if found.images and found.snapshot:
                self._teacher_features = NetworkFeatures(found.images, {FINAL: found.snapshot})
        elif teacher:
            self._teacher_logits = predict_logits(teacher, self.dataset, self.dataset.test)
        try:
            self._robustness = robustness_inputs(self.context.spec.training, self.dataset, self.context.settings)
        except ValueError as error:
            raise TrainingError("spec", str(error)) from error

    def epoch_report(self, network: nn.Module) -> dict[str, float]:
        """Measure accuracy, loss, calibration and fidelity with one pass over the test and validation images."""
        self._test_logits[network] = logits = predict_logits(network, self.dataset, self.dataset.test)
        return named_by_split(epoch_report(network, self.dataset, self._teacher_logits, logits), self.headline)

    def feature_cost(self, network: nn.Module) -> float | None:
        """Return the products of the measured features with the class means, of which there are at most C."""
        layer = last_layer(network)
        if layer is None:
            return None
        return float(measured_images(self.test_size, layer.in_features)) * layer.in_features * self.dataset.num_classes

    def feature_report(self, network: nn.Module, snapshots: int) -> FeatureReport:
        """Measure as ``epoch_report`` does, and take the features from its pass over the test images."""
        self._test_logits[network], found = self._with_features(network, snapshots)
        values = epoch_report(network, self.dataset, self._teacher_logits, self._test_logits[network])
        return replace(found, values=values)

    def keep_teacher_features(self, snapshots: int) -> None:
        self._teacher_snapshots = snapshots

    def teacher_features(self) -> NetworkFeatures | None:
        return self._teacher_features

    def _with_features(self, network: nn.Module, snapshots: int) -> tuple[Tensor, FeatureReport]:
        """Return the logits of the test images (N, C), and the features without metrics."""
        layer, test = last_layer(network), self.dataset.test
        if layer is None:
            return predict_logits(network, self.dataset, test), FeatureReport({})
        key = (layer.in_features, snapshots)
        if key not in self._chosen:
            labels = test.labels.cpu().numpy()
            self._chosen[key] = choose_images(labels, *key)
        chosen = self._chosen[key]
        capture = Capture(layer, chosen.captured)
        with capture.watching():
            logits = predict_logits(network, self.dataset, test)
        features = capture.features()
        if features is None:
            return logits, FeatureReport({})
        snapshot = take_snapshot(features, chosen, test.labels, logits, layer.weight)
        return logits, FeatureReport({}, chosen.images, snapshot)

    def per_item(self, network: nn.Module) -> dict[str, NDArray[Any]]:
        """Return the columns of ``item_columns``, from the logits of the last epoch report if it is of this network."""
        return item_columns(self._logits_of(network), self.dataset.test.labels, self._teacher_logits)

    def pictures(self, network: nn.Module) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return test images on which the network and the teacher differ, and then some that the network gets wrong."""
        chosen = thumbnail_items(self._logits_of(network), self.dataset.test.labels, self._teacher_logits)
        return thumbnails(self.dataset.test, chosen)

    def logit_correlations(self, network: nn.Module) -> dict[str, NDArray[np.float16]]:
        """Return how the logits of each two classes correlate over the test images."""
        if self.dataset.num_classes > MOST_CLASSES:
            return {}
        networks = {"student": self._logits_of(network)}
        if self._teacher_logits is not None:
            networks["teacher"] = self._teacher_logits
        return {name: correlations(logits) for name, logits in networks.items()}

    def _logits_of(self, network: nn.Module) -> Tensor:
        """Return the logits of the test images, from the last epoch report if it is of this network."""
        if network not in self._test_logits:
            self._test_logits[network] = predict_logits(network, self.dataset, self.dataset.test)
        return self._test_logits[network]

    def extra_report(self, network: nn.Module, teacher: nn.Module | None, *, last: bool) -> dict[str, float]:
        """Measure neural collapse; at the end, robustness too if the spec asks for it."""
        assert isinstance(network, models.Network)
        if last:
            return final_report(network, teacher, self.dataset, self._robustness)
        return collapse_report(network, self.dataset)

    # The identity of the data

    def metadata(self, network: nn.Module | None = None, headline: float | None = None) -> Metadata:
        """Return classes, images, accuracy and the form of the head for the run's weights."""
        metadata = training_metadata(self.context.spec, self.dataset, headline)
        return replace(metadata, head=head_form(network)) if network else metadata

    def compare_checkpoint(self, metadata: Metadata) -> list[str]:
        """Return a warning if the images are not those of the checkpoint."""
        classes = class_names(self.context.spec.dataset, self.dataset)
        return compare_checkpoint(metadata, classes, self.dataset.content_hash)

    def data_identity(self) -> dict[str, str]:
        """Return the hash of the images, and what decoded them."""
        return image_identity(self.dataset)
