"""Weights from elsewhere in a run: whose classes they are of, and the images that they expect."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from core import models
from core.data import Dataset
from core.data.class_names import class_names
from core.models.metadata import InputFormat, Metadata, describe_class_differences, interpolation
from core.models.published_weights import imagenet_class_names, published_classes, published_input
from core.models.weights import PRETRAINED
from core.specs import RunSpec, Weights
from core.training.errors import TrainingError
from core.training.teacher_input import input_format_of

Say = Callable[[str, Literal["info", "warning"]], object]

_WORDNET = re.compile(r"n\d{8}")
_IN_COMMON = 0.5  # share of the names of a data set from which they are taken for ImageNet's


@dataclass(frozen=True)
class SuppliedWeights:
    """Weights that were read for a run, compared with its data set.

    Attributes:
        weights: what was read.
        input: the images that the network is to be shown; None for the data set's own.
        fresh_last_layer: whether the weights' last layer is of other classes, and is learnt from the beginning.
        warnings: what those should know who use the weights.
    """

    weights: models.SuppliedWeights
    input: InputFormat | None
    fresh_last_layer: bool = False
    warnings: tuple[str, ...] = ()

    def metadata(self, spec: RunSpec, dataset: Dataset) -> Metadata:
        """What a copy of the weights should say of itself: what they said before, never the names of this data set.

        Where they named no classes, the copy says what this run took their logits for.
        """
        told = self.weights.metadata
        return replace(
            told,
            input=self.input or replace(input_format_of(dataset), known_from="assumed"),
            assumed_classes=() if told.classes else class_names(spec.dataset, dataset),
            notes=self.warnings,
        )


def read_supplied_weights(spec: RunSpec, weights: Weights, dataset: Dataset, say: Say) -> SuppliedWeights:
    """Read the weights that a run starts from, and compare them with its data set.

    Args:
        say: takes what a person should know, into the run's log.

    Raises TrainingError where they cannot be had, or are of other classes and are to be used as they are.
    """
    try:
        given = models.read_source(weights.source, weights.sha256)
    except models.WeightsError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error
    warnings: list[str] = []
    difference = _other_classes(given, spec, weights, dataset, warnings)
    if difference and not weights.fine_tune:
        raise TrainingError(
            "spec",
            f"the teacher's weights: {weights.source} is of other classes than the data set: {difference}. A student "
            "would learn the wrong names; use a teacher of these classes, or train it on with fine_tune: true",
        )
    if difference:
        warnings.append(f"the weights are of other classes, so the last layer begins fresh: {difference}")
    wanted = _input(given, spec, weights, dataset, warnings, say)
    for warning in warnings:
        say(warning, "warning")
    return SuppliedWeights(given, wanted, bool(difference), tuple(warnings))


def _other_classes(
    given: models.SuppliedWeights, spec: RunSpec, weights: Weights, dataset: Dataset, warnings: list[str]
) -> str:
    """How the weights' classes differ from the data set's; "" where they do not, or where nobody can know."""
    ours, told = class_names(spec.dataset, dataset), given.metadata
    if weights.source == PRETRAINED:
        if weights.fine_tune:
            return ""
        return _other_than_published(spec.model.name, ours, dataset.num_classes, warnings)
    if told.classes:
        return describe_class_differences(told.classes, ours)
    if told.assumed_classes and (difference := describe_class_differences(told.assumed_classes, ours)):
        warnings.append(f"an earlier run took these weights for other classes than this one does: {difference}")
    return ""


def _other_than_published(model: str, ours: tuple[str, ...], count: int, warnings: list[str]) -> str:
    published = published_classes(model)
    if published and published != count:
        return f"the published weights of {model} are for {published} classes, not for {count}"
    if published != 1000 or not ours:
        return ""
    differences = [
        (describe_class_differences(names, ours), len(set(names) & set(ours))) for names in imagenet_class_names()
    ]
    if not differences or any(not difference for difference, _ in differences):
        return ""
    difference, common = max(differences, key=lambda found: found[1])
    if common >= _IN_COMMON * count or all(_WORDNET.fullmatch(name) for name in ours):
        return difference
    warnings.append(
        f"the published weights of {model} are for ImageNet's classes; those of this data set "
        f"({', '.join(ours[:3])} …) have other names, and nobody knows whether they are the same"
    )
    return ""


def _input(
    given: models.SuppliedWeights, spec: RunSpec, weights: Weights, dataset: Dataset, warnings: list[str], say: Say
) -> InputFormat | None:
    if weights.fine_tune:
        return None
    own, told, named = input_format_of(dataset), given.metadata.input, _named(weights, dataset)
    known = told if told and told.known_from != "assumed" and len(told.mean) == dataset.channels else None
    if known is None:
        known = _published(spec.model.name, weights, dataset)
        if known and weights.source != PRETRAINED:
            say(f"the weights are taken to expect the images that the published ones of {spec.model.name} do", "info")
    found = known or own
    if named:
        found = replace(named, image_size=found.image_size, interpolation=found.interpolation)
    if weights.image_size:
        found = replace(found, image_size=weights.image_size)
    if weights.interpolation:
        found = replace(found, interpolation=interpolation(weights.interpolation))
    if known is None and named is None:
        warnings.append(
            "nobody says how the images of these weights are to be normalised, so this data set's own mean and std are "
            f"used ({own}); if others are right, the teacher's answers are not: teacher.weights.mean and std set them"
        )
        found = replace(found, known_from="assumed")
    if not found.same_images(own):
        say(f"the teacher is shown the views with {found} ({found.known_from}), and its students with {own}", "info")
    return found


def with_supplied_normalization(weights: Weights, dataset: Dataset) -> Dataset:
    """The data set with the mean and std that a spec gives for weights which are trained on.

    Raises TrainingError where they are of another number of channels.
    """
    named = _named(weights, dataset)
    return replace(dataset, mean=named.mean, std=named.std) if named else dataset


def _named(weights: Weights, dataset: Dataset) -> InputFormat | None:
    """What a spec says of the images that weights expect."""
    if not weights.mean or not weights.std:
        return None
    if len(weights.mean) != dataset.channels:
        text = f"mean and std have {len(weights.mean)} numbers, and the images {dataset.channels} channels"
        raise TrainingError("spec", f"the teacher's weights: {text}")
    return InputFormat(weights.mean, weights.std, dataset.image_size, known_from="given")


def _published(model: str, weights: Weights, dataset: Dataset) -> InputFormat | None:
    """What published weights expect: of a file too, where the network has as many classes as those."""
    published = published_input(model)
    if published is None or len(published.mean) != dataset.channels:
        return None
    if weights.source != PRETRAINED and published_classes(model) != dataset.num_classes:
        return None
    return published
