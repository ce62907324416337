"""The weights of one network as a safetensors file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
from torch import nn

from common.atomic_write import atomic_write
from core.errors import TrainingError
from core.undecodable import openable
from core.weights.metadata import Metadata, serialise

_PARTIAL = ".partial"


def save_weights(model: nn.Module, path: Path, metadata: Metadata | None = None) -> str:
    """Write a model's weights as safetensors, atomically.

    Args:
        model: The network.
        path: The file.
        metadata: What the file says about its weights, see ``core.tasks.classification.weights_metadata``.

    Returns:
        The SHA-256 of the file, in hexadecimal digits.

    Raises:
        OSError: The disk refuses the file; nothing of it is left.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = serialise(tensors, metadata or Metadata())
    atomic_write(path, data, temporary=path.with_suffix(_PARTIAL), sync=True)
    return hashlib.sha256(data).hexdigest()


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into a model.

    Args:
        model: The network.
        path: A safetensors file with the keys of the network.

    Raises:
        TrainingError: The file cannot be read, or belongs to another network; the message names the keys at fault.
    """
    try:
        with openable(path) as name:
            tensors = safetensors.torch.load_file(name)
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError("error", f"the weights {path} cannot be read: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError("spec", f"the weights {path.name} belong to another network: {error}") from error
