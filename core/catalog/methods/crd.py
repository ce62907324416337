"""CRD: samples against a memory of others, in an embedding that both networks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import FEATURES, Taps


class CRDParams(Params):
    """Parameters of CRD."""

    weight: float = Field(0.8, ge=0, description="Weight of the contrastive term.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    negatives: int = Field(
        16_384, ge=1, description="K, the samples of other classes that each sample is compared with in a step."
    )
    dimensions: int = Field(128, ge=1, le=8192, description="Dimensions of the common embedding.")
    temperature: float = Field(
        0.07,
        gt=0,
        le=100,
        description="τ, the temperature, by which inner products are divided.",
    )
    momentum: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of its former value that an entry of the memory keeps when its sample is seen.",
    )
    student_tap: str = Field(FEATURES, description="Layer of the student, which gives a vector for each image.")
    teacher_tap: str = Field(FEATURES, description="Layer of the teacher, which gives a vector for each image.")


def too_few_others(negatives: int, samples: int, largest_class: int) -> str | None:
    """Return what is wrong with a number of negatives; None if all classes leave enough other samples.

    Args:
        negatives: K.
        samples: n, the number of training samples.
        largest_class: The number of samples of the largest class, or a lower bound of it.
    """
    if negatives <= (others := samples - largest_class):
        return None
    return (
        f"{negatives:,} negatives are more than the {max(others, 0):,} training images of other classes that an image "
        f"has ({samples:,} images, up to {largest_class:,} of a class); choose fewer"
    )


def _problems(params: CRDParams, context: MethodContext) -> Iterator[SpecWarning]:
    if context.mixes:
        text = "CRD compares an image with the memory of the same image, which a mixture of two images does not have"
        yield SpecWarning("", f"{text}; remove {context.mixes} from training.augment")
    if context.facts is None:
        return
    samples = context.facts.train_size
    mean = -(-samples // context.facts.num_classes)  # no class is known to be larger
    if too_few := too_few_others(params.negatives, samples, mean):
        yield SpecWarning("params.negatives", too_few)


def _taps(params: Any) -> Taps:
    return Taps((params.student_tap,), (params.teacher_tap,))


METHODS.add(
    MethodEntry(
        name="crd",
        title="CRD",
        family="contrastive",
        summary="Contrastive loss: in a common embedding, an image should be close to itself in the other network's "
        "memory, and far from images of other classes.",
        target="core.distill.features.crd:CRD",
        params=CRDParams,
        taps=_taps,
        layers="vectors",
        source="Tian, Krishnan and Isola 2020, arXiv 1910.10699",
        weight_params={"ce": "ce_weight", "crd": "weight"},
        metrics=(CE_TERM, Metric("train/crd", "CRD term, unweighted", "nats", panel="Terms of CRD")),
        problems=_problems,
        cost="Two linear layers, and products of B × (K + the largest class) × 128 for each network. Two memories of "
        "one vector for each training image stay on the device and are in the checkpoints: 51 MB for CIFAR-100, 1.3 GB "
        "for ImageNet.",
    )
)
