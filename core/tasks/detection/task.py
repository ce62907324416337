"""The detection of objects as a task: every compared box is one row."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from core.catalog.datasets import headline_of
from core.catalog.suggestions import suggest_name
from core.catalog.taps import expand, split_suffix
from core.distill.objective import NetworkShape, Outputs, Step
from core.distill.rows import Rows, to_loss_dtype
from core.errors import TrainingError
from core.items.detection_table import DetectionTable
from core.items.picture_choice import chosen_items
from core.specs import ModelRef, Training
from core.specs.regions import RegionOptions
from core.tasks.detection import data
from core.tasks.detection.data import DetectionData
from core.tasks.detection.data.fingerprint import image_identity
from core.tasks.detection.evaluation import Evaluation
from core.tasks.detection.fixed import BOXES, OFFSETS, VECTORS, FixedBoxes, decode_boxes, encode_boxes
from core.tasks.detection.identity import training_metadata
from core.tasks.detection.metrics.coco import check_library
from core.tasks.detection.models.detector import DEEPEST, Detector
from core.tasks.detection.networks import build_detector, features_once, multiplications
from core.tasks.detection.passes import DetectorPass
from core.tasks.detection.preflight import check_data_fits, check_detector, check_same_anchors, data_warnings, on_canvas
from core.tasks.detection.regions import RegionOutputs, label_boxes, objects_of, offset_targets, region_rows
from core.tasks.detection.supplied_weights import (
    InitialWeights,
    load_initial_weights,
    load_published_backbone,
    read_initial_weights,
)
from core.tasks.detection.teacher import load_teacher
from core.tasks.detection.types import DetectionBatch
from core.tasks.measured_split import named_by_split
from core.tasks.task import LoadedTeacher, NetworkFn, RunContext, Task, TeacherSource
from core.tasks.workload import Workload
from core.weights.data_comparison import compare_checkpoint
from core.weights.metadata import Metadata

GIVEN = 128
"""Proposals of the teacher on which the networks are compared, for each image."""


class DetectionTask(Task):
    """The images of a run with their objects.

    Args:
        context: The run.
        images: Its data.

    Raises:
        TrainingError: The data do not fit the spec.
    """

    has_fixed_shapes = False

    def __init__(self, context: RunContext, images: DetectionData) -> None:
        self.context, self.data = context, images
        self.headline = headline_of(context.spec.dataset.name, context.spec.dataset.params)
        self.train_size, self.test_size = len(images.train), len(images.test)
        self.device = images.device
        method = context.spec.method
        self._options = method.regions or RegionOptions()
        self._reads_offsets = any(member.entry.reads_offsets for member in method.members)
        self._compares_regions = any(
            member.entry.needs_teacher and not member.entry.reads_maps_alone for member in method.members
        )
        self._fixed = FixedBoxes(self._options)
        self._evaluation = Evaluation(images)

    @classmethod
    def load(cls, context: RunContext) -> Self:
        """Read the data set that a spec names.

        Raises:
            TrainingError: The data set cannot be read, or does not fit the spec; or the library that evaluates
                detections is not installed.
        """
        check_library()
        try:
            images = data.load(context.spec.dataset, context.settings)
        except data.DatasetError as error:
            raise TrainingError("error", str(error)) from error
        check_data_fits(context.spec, images)
        images = on_canvas(context.spec, images)
        for warning in data_warnings(context.spec, images):
            context.warn(warning)
        return cls(context, images)

    def to(self, device: torch.device) -> Self:
        """Return the task with its batches on a device."""
        return type(self)(self.context, self.data.to(device))

    # The network, and weights from elsewhere

    def read_supplied_weights(self) -> InitialWeights | None:
        """Read the weights that the spec names, and compare their classes with the data set's."""
        return read_initial_weights(self.context, self.data)

    def build_network(self, weights: InitialWeights | None = None, resumed: Metadata | None = None) -> Detector:
        """Build the run's detector; a new one may start from a published backbone."""
        detector = self.build_another(self.context.spec.model)
        if weights is None and resumed is None:
            load_published_backbone(self.context, detector)
        return detector

    def build_another(self, model: ModelRef) -> Detector:
        """Build a detector of the catalog for the data set's classes."""
        return build_detector(model, self.data.num_classes)

    def load_supplied_weights(self, network: nn.Module, weights: InitialWeights) -> None:
        """Load the weights, and log what did not match."""
        assert isinstance(network, Detector)
        load_initial_weights(self.context, network, weights)

    def with_expected_inputs(self, network: nn.Module, weights: InitialWeights) -> nn.Module:
        """Return the network: a detector normalises its images itself."""
        return network.to(self.device)

    def check_teacher(
        self, network: nn.Module, weights: InitialWeights, report: Mapping[str, float]
    ) -> tuple[str, ...]:
        """Return a warning about weights that find nothing."""
        if report[self.headline] > 0:
            return ()
        return (f"these weights find no object of the data set: {self.headline} is 0",)

    def supplied_metadata(self, weights: InitialWeights, warnings: Sequence[str]) -> Metadata:
        """Return the metadata of the original file with the warnings added."""
        return weights.metadata(warnings)

    def check_network(self, network: nn.Module) -> None:
        """Check that the detector can compute the loss of a batch."""
        assert isinstance(network, Detector)
        check_detector(self.context.spec, network, self.data)

    def tapped(self, network: nn.Module, names: Sequence[str]) -> nn.Module:
        """Return the detector itself: the levels of its pyramid are what it computes anyway."""
        assert isinstance(network, Detector)
        for name in names:
            if (level := split_suffix(name)[0]) not in network.levels:
                problem = suggest_name(level, dict.fromkeys(network.levels, ()))
                raise TrainingError("spec", f"the detector has no level {level!r}; {problem}")
        return network

    def network_shape(self, network: nn.Module, names: Sequence[str]) -> NetworkShape:
        """Return the number of classes and the shapes of the levels for the largest images of the data.

        No activation ends a level, so that its map before the activation is its output.
        """
        assert isinstance(network, Detector)
        names = expand(names, network.levels)
        self.tapped(network, names)
        if not names:
            return NetworkShape(self.data.num_classes)
        features = features_once(network, self.data.largest)
        shapes = {name: features[split_suffix(name)[0]].shape[1:] for name in names}
        return NetworkShape(self.data.num_classes, shapes, sizes_vary=network.fixed_size is None)

    def teacher_shape(self, network: nn.Module, names: Sequence[str]) -> NetworkShape:
        """Return the shapes of a teacher's outputs: fixed boxes give vectors of an image."""
        shape = self.network_shape(network, names)
        if not self._keeps_teacher:
            return shape
        count = self._options.fixed_count
        vectors = {BOXES: torch.Size([8 * count])}
        if self._reads_offsets:
            vectors[OFFSETS] = torch.Size([4 * count * self.data.num_classes])
        return replace(shape, num_classes=count * self.data.num_classes, taps={**shape.taps, **vectors})

    def load_teacher(self, source: TeacherSource) -> LoadedTeacher:
        """Build the teacher's detector; its outputs are kept if they are of fixed boxes."""
        network, key = load_teacher(self.context, source, self.data)
        network.to(self.device).eval().requires_grad_(False)
        self.check_teacher_network(source.spec.model.name, network)
        return LoadedTeacher(network, key | {"regions": self._options.of_boxes} if self._keeps_teacher else None)

    def check_teacher_network(self, model: str, network: nn.Module) -> None:
        """Check that a detector gives what the method compares, on the student's anchors if it has no proposals."""
        assert isinstance(network, Detector)
        if not self._compares_regions:
            return
        if not network.gives_regions:
            raise TrainingError(
                "spec",
                f"{model} gives no logits of boxes, which {self.context.spec.method.name} compares; "
                "choose another detector as the teacher, or a method that reads maps",
            )
        self._check_anchors(network)

    def _check_anchors(self, teacher: Detector) -> None:
        """Check that the teacher can be asked about the student's anchors. torch's random state stays as it is."""
        if not teacher.two_stage:
            with torch.random.fork_rng(devices=[]):
                check_same_anchors(self.context.spec, self.build_another(self.context.spec.model), teacher, self.data)

    # The steps

    def workload(self, network: nn.Module, weights: InitialWeights | None = None, *, count_products: bool) -> Workload:
        """Return the workload of one process, for the largest images of the data."""
        assert isinstance(network, Detector)
        training, size = self.context.spec.training, self.data.largest
        products = multiplications(network, size) * training.batch_size if count_products else math.inf
        steps = math.ceil(self.train_size / training.batch_size)
        return Workload(training.epochs * self.train_size, steps, max(size), products)

    def example(self, count: int) -> Tensor:
        """Return images (count, 3, H, W) of the largest size."""
        return torch.zeros(count, 3, *self.data.largest, device=self.device)

    def batches(
        self,
        training: Training,
        data_seed: int,
        epoch: int,
        start: int,
        share: Callable[[int], slice],
        *,
        strong_view: bool = False,
    ) -> Generator[DetectionBatch]:
        """Yield the training batches of one epoch."""
        self._evaluation.forget()
        return self.data.batches(training.batch_size, data_seed, epoch, training.augment, start=start, share=share)

    def forward(
        self, network: NetworkFn, batch: DetectionBatch, taps: Sequence[str] = (), *, first_tap: bool = False
    ) -> Outputs:
        """Return the logits (R, C) of the regions, their offsets, the levels by name and the detector's own terms.

        A teacher of fixed boxes gives the vectors of ``core.tasks.detection.fixed`` in place of the regions'.
        """
        done: DetectorPass = network(batch)
        keys = {name: split_suffix(name)[0] for name in taps}
        levels = {name: to_loss_dtype(done.features[key]) for name, key in keys.items() if key in done.features}
        if not done.detector.training:
            return self._teacher_outputs(done, batch, levels)
        found = done.found
        edge = get_gradient_edge(done.features[DEEPEST]) if first_tap and taps else None
        return Outputs(found.logits, levels, edge, found.offsets, done.own_terms, found)

    def _teacher_outputs(self, done: DetectorPass, batch: DetectionBatch, levels: dict[str, Tensor]) -> Outputs:
        if not self._keeps_teacher:
            return Outputs(batch.images.new_zeros(0, self.data.num_classes), levels, extra=done)
        proposals = done.proposals()
        boxes = self._fixed.draw(batch, proposals)
        regions = done.regions(boxes.unbind())
        images = len(boxes)
        vectors = {BOXES: encode_boxes(boxes, batch.images.shape[-2:])}
        if self._reads_offsets:
            vectors[OFFSETS] = regions.offsets.reshape(images, -1)
        return Outputs(regions.logits.reshape(images, -1), {**levels, **vectors})

    def with_teacher(self, batch: DetectionBatch, teacher: Outputs | None) -> DetectionBatch:
        """Return the batch with the boxes that the teacher gives."""
        if teacher is None or not self._compares_regions or self._options.boxes == "student":
            return batch
        if self._keeps_teacher:
            boxes = decode_boxes(teacher.taps[BOXES], batch.images.shape[-2:]).unbind()
        else:
            boxes = tuple(own[:GIVEN] for own in teacher.extra.proposals())
        return replace(batch, given=boxes)

    def rows(self, student: Outputs, teacher: Outputs | None, batch: DetectionBatch) -> Rows:
        """Return one row per region."""
        return self.step(student, teacher, batch, 0).rows

    def step(
        self, student: Outputs, teacher: Outputs | None, batch: DetectionBatch, epoch: int, *, with_index: bool = False
    ) -> Step:
        """Return the input of the objective in a step, with the teacher's logits for the student's boxes."""
        found = replace(student.extra, logits=student.logits, offsets=student.offsets)
        labels = label_boxes(batch.given, batch.targets) if batch.given is not None else None
        seen = teacher
        if teacher and self._compares_regions:
            logits, offsets = self._teacher_regions(found, teacher, batch)
            levels = {name: tap for name, tap in teacher.taps.items() if name not in VECTORS}
            seen = Outputs(logits, levels, offsets=offsets)
        elif teacher:
            seen = Outputs(torch.zeros_like(found.logits), teacher.taps)
        rows = region_rows(found, seen.logits if seen else None, labels, compares_sampled=self._compares_sampled)
        index = batch.index.to(self.device, non_blocking=True) if with_index else None
        targets = offset_targets(found, labels)
        return Step(rows, student, seen, index, epoch, objects_of(batch), targets, sample_rows=False)

    @torch.no_grad()
    def _teacher_regions(
        self, found: RegionOutputs, teacher: Outputs, batch: DetectionBatch
    ) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's logits and offsets of all regions, with zeros where they are not compared."""
        logits, offsets = torch.zeros_like(found.logits), torch.zeros_like(found.offsets)
        count = 0 if found.sampled is None else len(found.sampled.logits)
        if self._keeps_teacher:
            logits[count:] = teacher.logits.reshape(-1, self.data.num_classes)
            if not self._reads_offsets:
                return logits, None
            offsets[count:] = teacher.taps[OFFSETS].reshape(-1, self.data.num_classes, 4)
            return logits, offsets
        own = found.sampled.split(len(batch.sizes)) if found.sampled and self._compares_sampled else None
        for places, boxes in ((slice(0, count), own), (slice(count, None), batch.given)):
            if boxes is not None:
                regions = teacher.extra.regions(boxes)
                logits[places], offsets[places] = regions.logits.to(logits.dtype), regions.offsets.to(offsets.dtype)
        return logits, offsets

    @property
    def _compares_sampled(self) -> bool:
        return self._options.boxes in ("student", "union")

    @property
    def _keeps_teacher(self) -> bool:
        """Whether the teacher's outputs are vectors of fixed boxes."""
        return self._compares_regions and self._options.boxes == "fixed"

    def step_metrics(self, rows: Rows) -> dict[str, Tensor]:
        """Return the accuracy of the student's classes on the boxes of its own training, in %; nothing without any."""
        if not len(rows.target):
            return {}
        of_labels = rows.for_labels
        right = (of_labels.student.detach().argmax(1) == of_labels.label).float() * 100
        weight = of_labels.relative_weight
        return {"region_top1": (right if weight is None else right * weight).mean()}

    # The reports

    def prepare_reports(self, teacher: nn.Module | None) -> None:
        """Compute the teacher's detections of the test images."""
        if teacher:
            assert isinstance(teacher, Detector)
            self._evaluation.add_teacher(teacher)

    def epoch_report(self, network: nn.Module) -> dict[str, float]:
        """Measure a detector on the test and validation images."""
        assert isinstance(network, Detector)
        return named_by_split(self._evaluation.report(network), self.headline)

    def per_item(self, network: nn.Module) -> Mapping[str, NDArray[Any]]:
        """Return counts for each test image, by column."""
        assert isinstance(network, Detector)
        return self._evaluation.per_image(network)

    def detections(self, network: nn.Module) -> DetectionTable:
        """Return the objects of the test images, with the detections of the network and of the teacher."""
        assert isinstance(network, Detector)
        return self._evaluation.detections(network)

    def pictures(self, network: nn.Module) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return some test images."""
        test = self.data.test
        return [(number, test.image(number).permute(1, 2, 0).numpy()) for number in chosen_items(len(test))]

    def extra_report(self, network: nn.Module, teacher: nn.Module | None, *, last: bool) -> dict[str, float]:
        """Measure errors by kind and calibration at the end."""
        assert isinstance(network, Detector)
        return self._evaluation.final_report(network) if last else {}

    # The identity of the data

    def metadata(self, network: nn.Module | None = None, headline: float | None = None) -> Metadata:
        """Return classes and data of the run for its weights."""
        return training_metadata(self.context.spec, self.data)

    def compare_checkpoint(self, metadata: Metadata) -> list[str]:
        """Return a warning if the images are not those of the checkpoint."""
        return compare_checkpoint(metadata, self.data.classes, self.data.content_hash)

    def data_identity(self) -> dict[str, str]:
        """Return the hash of the images and boxes, and what decoded them."""
        return image_identity(self.data)
