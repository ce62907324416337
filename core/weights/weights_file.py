"""Weight files: recognised by their content, and read without running any code in them."""

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

from core.undecodable import openable
from core.weights.errors import WeightsError
from core.weights.inert_pickle import load_pickle, load_torch

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # first bytes of torch.save before 1.6: a pickled number
_OTHER_FORMATS = (
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ", "an xz file; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, as written by Keras; save its weights as safetensors"),
    (b"\x93NUMPY", "a NumPy array, which has no names of weights"),
    (b"version https://git-lfs", "a Git LFS pointer and not the weights; `git lfs pull` downloads them"),
    (b"<", "an HTML page or XML: the server answered the download with a page"),
)


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weight file.

    Attributes:
        content: a state dict, or a checkpoint that contains one.
        metadata: string metadata of a safetensors file; empty for other formats.
        format: "safetensors", "torch" or "pickle".
    """

    content: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    format: str = "torch"


def read_file(path: Path, max_bytes: int) -> WeightsFile:
    """Read a weight file: safetensors, a checkpoint of ``torch.save`` in either format, or a plain pickle.

    No code in the file is run, see ``core.weights.inert_pickle``.

    Raises:
        WeightsError: the file is not a regular file, too large, damaged, of another format, or names functions.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise WeightsError(f"cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError("cannot be read: it is not a regular file")
    check_size(status.st_size, max_bytes)
    if not status.st_size:
        raise WeightsError("not a checkpoint: the file is empty")
    try:
        with path.open("rb") as file:
            head = file.read(64)
        return _read(path, head, status.st_size, max_bytes)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        detail = f" ({error})" if "it " in str(error) else f": {error}"
        raise WeightsError(
            f"not a checkpoint, or one that contains functions{detail}: only tensors and numbers are read, and plain "
            "objects as data"
        ) from error
    except Exception as error:  # the readers raise any exception for a damaged file
        text = str(error).partition("\n")[0][:200]
        raise WeightsError(f"cannot be read: {type(error).__name__}: {text}") from error


def check_size(size: int, max_bytes: int) -> None:
    """Raise WeightsError if a size in bytes is above the limit."""
    if size > max_bytes:
        raise WeightsError(f"larger than the limit of {max_bytes / 1e9:g} GB, which DKD_MAX_WEIGHTS_GB sets")


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
    for magic, description in _OTHER_FORMATS:
        if head.lstrip().startswith(magic):
            raise WeightsError(f"not a checkpoint: it is {description}")
    # torch.load recognises a tar archive too, and would unpack it.
    if tarfile.is_tarfile(path):
        raise WeightsError("not a checkpoint: it is a tar archive; unpack it first")
    with path.open("rb") as file:
        if _LEGACY_MAGIC in head:
            return WeightsFile(load_torch(file))
        return WeightsFile(load_pickle(file), format="pickle")


def _refuse_other_archives(path: Path, max_bytes: int) -> None:
    """Raise WeightsError for an archive that ``torch.save`` did not write; the message says what it is."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    check_size(sum(entry.file_size for entry in entries), max_bytes)
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise WeightsError(
            "a TorchScript archive, which is a program and not weights; save `model.state_dict()` of the original "
            "network, or run `torch.save(torch.jit.load(FILE).state_dict(), OUT)` in Python if you trust the file"
        )
    if "data.pkl" not in names:
        content = ", ".join(entry.filename for entry in entries[:3])
        raise WeightsError(f"a zip archive without a checkpoint ({content}); unpack it first")
