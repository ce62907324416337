"""Conversion of a published checkpoint to a safetensors file for ``teacher.weights`` (``python -m core convert``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.atomic_write import atomic_write
from core.catalog import MODELS
from core.tasks.classification.models import build, count_parameters
from core.tasks.classification.models.heads import with_head_form
from core.tasks.classification.models.weights import load_content, read_weights
from core.weights.errors import WeightsError
from core.weights.metadata import InputFormat, Metadata, serialise


@dataclass(frozen=True)
class ModelShape:
    """The network of the weights.

    Attributes:
        name: name of the catalog entry.
        num_classes: number of classes.
        image_size: side of the images in pixels.
        in_channels: number of channels of an image.
        params: parameters of the catalog entry.
    """

    name: str
    num_classes: int
    image_size: int
    in_channels: int
    params: dict[str, Any]


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion.

    Attributes:
        container: location of the weights in the checkpoint; "" to search for them.
        drop: patterns of keys that are not weights.
        mean: per channel, of the images that the network expects; empty if unknown.
        std: standard deviation per channel, likewise.
    """

    container: str = ""
    drop: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class ConversionResult:
    """The result of a conversion.

    Attributes:
        parameters: number of trainable parameters.
        metadata: metadata of the written file.
        notes: choices and omissions, one sentence each.
    """

    parameters: int
    metadata: Metadata
    notes: tuple[str, ...]


def convert(
    source: Path, out: Path, shape: ModelShape, options: ConvertOptions = ConvertOptions(), *, max_bytes: int
) -> ConversionResult:
    """Write the weights in ``source`` with the keys of the catalog's network.

    Class names and the input format in the metadata of the source are kept. An accuracy that the checkpoint or its
    file name claims is kept too, so that a run compares it with the measured one.

    Args:
        source: the checkpoint.
        out: the safetensors file to write.
        shape: the network.
        options: options of the conversion.
        max_bytes: the largest size of the source.

    Raises:
        WeightsError: the file cannot be read, or its keys do not match the network.
        ValueError: there is no such network, or it is a detector.
    """
    if "classification" not in MODELS[shape.name].tasks:
        text = "a spec names the checkpoint of a detector as teacher.weights, and the run reads it"
        raise ValueError(f"{shape.name} needs no conversion: {text}")
    supplied = read_weights(source, source.name, max_bytes)
    network = build(
        shape.name,
        num_classes=shape.num_classes,
        image_size=shape.image_size,
        in_channels=shape.in_channels,
        **shape.params,
    )
    network = with_head_form(network, supplied.metadata.head)
    notes = load_content(network, supplied.content, container=options.container, drop=options.drop)
    metadata = replace(supplied.metadata, input=_input_format(shape, options) or supplied.metadata.input)
    if metadata.classes and len(metadata.classes) != shape.num_classes:
        text = f"the file names {len(metadata.classes)} classes but has {shape.num_classes} logits"
        raise WeightsError(text)
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    _write(out, serialise(tensors, metadata))
    return ConversionResult(count_parameters(network), metadata, notes)


def _input_format(shape: ModelShape, options: ConvertOptions) -> InputFormat | None:
    if not options.mean and not options.std:
        return None
    if {len(options.mean), len(options.std)} != {shape.in_channels}:
        raise ValueError(f"--mean and --std need {shape.in_channels} number(s) each, one per channel")
    return InputFormat(options.mean, options.std, shape.image_size, known_from="given")


def _write(out: Path, data: bytes) -> None:
    """Write a file atomically."""
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, data)
