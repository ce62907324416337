"""Checkpoints: one file with everything that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from core.training.errors import TrainingError

VERSION = 1


@dataclass
class Position:
    """How far a training is.

    Attributes:
        epoch: passes completed.
        batch: batches done of the pass under way.
        step: optimiser steps done.
        elapsed: seconds of training, earlier attempts included.
        best_top1: greatest test accuracy of any epoch so far, %.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    elapsed: float = 0.0
    best_top1: float = 0.0


@dataclass
class Checkpoint:
    """What is kept. ``journal`` is the run's journal up to here, so that no point is lost with the machine."""

    fingerprint: str
    position: Position
    model: dict[str, Any]
    optimizer: dict[str, Any]
    means: dict[str, Tensor]
    journal: bytes


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: whoever finds the file finds all of it."""
    content = {
        "version": VERSION,
        "fingerprint": checkpoint.fingerprint,
        "position": asdict(checkpoint.position),
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "means": checkpoint.means,
        "journal": torch.frombuffer(bytearray(checkpoint.journal), dtype=torch.uint8) if checkpoint.journal else None,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint:
    """Read a checkpoint and restore torch's random state.

    Raises TrainingError where the file is damaged, of another version, or of another run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        text = str(error).partition("\n")[0][:200]
        raise TrainingError("error", f"the checkpoint {path.name} cannot be read: {text}") from error
    if content.get("version") != VERSION:
        raise TrainingError(
            "error", f"the checkpoint {path.name} is of version {content.get('version')}, not {VERSION}"
        )
    if content["fingerprint"] != fingerprint:
        raise TrainingError("spec", f"the checkpoint {path.name} belongs to another run ({content['fingerprint']})")
    torch.set_rng_state(content["rng"])
    if torch.cuda.is_available() and len(content["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    journal = content["journal"]
    return Checkpoint(
        fingerprint=content["fingerprint"],
        position=Position(**content["position"]),
        model=content["model"],
        optimizer=content["optimizer"],
        means=content["means"],
        journal=bytes(journal.numpy()) if journal is not None else b"",
    )


def save_weights(model: nn.Module, path: Path) -> str:
    """Write a model's weights as safetensors, atomically; returns the file's SHA-256."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(tensors)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest()


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into a model. Raises TrainingError, which names the keys that do not match."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError("error", f"the weights {path} cannot be read: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError("spec", f"the weights {path.name} are of another network: {error}") from error


def sync_folder(folder: Path) -> None:
    """Have a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
