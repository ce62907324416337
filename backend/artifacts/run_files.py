"""The files that runs leave behind. They are found by ids; no path from outside reaches the store."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from common.object_store import MANIFEST, UPLOADS, ObjectStore, StoreError, upload_key

_log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-z]{1,32}")
_BLOCK = 4 << 20
_NEW = ".new-"


@dataclass(frozen=True)
class StoredFile:
    """A file of a run.

    Attributes:
        id: made from its place; what a download names it by.
        attempt: that wrote it.
        name: within that attempt's folder.
        size: bytes.
        at: where the store has it, for the store alone.
        path: on this machine; None where the store is elsewhere.
        sha256: where the store knows it.
    """

    id: str
    attempt: int
    name: str
    size: int
    at: str
    path: Path | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Kept:
    """Something that the store has, for whoever tidies it.

    Attributes:
        kind: of it.
        name: the run's id and the attempt's folder (``ID/attempt-1``), or the file's name.
        size: bytes.
        modified: the newest file in it, seconds since 1970.
    """

    kind: str
    name: str
    size: int
    modified: float


class Store(Protocol):
    """Where artifacts are. ``runs/ID/attempt-N/…`` and ``uploads/SHA256.safetensors`` are in it.

    Attributes:
        changing: held by this process while it compares uploaded files with what the database says of them.
    """

    changing: threading.Lock

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """The files of these attempts of a run, the newest attempt first."""
        ...

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (not included) of a file."""
        ...

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        """Remove all files of these runs. What cannot be removed is written to the log."""
        ...

    def new_file(self) -> Path:
        """An empty file on this machine, to receive an upload in."""
        ...

    def keep_upload(self, path: Path, sha256: str) -> None:
        """Make a received file an upload. It stays at its path too, for its sender to remove."""
        ...

    def has_upload(self, sha256: str) -> bool:
        """Whether the file of an upload is there. Raises OSError where the store does not answer."""
        ...

    def remove_upload(self, sha256: str) -> None: ...

    def kept(self) -> Iterator[Kept]:
        """Every attempt (``attempt``), upload (``upload``), and what is neither (``other``)."""
        ...

    def remove(self, kept: Kept) -> None:
        """Remove it. Raises OSError."""
        ...


def open_store(where: Path | str) -> Store:
    """The store of ``Settings.artifacts``. Raises StoreError."""
    return FolderStore(where) if isinstance(where, Path) else RemoteStore(where)


class FolderStore:
    """A folder that the workers write to themselves: of this machine, or one that all machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changing = threading.Lock()

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """Links are passed over."""
        found: list[StoredFile] = []
        for attempt in sorted(attempts, reverse=True):
            folder = self.root / "runs" / _checked(run_id) / f"attempt-{attempt:d}"
            for path in _walk(folder):
                relative = path.relative_to(folder).as_posix()
                size = path.stat().st_size
                found.append(StoredFile(_identity(attempt, relative), attempt, relative, size, str(path), path))
        return found

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        with open(file.at, "rb") as source:
            source.seek(start)
            while start < stop and (block := source.read(min(_BLOCK, stop - start))):
                start += len(block)
                yield block

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            folder = self.root / "runs" / _checked(run_id)
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("files of a deleted run are still there", folder=str(folder), error=str(error))

    def new_file(self) -> Path:
        folder = self.root / UPLOADS
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=_NEW)
        os.close(descriptor)
        return Path(name)

    def keep_upload(self, path: Path, sha256: str) -> None:
        second = path.with_name(f"{path.name}.link")
        try:
            try:
                os.link(path, second)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, second)
            os.replace(second, self.root / upload_key(sha256))
        finally:
            second.unlink(missing_ok=True)

    def has_upload(self, sha256: str) -> bool:
        return (self.root / upload_key(sha256)).is_file()

    def remove_upload(self, sha256: str) -> None:
        (self.root / upload_key(sha256)).unlink(missing_ok=True)

    def kept(self) -> Iterator[Kept]:
        runs, uploads = self.root / "runs", self.root / UPLOADS
        for run in _entries(runs):
            if not run.is_dir() or run.is_symlink():
                yield _kept("other", run, f"runs/{run.name}")
                continue
            for attempt in _entries(run):
                yield _kept("attempt", attempt, f"{run.name}/{attempt.name}")
        for file in _entries(uploads):
            yield _kept("upload" if _is_upload(file.name) else "other", file, f"{UPLOADS}/{file.name}")

    def remove(self, kept: Kept) -> None:
        path = self.root / ("runs" if kept.kind == "attempt" else "") / kept.name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if kept.kind == "attempt":
            with suppress(OSError):  # other attempts of the run are there
                path.parent.rmdir()


class RemoteStore:
    """A bucket, which the workers put their files into."""

    def __init__(self, url: str) -> None:
        self._objects = ObjectStore(url)
        self.changing = threading.Lock()

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """What the manifests name."""
        found: list[StoredFile] = []
        for attempt in sorted(attempts, reverse=True):
            folder = f"runs/{_checked(run_id)}/attempt-{attempt:d}"
            for name, entry in sorted(self._objects.manifest(folder).items()):
                at = f"{folder}/{entry.object}"
                found.append(StoredFile(_identity(attempt, name), attempt, name, entry.size, at, sha256=entry.sha256))
        return found

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        for first in range(start, stop, _BLOCK):
            yield self._objects.read(file.at, first, min(first + _BLOCK, stop))

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            try:
                self._objects.remove_folder(f"runs/{_checked(run_id)}")
            except StoreError as error:
                _log.error("files of a deleted run are still there", run=run_id, error=str(error))

    def new_file(self) -> Path:
        descriptor, name = tempfile.mkstemp(prefix="dkd-upload-")
        os.close(descriptor)
        return Path(name)

    def keep_upload(self, path: Path, sha256: str) -> None:
        self._objects.put(path, upload_key(sha256))

    def has_upload(self, sha256: str) -> bool:
        try:
            self._objects.modified(upload_key(sha256))
        except FileNotFoundError:
            return False
        return True

    def remove_upload(self, sha256: str) -> None:
        try:
            self._objects.remove([upload_key(sha256)])
        except StoreError as error:
            _log.error("an upload that was deleted is still there", sha256=sha256, error=str(error))

    def kept(self) -> Iterator[Kept]:
        sizes: dict[tuple[str, str], int] = {}
        probes: dict[tuple[str, str], str] = {}
        for key, info in self._objects.keys("runs"):
            parts = key.split("/")
            which = ("attempt", "/".join(parts[1:3])) if len(parts) > 3 else ("other", key)
            sizes[which] = sizes.get(which, 0) + int(info.get("size") or 0)
            if which not in probes or parts[-1] == MANIFEST:
                probes[which] = key
        for key, info in self._objects.keys(UPLOADS):
            which = ("upload" if _is_upload(key.rpartition("/")[2]) else "other", key)
            sizes[which], probes[which] = int(info.get("size") or 0), key
        for (kind, name), size in sizes.items():
            with suppress(FileNotFoundError):  # it has gone meanwhile
                yield Kept(kind, name, size, self._objects.modified(probes[kind, name]))

    def remove(self, kept: Kept) -> None:
        if kept.kind == "attempt":
            self._objects.remove_folder(f"runs/{kept.name}")
        else:
            self._objects.remove([kept.name])


def _checked(run_id: str) -> str:
    """An id of the database. Raises ValueError for anything else, which would be a fault of ours."""
    if not _ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is not an id")
    return run_id


def _identity(attempt: int, name: str) -> str:
    return hashlib.sha256(f"{attempt}/{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _is_upload(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}\.safetensors", name) is not None


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder; links are passed over."""
    for directory, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(directory, name)
            if not path.is_symlink() and path.is_file():
                yield path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _kept(kind: str, path: Path, name: str) -> Kept:
    stats = [path.lstat(), *(file.stat() for file in _walk(path))] if path.is_dir() else [path.lstat()]
    size = sum(stat.st_size for stat in (stats[1:] if path.is_dir() else stats))
    return Kept(kind, name, size, max(stat.st_mtime for stat in stats))
