"""Checkpoints: one file with everything that a training needs to go on as if it had never stopped.

A checkpoint is a safetensors file, so that any tool can read the weights in it and reading it runs no code. Its header
carries the SHA-256 of the whole file: torn or flipped bytes are found wherever they are. The one before the last is
kept beside it, and at no moment is there neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from common.atomic_write import atomic_path, atomic_write, sync_file, sync_folder
from core.models.metadata import Metadata, serialise
from core.training.errors import TrainingError
from core.training.serialization import flatten, unflatten
from core.undecodable import openable

VERSION = 2

CHECKPOINT_NAME = "checkpoint.safetensors"
PREVIOUS_NAME = "checkpoint.before.safetensors"
"""The last checkpoint of a folder, and the one before it."""

_PARTIAL = ".partial"
_LENGTH = 8  # bytes of a safetensors file that say how long its header is
_DIGEST_KEY = b'"sha256":"'
_NO_DIGEST = "0" * 64


@dataclass
class Progress:
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


@dataclass(frozen=True)
class RandomState:
    """Of torch's generators: the CPU's, and that of the GPU in use where there is one."""

    cpu: Tensor
    cuda: Tensor | None = None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)


@dataclass
class Checkpoint:
    """What is kept.

    Attributes:
        fingerprint: of the run.
        model, optimizer, scaler: their state dicts.
        means: partial sums of the epoch under way, see ``RunningMeans.state``.
        journal: the run's journal up to here, so that no point is lost with the machine.
        chosen: what was chosen for speed, as JSON.
        device: the kind that it was chosen for.
        random: of each rank, in their order.
        origin: of the classes and images that it is trained on, see ``core.training.weights_metadata``.
    """

    fingerprint: str
    position: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    means: dict[str, Tensor]
    journal: bytes
    scaler: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    random: list[RandomState] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointLookup:
    """What there is to go on from.

    Attributes:
        path: of the checkpoint; None with it where none can be used.
        problems: why others could not be used.
    """

    checkpoint: Checkpoint | None
    path: Path | None
    problems: list[str]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``folder``'s checkpoint; the one that was there becomes the one before. Returns its path.

    Whoever opens either name at any moment, also after a crash, finds a whole file or, before the first, none.
    """
    path = folder / CHECKPOINT_NAME
    with atomic_path(path, temporary=path.with_suffix(_PARTIAL), sync=True) as partial:
        with partial.open("wb") as file:
            for part in _encode(checkpoint):
                file.write(part)
        sync_file(partial)  # before the checkpoint before the last one is given up
        if path.exists():
            _link(path, folder / PREVIOUS_NAME)
    return path


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint:
    """Read a checkpoint. Raises TrainingError where it is damaged, of another version, or of another run."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TrainingError("error", f"the checkpoint {path.name} cannot be read: {error.strerror}") from error
    try:
        content = _decode(data)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        text = str(error).partition("\n")[0][:200]
        raise TrainingError("error", f"the checkpoint {path.name} is damaged and cannot be read: {text}") from error
    if content.get("version") != VERSION:
        text = f"the checkpoint {path.name} is of version {content.get('version')}, not {VERSION}"
        raise TrainingError("error", text)
    if content["fingerprint"] != fingerprint:
        raise TrainingError("spec", f"the checkpoint {path.name} belongs to another run ({content['fingerprint']})")
    return Checkpoint(
        fingerprint=content["fingerprint"],
        position=Progress(**content["position"]),
        model=content["model"],
        optimizer=content["optimizer"],
        means=content["means"],
        journal=content["journal"].numpy().tobytes(),
        scaler=content["scaler"],
        chosen=content["chosen"],
        device=content["device"],
        random=[RandomState(**state) for state in content["random"]],
        origin=content.get("origin", {}),  # of one that was written before it was kept
    )


def find_checkpoint(path: Path, fingerprint: str) -> CheckpointLookup:
    """The checkpoint at ``path``, or where it cannot be used the one before it in the same folder."""
    problems: list[str] = []
    for candidate in dict.fromkeys((path, path.with_name(PREVIOUS_NAME))):
        if candidate == path or candidate.exists():
            try:
                return CheckpointLookup(load_checkpoint(candidate, fingerprint), candidate, problems)
            except TrainingError as error:
                problems.append(str(error))
    return CheckpointLookup(None, None, problems)


def promote(used: Path | None, folder: Path) -> None:
    """Make the checkpoint that a training goes on from the last one of ``folder``, and remove what else is there.

    So the next one written has a good one before it, also in the folder of another attempt, and a damaged one is never
    kept in the place of a good one.

    Args:
        used: None where the training starts from the beginning.
    """
    last, before = folder / CHECKPOINT_NAME, folder / PREVIOUS_NAME
    if used is None:
        last.unlink(missing_ok=True)
        before.unlink(missing_ok=True)
    elif used != last:
        _link(used, last)
        sync_folder(folder)


def save_weights(model: nn.Module, path: Path, origin: Metadata | None = None) -> str:
    """Write a model's weights as safetensors, atomically; returns the file's SHA-256.

    Args:
        origin: what the file should say of itself, see ``core.training.weights_metadata``.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = serialise(tensors, origin or Metadata())
    atomic_write(path, data, temporary=path.with_suffix(_PARTIAL), sync=True)
    return hashlib.sha256(data).hexdigest()


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into a model. Raises TrainingError, which names the keys that do not match."""
    try:
        with openable(path) as name:
            tensors = safetensors.torch.load_file(name)
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError("error", f"the weights {path} cannot be read: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError("spec", f"the weights {path.name} are of another network: {error}") from error


def _encode(checkpoint: Checkpoint) -> tuple[bytes, memoryview]:
    """Header and body of the file."""
    content = {
        "version": VERSION,
        "fingerprint": checkpoint.fingerprint,
        "position": asdict(checkpoint.position),
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "means": checkpoint.means,
        "journal": torch.from_numpy(np.frombuffer(checkpoint.journal, np.uint8).copy()),
        "scaler": checkpoint.scaler,
        "chosen": checkpoint.chosen,
        "device": checkpoint.device,
        "random": [asdict(state) for state in checkpoint.random],
        "origin": checkpoint.origin,
    }
    tensors: dict[str, Tensor] = {}
    described = {name: flatten(value, tensors, name) for name, value in content.items()}
    metadata = {"sha256": _NO_DIGEST, "state": json.dumps(described)}
    data = memoryview(safetensors.torch.save(tensors, metadata))
    header, body = data[: _header_length(data)].tobytes(), data[_header_length(data) :]
    digest = _DIGEST_KEY + _digest(header, body).encode()
    return header.replace(_DIGEST_KEY + _NO_DIGEST.encode(), digest, 1), body


def _decode(data: bytes) -> dict[str, Any]:
    """What a file holds. Raises ValueError, KeyError, TypeError or SafetensorError where it is damaged."""
    header, body = data[: _header_length(data)], memoryview(data)[_header_length(data) :]
    first = header.find(_DIGEST_KEY) + len(_DIGEST_KEY)
    digest = header[first : first + len(_NO_DIGEST)]
    blank = header[:first] + _NO_DIGEST.encode() + header[first + len(_NO_DIGEST) :]
    if first < len(_DIGEST_KEY) or _digest(blank, body).encode() != digest:
        raise ValueError("its checksum is wrong")
    described = json.loads(json.loads(header[_LENGTH:])["__metadata__"]["state"])
    tensors = safetensors.torch.load(data)
    return {name: unflatten(value, tensors) for name, value in described.items()}


def _header_length(data: bytes | memoryview) -> int:
    return _LENGTH + int.from_bytes(data[:_LENGTH], "little")


def _digest(header: bytes, body: memoryview) -> str:
    found = hashlib.sha256(header)
    found.update(body)
    return found.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Have ``target`` be ``source`` too, atomically; a copy where the file system has no links."""
    with atomic_path(target, temporary=target.with_suffix(_PARTIAL)) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
            sync_file(partial)
