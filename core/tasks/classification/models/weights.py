"""Weights from files and addresses: read without running code, checked, and loaded into a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.settings import TrainingSettings
from core.tasks.classification.models.network import Network
from core.tasks.classification.models.weight_sources import local_file
from core.weights.errors import WeightsError
from core.weights.key_matching import check_usable, match_state_dict, mismatch_error
from core.weights.metadata import Metadata, claimed_top1
from core.weights.state_dicts import find_state_dicts
from core.weights.weights_file import read_file

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class SuppliedWeights:
    """Weights that were read but not yet loaded into a network.

    Attributes:
        source: the source in the spec.
        content: a state dict, or a checkpoint that contains one; None for the published weights of the network.
        metadata: metadata of the file.
    """

    source: str
    content: Any = None
    metadata: Metadata = field(default_factory=Metadata)


def read_weights(path: Path, source: str, max_bytes: int) -> SuppliedWeights:
    """Read a weight file, with the accuracy that it or its name claims.

    Args:
        path: the file.
        source: name of the source, which may contain a claimed accuracy.
        max_bytes: the largest size of the file.

    Raises:
        WeightsError: the file cannot be read.
    """
    file = read_file(path, max_bytes)
    metadata = Metadata.parse(file.metadata)
    if metadata.top1 is None:
        claims = {**file.metadata} if file.format == "safetensors" else file.content
        metadata = replace(metadata, top1=claimed_top1(_parse_numbers(claims), source))
    return SuppliedWeights(source, file.content, metadata)


def _parse_numbers(claims: Any) -> Any:
    """Return the string metadata of a safetensors file with numeric strings as numbers; other content unchanged."""
    if not isinstance(claims, Mapping) or not all(isinstance(value, str) for value in claims.values()):
        return claims
    return {key: float(value) for key, value in claims.items() if re.fullmatch(r"\d{1,3}(\.\d{1,20})?", value)}


def load_state(network: Network, tensors: Mapping[str, Tensor], *, any_classes: bool = False) -> None:
    """Load a state dict that has the keys of the network or those of its published checkpoints.

    Args:
        network: the network.
        tensors: the state dict.
        any_classes: keep the network's last layer if the weights have another number of classes.

    Raises:
        WeightsError: keys do not match (the message names them), or weights are NaN, infinite, integers or constant.
    """
    load_content(network, dict(tensors), any_classes=any_classes)


def load_content(
    network: Network,
    content: Any,
    *,
    any_classes: bool = False,
    fresh_last_layer: bool = False,
    container: str = "",
    drop: Sequence[str] = (),
) -> tuple[str, ...]:
    """Find the network's weights in a checkpoint and load them.

    Args:
        network: the network.
        content: the checkpoint.
        any_classes: keep the network's last layer if the weights have another number of classes.
        fresh_last_layer: keep the network's last layer in any case.
        container: see ``find_state_dicts``.
        drop: see ``find_state_dicts``.

    Returns:
        Choices and omissions, one sentence each.

    Raises:
        WeightsError: see ``load_state``; also if several state dicts match.
    """
    candidates = find_state_dicts(content, container, drop)
    last_layer = _last_layer(network)
    any_shape = last_layer if any_classes else set()
    match = match_state_dict(network, candidates, network.map_published_key, any_shape)
    if match is None:
        raise mismatch_error(network, candidates, network.map_published_key, any_shape)
    state = network.state_dict()
    unchanged = {
        key
        for key in last_layer & match.tensors.keys()
        if fresh_last_layer or match.tensors[key].shape != state[key].shape
    }
    tensors = {key: tensor for key, tensor in match.tensors.items() if key not in unchanged}
    check_usable(state, tensors)
    network.load_state_dict(tensors | {key: state[key] for key in unchanged}, strict=False)
    return match.notes


def _last_layer(network: Network) -> set[str]:
    """Return the keys of the last linear layer."""
    last = {id(parameter) for parameter in network.linear.parameters()}
    return {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in last}


def read_source(source: str, sha256: str | None, settings: TrainingSettings) -> SuppliedWeights:
    """Read the weights that ``teacher.weights`` names.

    For "pretrained" nothing is read, because the network loads its published weights itself.

    Args:
        source: "pretrained", a path, an upload, or an address with hf, https, s3, gs or file.
        sha256: expected SHA-256 of the file; None skips the check.
        settings: folders and limits of this machine.

    Raises:
        WeightsError: the weights cannot be read; the message says what to do.
    """
    if source == PRETRAINED:
        return SuppliedWeights(source)
    with local_file(source, sha256, settings) as path:
        try:
            return read_weights(path, source, settings.max_weights_bytes)
        except WeightsError as error:
            raise WeightsError(f"{source}: {error}") from error


def load_supplied(
    network: Network,
    supplied: SuppliedWeights,
    *,
    any_classes: bool,
    allow_download: bool,
    fresh_last_layer: bool = False,
) -> tuple[str, ...]:
    """Load weights that were read, or the published ones.

    Args:
        network: the network.
        supplied: the weights.
        any_classes: keep the network's last layer if the weights have another number of classes.
        allow_download: download published weights that are not on this machine.
        fresh_last_layer: keep the network's last layer in any case.

    Returns:
        Choices and omissions, one sentence each.

    Raises:
        WeightsError: the weights cannot be loaded; the message says what to do.
    """
    if supplied.source == PRETRAINED:
        network.allow_download = allow_download
        network.load_pretrained()
        return ()
    try:
        return load_content(network, supplied.content, any_classes=any_classes, fresh_last_layer=fresh_last_layer)
    except WeightsError as error:
        raise WeightsError(f"{supplied.source}: {error}") from error
