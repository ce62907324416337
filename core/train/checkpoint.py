"""Checkpoints: one file with everything that a training needs to continue as if it had never stopped.

A checkpoint is a safetensors file, so that any tool can read the weights in it and reading it runs no code. Its header
carries the SHA-256 of the whole file, which detects torn or flipped bytes wherever they are. The previous checkpoint is
kept beside the last one, so that there is always at least one.
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
from torch import Tensor

from common.atomic_write import atomic_path, sync_file, sync_folder
from core.errors import TrainingError
from core.train.serialization import flatten, unflatten

VERSION = 2

CHECKPOINT_NAME = "checkpoint.safetensors"
PREVIOUS_NAME = "checkpoint.before.safetensors"
"""File names of the last checkpoint of a folder, and of the previous one."""

_PARTIAL = ".partial"
_LENGTH = 8  # bytes at the start of a safetensors file that hold the length of its header
_DIGEST_KEY = b'"sha256":"'
_NO_DIGEST = "0" * 64


@dataclass
class Progress:
    """How far a training is. The names of the fields are part of the file format.

    Attributes:
        epoch: The number of completed epochs.
        batch: The number of batches done in the current epoch.
        step: The number of optimiser steps done.
        elapsed: Seconds of training, earlier attempts included.
        best_headline: The best value of the headline metric in any epoch so far; ``best_top1`` in the file.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    elapsed: float = 0.0
    best_headline: float = 0.0


@dataclass(frozen=True)
class RandomState:
    """The states of torch's random generators. The names of the fields are part of the file format.

    Attributes:
        cpu: The state of the CPU's generator.
        cuda: The state of the generator of the GPU in use; None without a GPU.
    """

    cpu: Tensor
    cuda: Tensor | None = None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Return the current states.

        Args:
            device: The device that the training uses.
        """
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Set the generators to these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)


@dataclass
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
        fingerprint: The fingerprint of the run.
        progress: How far the training is.
        model, objective, optimizer, scaler: Their state dicts.
        average: The state of the averaged weights, see ``AveragedWeights``; empty without them.
        metric_sums: Partial sums of the current epoch, see ``RunningMeans.state``.
        journal: The run's journal so far, so that no metric is lost with the machine.
        plan: The execution plan as JSON, see ``ExecutionPlan``.
        device: The kind of device that the plan was made for.
        random: The random states of all ranks, in the order of the ranks.
        metadata: The classes and images that the run is trained on, see ``core.tasks.classification.weights_metadata``.
        features: The penultimate features kept so far, see ``FeatureLog.state``; empty without any.
    """

    fingerprint: str
    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    metric_sums: dict[str, Tensor]
    journal: bytes
    objective: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    random: list[RandomState] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointLookup:
    """The result of looking for a checkpoint to continue from.

    Attributes:
        checkpoint: The checkpoint; None if no file can be used.
        path: Its file; None with ``checkpoint``.
        problems: Why other files cannot be used.
    """

    checkpoint: Checkpoint | None
    path: Path | None
    problems: list[str]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of ``folder``; the one that was there becomes the previous one.

    Each of the two files is complete at any time, also after a crash.

    Args:
        folder: The folder of the attempt.
        checkpoint: What to write.

    Returns:
        The file.

    Raises:
        OSError: The disk refuses it; nothing of it is left.
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
    """Read a checkpoint.

    Args:
        path: The file.
        fingerprint: The fingerprint of the run that continues from it.

    Raises:
        TrainingError: The file cannot be read, is damaged, or belongs to another version or another run.
    """
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
        text = f"the checkpoint {path.name} has version {content.get('version')}, not {VERSION}"
        raise TrainingError("error", text)
    if content["fingerprint"] != fingerprint:
        raise TrainingError("spec", f"the checkpoint {path.name} belongs to another run ({content['fingerprint']})")
    return Checkpoint(
        fingerprint=content["fingerprint"],
        progress=_read_progress(content["position"]),
        model=content["model"],
        optimizer=content["optimizer"],
        metric_sums=content["means"],
        journal=content["journal"].numpy().tobytes(),
        objective=content.get("objective", {}),  # absent in earlier checkpoints
        average=content.get("average", {}),  # absent in earlier checkpoints
        scaler=content["scaler"],
        plan=content["chosen"],
        device=content["device"],
        random=[RandomState(**state) for state in content["random"]],
        metadata=content.get("origin", {}),  # checkpoints of early versions have no such field
        features=content.get("features", {}),  # absent in earlier checkpoints
    )


def find_checkpoint(path: Path, fingerprint: str) -> CheckpointLookup:
    """Return the checkpoint at ``path``, or the previous one in the same folder if that file cannot be used.

    Args:
        path: The file of the last checkpoint.
        fingerprint: The fingerprint of the run.
    """
    problems: list[str] = []
    for candidate in dict.fromkeys((path, path.with_name(PREVIOUS_NAME))):
        if candidate == path or candidate.exists():
            try:
                return CheckpointLookup(load_checkpoint(candidate, fingerprint), candidate, problems)
            except TrainingError as error:
                problems.append(str(error))
    return CheckpointLookup(None, None, problems)


def promote(used: Path | None, folder: Path) -> None:
    """Make the checkpoint that a training continues from the last one of ``folder``.

    After this, the next checkpoint that is written has a good one as its previous one, also in the folder of another
    attempt, and a damaged one never takes the place of a good one.

    Args:
        used: The checkpoint that the training continues from; None if it starts from the beginning, in which case
            the checkpoints of the folder are removed.
        folder: The folder of the attempt.
    """
    last, previous = folder / CHECKPOINT_NAME, folder / PREVIOUS_NAME
    if used is None:
        last.unlink(missing_ok=True)
        previous.unlink(missing_ok=True)
    elif used != last:
        _link(used, last)
        sync_folder(folder)


def _describe_progress(progress: Progress) -> dict[str, Any]:
    content = asdict(progress)
    return content | {"best_top1": content.pop("best_headline")}


def _read_progress(content: dict[str, Any]) -> Progress:
    return Progress(**{"best_headline" if name == "best_top1" else name: value for name, value in content.items()})


def _encode(checkpoint: Checkpoint) -> tuple[bytes, memoryview]:
    """Return the header and the body of the file. The keys here are the file format."""
    content = {
        "version": VERSION,
        "fingerprint": checkpoint.fingerprint,
        "position": _describe_progress(checkpoint.progress),
        "model": checkpoint.model,
        "objective": checkpoint.objective,
        "average": checkpoint.average,
        "optimizer": checkpoint.optimizer,
        "means": checkpoint.metric_sums,
        "journal": torch.from_numpy(np.frombuffer(checkpoint.journal, np.uint8).copy()),
        "scaler": checkpoint.scaler,
        "chosen": checkpoint.plan,
        "device": checkpoint.device,
        "random": [asdict(state) for state in checkpoint.random],
        "origin": checkpoint.metadata,
        "features": checkpoint.features,
    }
    tensors: dict[str, Tensor] = {}
    described = {name: flatten(value, tensors, name) for name, value in content.items()}
    metadata = {"sha256": _NO_DIGEST, "state": json.dumps(described)}
    data = memoryview(safetensors.torch.save(tensors, metadata))
    header, body = data[: _header_length(data)].tobytes(), data[_header_length(data) :]
    digest = _DIGEST_KEY + _digest(header, body).encode()
    return header.replace(_DIGEST_KEY + _NO_DIGEST.encode(), digest, 1), body


def _decode(data: bytes) -> dict[str, Any]:
    """Return the content of a file. Raises ValueError, KeyError, TypeError or SafetensorError if it is damaged."""
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
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a link to the same file as ``source``, atomically; a copy if the file system has no links."""
    with atomic_path(target, temporary=target.with_suffix(_PARTIAL)) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
            sync_file(partial)
