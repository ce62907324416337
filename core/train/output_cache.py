"""A teacher's outputs on disk: a folder for each key, a file for each epoch, one size limit for all runs of a machine.

The files are ``CACHE/teacher-logits/KEY/epoch-00007.safetensors``, epochs counted from 0, with a readable ``key.json``
beside them. A file contains the logits as ``centred`` and ``mean``, and each tap as ``NAME.centred`` and ``NAME.mean``.
Everything here may be deleted at any time. Files appear complete, by a rename; a process that reads a file while it is
deleted reads all of it or finds none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from common.atomic_write import atomic_path
from core.tasks.file_lock import locked
from core.train.quantization import LOGITS, QuantizedRows, Table
from core.undecodable import openable

FORMAT = 1
"""Raised when the content of the files changes its meaning; files of other formats are not read."""

_SUFFIX = ".safetensors"
_PARTIAL = ".partial"
_STALE_SECONDS = 3600.0  # age from which a partial file is assumed to belong to a process that was killed


class OutputCache:
    """The cached epochs of one key.

    Args:
        root: The folder of all keys; it is created at the first write.
        key: JSON; everything that decides the numbers.
        limit: The bytes that all keys together may take; a full disk lowers it, see ``available_bytes``.
    """

    def __init__(self, root: Path, key: Mapping[str, Any], limit: int) -> None:
        self._root, self._limit = root, limit
        self._key_text = json.dumps({"format": FORMAT} | dict(key), sort_keys=True, indent=1)
        self.name = hashlib.sha256(self._key_text.encode()).hexdigest()[:32]
        self.folder = root / self.name

    def epochs(self) -> set[int]:
        """Return the epochs that are cached now."""
        epochs = set()
        for path in self._files(self.folder):
            with contextlib.suppress(ValueError):
                epochs.add(int(path.stem.removeprefix("epoch-")))
        return epochs

    def available_bytes(self) -> int:
        """Return the bytes that all keys together may take now.

        That is the limit, but at most half of what would be free on the disk without the cache.
        """
        folder = self._root
        while not folder.exists():
            folder = folder.parent
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            return 0
        used = sum(size for _, size, _ in self._usage(self._root))
        return min(self._limit, (free + used) // 2)

    def read(self, epoch: int, samples: int, widths: Mapping[str, int]) -> Table | None:
        """Read the outputs of an epoch. A damaged file is removed.

        Args:
            epoch: Counted from 0.
            samples: The expected number of rows, N.
            widths: The expected number of columns of each output by name.

        Returns:
            The outputs on the CPU, in the order of ``widths``; None if they are not cached.
        """
        path = self._path(epoch)
        try:
            with openable(path) as name, safetensors.safe_open(name, framework="pt") as file:
                table = {
                    output: QuantizedRows(*(file.get_tensor(key) for key in _tensor_names(output))) for output in widths
                }
                checksum = (file.metadata() or {}).get("crc32")
            fits = all(_has_shape(table[output], samples, width) for output, width in widths.items())
            if fits and checksum == _checksum(table):
                with contextlib.suppress(OSError):
                    os.utime(path)  # eviction goes by the time of the last use
                return table
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError):
            pass
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def write(self, epoch: int, table: Table) -> bool:
        """Write the outputs of an epoch. The least recently used files of other keys are removed if space is needed.

        Args:
            epoch: Counted from 0.
            table: The outputs of all samples, on the CPU.

        Returns:
            Whether there was enough space.

        Raises:
            OSError: The disk refuses the file.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with locked(self._root / ".lock"):
            if not self._make_room(sum(rows.nbytes for rows in table.values())):
                return False
            self.folder.mkdir(exist_ok=True)
            (self.folder / "key.json").write_text(self._key_text, encoding="utf-8")
            path = self._path(epoch)
            temporary = path.with_suffix(f".{os.getpid()}{_PARTIAL}")
            tensors: dict[str, torch.Tensor] = {}
            for output, rows in table.items():
                centred, mean = _tensor_names(output)
                tensors |= {centred: rows.centred.contiguous(), mean: rows.mean.contiguous()}
            try:
                # Not synced to the disk, which would take longer than the teacher: a file that a power cut tore has
                # another checksum and is removed when it is read.
                with atomic_path(path, temporary=temporary) as partial:
                    safetensors.torch.save_file(tensors, partial, {"crc32": _checksum(table)})
            except safetensors.SafetensorError as error:  # how the library reports a full disk
                raise OSError(str(error)) from error
        return True

    def clear(self) -> None:
        """Remove all epochs of this key."""
        with contextlib.suppress(OSError), locked(self._root / ".lock"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05}{_SUFFIX}"

    def _make_room(self, needed: int) -> bool:
        self._remove_stale_partials()
        usage = sorted(self._usage(self._root))
        excess = sum(size for _, size, _ in usage) + needed - self.available_bytes()
        for _, size, path in usage:
            if excess <= 0:
                break
            # Files of this key stay: the next run would miss them, write them, and remove others, again and again.
            if path.parent != self.folder:
                with contextlib.suppress(OSError):
                    path.unlink()
                    excess -= size
                self._remove_if_empty(path.parent)
        return excess <= 0

    def _usage(self, root: Path) -> list[tuple[float, int, Path]]:
        """Return the time of the last use, the size and the path of every file."""
        usage = []
        for path in root.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                usage.append((status.st_mtime, status.st_size, path))
        return usage

    def _remove_stale_partials(self) -> None:
        for path in self._root.glob(f"*/*{_PARTIAL}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def _remove_if_empty(self, folder: Path) -> None:
        if not self._files(folder):
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _files(folder: Path) -> list[Path]:
        return list(folder.glob(f"*{_SUFFIX}"))


def _tensor_names(output: str) -> tuple[str, str]:
    prefix = "" if output == LOGITS else f"{output}."
    return f"{prefix}centred", f"{prefix}mean"


def _has_shape(rows: QuantizedRows, samples: int, width: int) -> bool:
    shapes = (rows.centred.shape, rows.mean.shape, rows.centred.dtype)
    return shapes == ((samples, width), (samples,), torch.float16)


def _checksum(table: Table) -> str:
    value = 0
    for _, rows in sorted(table.items()):  # two methods may name the same taps in another order
        for tensor in (rows.centred, rows.mean):
            value = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
