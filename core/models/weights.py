"""Weights from elsewhere: read without running their code, their keys mapped, what does not fit named."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from core.data.places import data_dir, download_allowed
from core.models.network import Network, WeightsError
from core.undecodable import openable

_CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_UPLOAD = "upload:"  # and the SHA-256: what the backend makes of a name
_SCHEMES = ("https", "s3", "gs", "file")
_NAMED = 4  # of each kind of mismatch, so that a message stays readable


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a file that ``torch.save`` wrote, unwrapped.

    Nothing in the file is run: of pickled objects, only tensors, plain containers and NumPy's numbers are read.
    Raises WeightsError.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    # mdistiller keeps its best accuracy as a NumPy number beside the weights.
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    allowed = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *dtypes]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        text = f"no checkpoint, or one that holds Python objects{what}: only tensors and numbers are read"
        raise WeightsError(text) from error
    except Exception as error:  # a damaged file makes the unpickler raise whatever it comes upon
        raise WeightsError(
            f"cannot be read: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        ) from error
    return unwrap(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with openable(path) as name:
            tensors: dict[str, Tensor] = safetensors.torch.load_file(name)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"cannot be read: {error}") from error
    return tensors


def unwrap(content: Any) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, its keys without what a wrapper put in front of them.

    ``{"model": …}`` and its like are opened. Of a whole distiller (``student.``, ``teacher.``) the student is taken.
    Raises WeightsError where there is no state dict.
    """
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not tensors:
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"no weights found: a state dict, or one under {', '.join(_CONTAINERS)}; found {held[:200]}")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in tensors):
                tensors, stripped = _inside(tensors, prefix), True
        if any(key.startswith("student.") for key in tensors):
            tensors, stripped = _inside(tensors, "student."), True
    return tensors


def _inside(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load_state(network: Network, tensors: Mapping[str, Tensor], *, any_classes: bool = False) -> None:
    """Take over weights given under the network's own keys or under those of its published checkpoints.

    Args:
        any_classes: keep the network's own last layer where the weights have another class count.

    Raises WeightsError, which names the keys that do not fit, or whose weights are NaN or infinite.
    """
    own = network.state_dict()
    if len(own.keys() & tensors.keys()) < len(own.keys() & {network.foreign_key(key) for key in tensors}):
        tensors = {network.foreign_key(key): tensor for key, tensor in tensors.items()}
    shapes = {key: (tuple(tensors[key].shape), tuple(own[key].shape)) for key in own if key in tensors}
    differing = {key for key, (theirs, ours) in shapes.items() if theirs != ours}
    if any_classes:
        last = {id(parameter) for parameter in network.linear.parameters()}
        kept = {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in last}
        if kept & differing:
            differing -= kept
            tensors = dict(tensors) | {key: own[key] for key in kept}
    # Checkpoints from before PyTorch 0.4.1 have no such counters, and nothing here reads them.
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in own]
    problems = [
        _listed("missing", missing),
        _listed("not of this network", unknown),
        _listed("of another shape", [f"{k} {shapes[k][0]}, not {shapes[k][1]}" for k in shapes if k in differing]),
    ]
    if any(problems):
        raise WeightsError(f"the weights are of another network: {'; '.join(filter(None, problems))}")
    # Nobody learns from such a teacher, and a training would blame the learning rate.
    if broken := _listed("not finite", [key for key in own if key in tensors and not tensors[key].isfinite().all()]):
        raise WeightsError(f"the weights are damaged: {broken}")
    network.load_state_dict(dict(tensors), strict=False)


def _listed(title: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{title}: {', '.join(keys[:_NAMED])}{more}"


def load_source(network: Network, source: str, sha256: str | None, *, any_classes: bool) -> None:
    """Load what ``teacher.weights`` names: "pretrained", a path, or an address of https, s3, gs or file.

    A relative path counts from ``DATA_DIR``.
    Raises WeightsError, with what to do.
    """
    if source == "pretrained":
        network.load_pretrained()
        return
    if source.startswith(_UPLOAD):
        folder = os.environ.get("DKD_UPLOADS")
        if not folder:
            raise WeightsError(f"{source} is in a backend's store; without one, name the file itself")
        path = Path(folder, f"{source.removeprefix(_UPLOAD)}.safetensors")
        if not path.is_file():
            raise WeightsError(f"{source} is not in the artifact store any more; upload it again")
        _load_file(network, path, source, sha256, any_classes)
        return
    if "://" in source:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.safetensors" if source.endswith(".safetensors") else "weights.pth")
            _fetch(source, path)
            _load_file(network, path, source, sha256, any_classes)
        return
    path = data_dir() / Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"there is no file {path} on this machine; put the teacher's weights there")
    _load_file(network, path, source, sha256, any_classes)


def _load_file(network: Network, path: Path, source: str, sha256: str | None, any_classes: bool) -> None:
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise WeightsError(f"{source} has the SHA-256 {found}, not {sha256}: it is another file than was meant")
    try:
        load_state(network, read_checkpoint(path), any_classes=any_classes)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error


def _fetch(source: str, path: Path) -> None:
    scheme = source.partition("://")[0]
    if scheme not in _SCHEMES or "::" in source:
        raise WeightsError(f"weights cannot be read from {source}: give a path, or {', '.join(_SCHEMES)}://…")
    if scheme == "https" and not download_allowed():
        raise WeightsError(f"downloads are off; set DKD_DOWNLOAD=1, or fetch {source} and name the file")
    import fsspec

    try:
        with fsspec.open(source, "rb") as remote, path.open("wb") as local:
            while block := remote.read(1 << 20):
                local.write(block)
    except ImportError as error:
        raise WeightsError(f"reading {scheme}:// needs another package on the worker: {error}") from error
    except Exception as error:  # whatever a backend of fsspec raises: each has errors of its own
        raise WeightsError(
            f"cannot fetch {source}: {str(error).partition(chr(10))[0] or type(error).__name__}"
        ) from error
