"""Files of weights: recognised by their content whatever they are called, and read without running any of it."""

from __future__ import annotations

import pickle
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from core.models.inert_pickle import load_pickle, load_torch
from core.models.network import WeightsError
from core.undecodable import openable

_MAGIC_OF_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number with which torch.save began before 1.6, pickled
_OTHERS = (
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ", "an xz file; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them; save its weights as safetensors"),
    (b"\x93NUMPY", "a NumPy array, without the names of weights"),
    (b"version https://git-lfs", "a pointer of Git LFS and not the weights themselves; `git lfs pull` fetches them"),
    (b"<", "a web page or XML: the download was answered with a page"),
)


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        content: a state dict, or a checkpoint around it.
        metadata: texts of a safetensors file; empty for others.
        form: "safetensors", "torch" or "pickle".
    """

    content: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    form: str = "torch"


def read_file(path: Path, max_bytes: int) -> WeightsFile:
    """Read a file of weights: safetensors, a checkpoint of ``torch.save`` in either form, or a plain pickle.

    Nothing in the file is run, see ``core.models.inert_pickle``.

    Raises WeightsError where it is no regular file, too large, damaged, of another form, or names code.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise WeightsError(f"cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError("cannot be read: it is no regular file")
    check_size(status.st_size, max_bytes)
    if not status.st_size:
        raise WeightsError("no checkpoint: the file is empty")
    try:
        with path.open("rb") as file:
            head = file.read(64)
        return _read(path, head, status.st_size, max_bytes)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        asked = f" ({error})" if "it " in str(error) else f": {error}"
        raise WeightsError(
            f"no checkpoint, or one that holds functions{asked}: only tensors and numbers are read, and plain objects "
            "as data"
        ) from error
    except Exception as error:  # a damaged file makes the readers raise whatever they come upon
        text = str(error).partition("\n")[0][:200]
        raise WeightsError(f"cannot be read: {type(error).__name__}: {text}") from error


def check_size(size: int, max_bytes: int) -> None:
    """Refuse a file of more than ``max_bytes`` (WeightsError)."""
    if size > max_bytes:
        raise WeightsError(f"larger than {max_bytes / 1e9:g} GB, the most that is read; DKD_MAX_WEIGHTS_GB sets it")


def _read(path: Path, head: bytes, size: int, max_bytes: int) -> WeightsFile:
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= size - 8:
        with openable(path) as name:
            with safetensors.safe_open(name, framework="pt") as opened:
                metadata = dict(opened.metadata() or {})
            return WeightsFile(safetensors.torch.load_file(name), metadata, "safetensors")
    if head.startswith(b"PK\x03\x04"):
        _refuse_other_archives(path, max_bytes)
        with path.open("rb") as file:
            return WeightsFile(load_torch(file))
    for magic, what in _OTHERS:
        if head.lstrip().startswith(magic):
            raise WeightsError(f"no checkpoint: it is {what}")
    # torch.load looks for a tar archive itself, and would unpack it.
    if tarfile.is_tarfile(path):
        raise WeightsError("no checkpoint: it is a tar archive; unpack it first")
    with path.open("rb") as file:
        if _MAGIC_OF_LEGACY in head:
            return WeightsFile(load_torch(file))
        return WeightsFile(load_pickle(file), form="pickle")


def _refuse_other_archives(path: Path, max_bytes: int) -> None:
    """Raises WeightsError for an archive that ``torch.save`` did not write, with what it is."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    check_size(sum(entry.file_size for entry in entries), max_bytes)
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise WeightsError(
            "a TorchScript archive, which is a program and not weights; save `model.state_dict()` of the network "
            "that it was made from, or in Python `torch.save(torch.jit.load(FILE).state_dict(), OUT)` where you trust "
            "it"
        )
    if "data.pkl" not in names:
        found = ", ".join(entry.filename for entry in entries[:3])
        raise WeightsError(f"a zip archive that holds no checkpoint ({found}); unpack it first")
