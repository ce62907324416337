"""``python -m core convert``: a published checkpoint as a safetensors file for ``teacher.weights``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.models import build, count_parameters
from core.models.metadata import InputFormat, Metadata, serialise
from core.models.network import WeightsError
from core.models.weights import load_content, read_weights


@dataclass(frozen=True)
class ModelShape:
    """Which network the weights are of; ``params`` are the catalog entry's own."""

    name: str
    num_classes: int
    image_size: int
    in_channels: int
    params: dict[str, Any]


@dataclass(frozen=True)
class ConvertOptions:
    """What a person says of a checkpoint.

    Attributes:
        container: the place of the weights in it; "" to look for them.
        drop: patterns of keys that are no weights.
        mean, std: per channel, of the images that the network expects; empty where they are not known.
    """

    container: str = ""
    drop: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class ConversionResult:
    """What was written: the network's parameters, what the file says of them, and what was chosen or left out."""

    parameters: int
    metadata: Metadata
    notes: tuple[str, ...]


def convert(
    source: Path, out: Path, shape: ModelShape, choices: ConvertOptions = ConvertOptions(), *, max_bytes: int
) -> ConversionResult:
    """Write the weights in ``source`` under the keys of the catalog's network.

    The names of the classes and the input that the source says it is for are kept as they are; an accuracy that it or
    its name claims is kept too, for a run to compare with what it measures.

    Raises WeightsError where the file cannot be read or its keys do not fit, ValueError where there is no such network.
    """
    network = build(
        shape.name,
        num_classes=shape.num_classes,
        image_size=shape.image_size,
        in_channels=shape.in_channels,
        **shape.params,
    )
    given = read_weights(source, source.name, max_bytes)
    notes = load_content(network, given.content, container=choices.container, drop=choices.drop)
    metadata = replace(given.metadata, input=_input(shape, choices) or given.metadata.input)
    if metadata.classes and len(metadata.classes) != shape.num_classes:
        text = f"the file names {len(metadata.classes)} classes and has {shape.num_classes} logits"
        raise WeightsError(text)
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    _write(out, serialise(tensors, metadata))
    return ConversionResult(count_parameters(network), metadata, notes)


def _input(shape: ModelShape, choices: ConvertOptions) -> InputFormat | None:
    if not choices.mean and not choices.std:
        return None
    if {len(choices.mean), len(choices.std)} != {shape.in_channels}:
        raise ValueError(f"give --mean and --std with {shape.in_channels} number(s) each, one a channel")
    return InputFormat(choices.mean, choices.std, shape.image_size, known_from="given")


def _write(out: Path, data: bytes) -> None:
    """Atomically, so that a converted file is there as a whole or not at all. Raises OSError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name[:100]}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
