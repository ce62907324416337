"""Weights from elsewhere as a run's initial weights: whose classes they have, and the images that they expect."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from core.errors import TrainingError
from core.specs import RunSpec, Weights
from core.tasks.classification import models
from core.tasks.classification.data import Dataset
from core.tasks.classification.data.class_names import class_names
from core.tasks.classification.models.published_weights import imagenet_class_names, published_classes, published_input
from core.tasks.classification.models.weights import PRETRAINED
from core.tasks.classification.teacher_input import input_format_of
from core.tasks.task import RunContext
from core.weights.metadata import InputFormat, Metadata, describe_class_differences, interpolation

_WORDNET = re.compile(r"n\d{8}")
_MIN_SHARED = 0.5  # share of a data set's class names from which they count as ImageNet's


@dataclass(frozen=True)
class InitialWeights:
    """Weights that were read for a run, compared with its data set.

    Attributes:
        weights: The weights.
        input: The images that the network expects; None for those of the data set.
        fresh_last_layer: Whether the last layer has other classes and is trained from fresh weights.
        warnings: What users of the weights should know.
    """

    weights: models.SuppliedWeights
    input: InputFormat | None
    fresh_last_layer: bool = False
    warnings: tuple[str, ...] = ()

    def metadata(self, spec: RunSpec, dataset: Dataset) -> Metadata:
        """Return the metadata for a copy of the weights: those of the original, never the names of this data set.

        If the original names no classes, the copy records the classes that this run assumed.
        """
        original = self.weights.metadata
        return replace(
            original,
            input=self.input or replace(input_format_of(dataset), known_from="assumed"),
            assumed_classes=() if original.classes else class_names(spec.dataset, dataset),
            notes=self.warnings,
        )


def read_initial_weights(context: RunContext, weights: Weights, dataset: Dataset) -> InitialWeights:
    """Read the weights that a run starts from, and compare them with its data set.

    Args:
        context: The run; warnings go to its log.
        weights: The part of the spec that names them.
        dataset: The data set.

    Raises:
        TrainingError: The weights cannot be read, or have other classes and are to be used unchanged.
    """
    spec = context.spec
    try:
        supplied = models.read_source(weights.source, weights.sha256, context.settings)
    except models.WeightsError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error
    warnings: list[str] = []
    difference = _class_difference(supplied, spec, weights, dataset, warnings)
    if difference and not weights.fine_tune:
        raise TrainingError(
            "spec",
            f"the teacher's weights: {weights.source} has other classes than the data set: {difference}. A student "
            "would learn to name the wrong classes; use a teacher with these classes, or fine_tune: true",
        )
    if difference:
        warnings.append(f"the weights have other classes, so the last layer starts from fresh weights: {difference}")
    expected = None if weights.fine_tune else _expected_input(context, supplied, weights, dataset, warnings)
    for warning in warnings:
        context.warn(warning)
    return InitialWeights(supplied, expected, bool(difference), tuple(warnings))


def _class_difference(
    supplied: models.SuppliedWeights, spec: RunSpec, weights: Weights, dataset: Dataset, warnings: list[str]
) -> str:
    """Describe how the weights' classes differ from the data set's; "" if they do not, or if it cannot be known."""
    names, metadata = class_names(spec.dataset, dataset), supplied.metadata
    if weights.source == PRETRAINED:
        if weights.fine_tune:
            return ""
        return _published_class_difference(spec.model.name, names, dataset.num_classes, warnings)
    if metadata.classes:
        return describe_class_differences(metadata.classes, names)
    if metadata.assumed_classes and (difference := describe_class_differences(metadata.assumed_classes, names)):
        warnings.append(f"an earlier run assumed other classes for these weights than this run does: {difference}")
    return ""


def _published_class_difference(model: str, names: tuple[str, ...], count: int, warnings: list[str]) -> str:
    published = published_classes(model)
    if published and published != count:
        return f"the published weights of {model} are for {published} classes, not for {count}"
    if published != 1000 or not names:
        return ""
    differences = [
        (describe_class_differences(imagenet, names), len(set(imagenet) & set(names)))
        for imagenet in imagenet_class_names()
    ]
    if not differences or any(not difference for difference, _ in differences):
        return ""
    difference, shared = max(differences, key=lambda item: item[1])
    if shared >= _MIN_SHARED * count or all(_WORDNET.fullmatch(name) for name in names):
        return difference
    warnings.append(
        f"the published weights of {model} are for ImageNet's classes; those of this data set "
        f"({', '.join(names[:3])} …) have other names, so it cannot be checked whether they are the same"
    )
    return ""


def _expected_input(
    context: RunContext, supplied: models.SuppliedWeights, weights: Weights, dataset: Dataset, warnings: list[str]
) -> InputFormat:
    """Return the images that weights expect: from the spec, else from the file, else from the published weights."""
    own, recorded, in_spec = input_format_of(dataset), supplied.metadata.input, _input_in_spec(weights, dataset)
    known = recorded if recorded and recorded.known_from != "assumed" else None
    if known and len(known.mean) != dataset.channels:
        known = None
    if known is None:
        known = _published_input(context.spec.model.name, weights, dataset)
        if known and weights.source != PRETRAINED:
            context.log(
                f"the weights are assumed to expect the same images as the published weights of "
                f"{context.spec.model.name}",
                "info",
            )
    expected = known or own
    if in_spec:
        expected = replace(in_spec, image_size=expected.image_size, interpolation=expected.interpolation)
    if weights.image_size:
        expected = replace(expected, image_size=weights.image_size)
    if weights.interpolation:
        expected = replace(expected, interpolation=interpolation(weights.interpolation))
    if known is None and in_spec is None:
        warnings.append(
            "it is not known how the images of these weights are to be normalised, so this data set's own mean and std "
            f"are used ({own}); if others are right, the teacher's logits are wrong: teacher.weights.mean and std set "
            "them"
        )
        expected = replace(expected, known_from="assumed")
    if not expected.same_images(own):
        context.log(
            f"the teacher is shown the views with {expected} ({expected.known_from}), and its students with {own}",
            "info",
        )
    return expected


def with_supplied_normalization(weights: Weights, dataset: Dataset) -> Dataset:
    """Return the data set with the mean and std that a spec gives for weights to be trained on.

    Raises:
        TrainingError: The mean and std have another number of channels than the images.
    """
    in_spec = _input_in_spec(weights, dataset)
    return replace(dataset, mean=in_spec.mean, std=in_spec.std) if in_spec else dataset


def _input_in_spec(weights: Weights, dataset: Dataset) -> InputFormat | None:
    """Return the images that weights expect according to the spec; None if it gives no mean and std."""
    if not weights.mean or not weights.std:
        return None
    if len(weights.mean) != dataset.channels:
        text = f"mean and std have {len(weights.mean)} numbers, and the images {dataset.channels} channels"
        raise TrainingError("spec", f"the teacher's weights: {text}")
    return InputFormat(weights.mean, weights.std, dataset.image_size, known_from="given")


def _published_input(model: str, weights: Weights, dataset: Dataset) -> InputFormat | None:
    """Return the images that the published weights expect; also for a file, if the numbers of classes are equal."""
    published = published_input(model)
    if published is None or len(published.mean) != dataset.channels:
        return None
    if weights.source != PRETRAINED and published_classes(model) != dataset.num_classes:
        return None
    return published
