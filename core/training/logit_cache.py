"""A teacher's logits on disk: a folder a key, a file an epoch, under one size limit for all trainings of a machine.

``CACHE/teacher-logits/KEY/epoch-00007.safetensors``, epochs counted from 0, with ``key.json`` beside them for people.
Everything here may be deleted at any time. Files appear whole, by a rename; whoever reads one that is being deleted
either has it whole or finds none.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.atomic_write import atomic_path
from core.data.paths import locked
from core.undecodable import openable

FORMAT = 1
"""Raised when the files begin to mean something else; old ones are then not read."""

_SUFFIX = ".safetensors"
_PARTIAL = ".partial"
_STALE_SECONDS = 3600.0  # after which a file that is still partial is taken for a killed process's


@dataclass(frozen=True)
class QuantizedLogits:
    """Logits of samples, as they are kept.

    Attributes:
        centred: (N, C) float16, each row with its mean subtracted.
        mean: (N,) float32, what was subtracted.
    """

    centred: Tensor
    mean: Tensor

    @property
    def nbytes(self) -> int:
        return self.centred.nbytes + self.mean.nbytes


class LogitCache:
    """The epochs of one key.

    Args:
        root: folder of all keys; made when something is first written.
        key: JSON; everything that decides the numbers.
        limit: bytes that all keys together may take. What is left free on the disk lowers it, see ``room``.
    """

    def __init__(self, root: Path, key: Mapping[str, Any], limit: int) -> None:
        self._root, self._limit = root, limit
        self._text = json.dumps({"format": FORMAT} | dict(key), sort_keys=True, indent=1)
        self.name = hashlib.sha256(self._text.encode()).hexdigest()[:32]
        self.folder = root / self.name

    def epochs(self) -> set[int]:
        """Which epochs are there now."""
        found = set()
        for path in self._files(self.folder):
            with contextlib.suppress(ValueError):
                found.add(int(path.stem.removeprefix("epoch-")))
        return found

    def room(self) -> int:
        """Bytes that all keys together may take now: the limit, and no more than half of what would be free without
        them."""
        there = self._root
        while not there.exists():
            there = there.parent
        try:
            free = shutil.disk_usage(there).free
        except OSError:
            return 0
        used = sum(size for _, size, _ in self._used(self._root))
        return min(self._limit, (free + used) // 2)

    def read(self, epoch: int, samples: int, classes: int) -> QuantizedLogits | None:
        """An epoch's logits on the CPU; None where they are not there. A damaged file is removed."""
        path = self._path(epoch)
        try:
            with openable(path) as name, safetensors.safe_open(name, framework="pt") as file:
                rows = QuantizedLogits(file.get_tensor("centred"), file.get_tensor("mean"))
                checksum = (file.metadata() or {}).get("crc32")
            shapes = (rows.centred.shape, rows.mean.shape, rows.centred.dtype)
            if shapes == ((samples, classes), (samples,), torch.float16) and checksum == _checksum(rows):
                with contextlib.suppress(OSError):
                    os.utime(path)  # the time of the last use is what eviction goes by
                return rows
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError):
            pass
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def publish(self, epoch: int, rows: QuantizedLogits) -> bool:
        """Keep an epoch's logits, files that were used longest ago making room for them; never those of this key.

        Returns whether there was room. Raises OSError where the disk refuses.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with locked(self._root / ".lock"):
            if not self._make_room(rows.nbytes):
                return False
            self.folder.mkdir(exist_ok=True)
            (self.folder / "key.json").write_text(self._text, encoding="utf-8")
            path = self._path(epoch)
            temporary = path.with_suffix(f".{os.getpid()}{_PARTIAL}")
            tensors = {"centred": rows.centred.contiguous(), "mean": rows.mean.contiguous()}
            try:
                # Not synced to the disk, which takes longer than the teacher would: a file that a power cut tore has
                # another checksum and is dropped.
                with atomic_path(path, temporary=temporary) as partial:
                    safetensors.torch.save_file(tensors, partial, {"crc32": _checksum(rows)})
            except safetensors.SafetensorError as error:  # how its writer reports a full disk
                raise OSError(str(error)) from error
        return True

    def drop(self) -> None:
        """Remove every epoch of this key."""
        with contextlib.suppress(OSError), locked(self._root / ".lock"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05}{_SUFFIX}"

    def _make_room(self, needed: int) -> bool:
        self._sweep()
        used = sorted(self._used(self._root))
        excess = sum(size for _, size, _ in used) + needed - self.room()
        for _, size, path in used:
            if excess <= 0:
                break
            # Those of this run's own key would be missed by the next run on it, and so on round and round.
            if path.parent != self.folder:
                with contextlib.suppress(OSError):
                    path.unlink()
                    excess -= size
                self._remove_if_empty(path.parent)
        return excess <= 0

    def _used(self, root: Path) -> list[tuple[float, int, Path]]:
        """Time of last use, size and path of every file."""
        found = []
        for path in root.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _sweep(self) -> None:
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


def _checksum(rows: QuantizedLogits) -> str:
    value = 0
    for tensor in (rows.centred, rows.mean):
        value = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
