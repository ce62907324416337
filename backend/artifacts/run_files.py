"""The artifact store of the backend: files of runs, and uploads. Files are found by ids, never by a client's path."""

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

from common.atomic_write import atomic_path
from common.object_store import MANIFEST, UPLOADS, ObjectStore, StoreError, upload_key

_log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-z]{1,32}")
_BLOCK = 4 << 20
_NEW = ".new-"


@dataclass(frozen=True)
class StoredFile:
    """A file of a run.

    Attributes:
        id: Hash of attempt and name, which a download's address contains.
        attempt: Number of the attempt that wrote the file.
        name: Path within the folder of that attempt.
        size: Size in bytes.
        location: Address of the file in the store; only the store reads it.
        path: Path on this machine; None if the store is a bucket.
        sha256: SHA-256 of the content; empty if the store does not record it.
    """

    id: str
    attempt: int
    name: str
    size: int
    location: str
    path: Path | None = None
    sha256: str = ""


@dataclass(frozen=True)
class StoredItem:
    """One item of the store, for garbage collection.

    Attributes:
        kind: ``attempt``, ``upload`` or ``other``.
        name: Run id and attempt folder (``ID/attempt-1``), or the name of the file.
        size: Size in bytes.
        modified: Modification time of its newest file, in seconds since 1970.
    """

    kind: str
    name: str
    size: int
    modified: float


class Store(Protocol):
    """A store of artifacts: ``runs/ID/attempt-N/…`` and ``uploads/SHA256.safetensors``.

    Attributes:
        upload_lock: Held by this process while it compares uploaded files with the rows of the database.
    """

    upload_lock: threading.Lock

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """Return the files of these attempts of a run, the newest attempt first."""
        ...

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes of a file from ``start`` to ``stop`` (exclusive)."""
        ...

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        """Remove all files of these runs; log those that cannot be removed."""
        ...

    def new_file(self) -> Path:
        """Create an empty file on this machine, to which a received upload is written."""
        ...

    def add_upload(self, path: Path, sha256: str) -> None:
        """Store a received file as an upload. The file at ``path`` stays; the caller removes it."""
        ...

    def has_upload(self, sha256: str) -> bool:
        """Return whether the file of an upload exists.

        Raises:
            OSError: The store does not answer.
        """
        ...

    def upload(self, sha256: str, size: int) -> StoredFile:
        """Return the file of an upload for ``blocks``, without looking for it.

        Args:
            sha256: SHA-256 of the upload.
            size: Its size in bytes, of the database.
        """
        ...

    def remove_upload(self, sha256: str) -> None:
        """Remove the file of an upload, if it exists."""
        ...

    def items(self) -> Iterator[StoredItem]:
        """Yield every item of the store."""
        ...

    def remove(self, item: StoredItem) -> None:
        """Remove an item.

        Raises:
            OSError: The item cannot be removed.
        """
        ...


def open_store(address: Path | str) -> Store:
    """Return the store of ``Settings.artifacts``.

    Raises:
        StoreError: The address is not usable.
    """
    return FolderStore(address) if isinstance(address, Path) else RemoteStore(address)


class FolderStore:
    """A folder that the workers write to directly: on this machine, or shared by all machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.upload_lock = threading.Lock()

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """Return the files; symbolic links are skipped."""
        files: list[StoredFile] = []
        for attempt in sorted(attempts, reverse=True):
            folder = self.root / "runs" / _require_id(run_id) / f"attempt-{attempt:d}"
            for path in _walk(folder):
                relative = path.relative_to(folder).as_posix()
                size = path.stat().st_size
                files.append(StoredFile(_file_id(attempt, relative), attempt, relative, size, str(path), path))
        return files

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        with open(file.location, "rb") as source:
            source.seek(start)
            while start < stop and (block := source.read(min(_BLOCK, stop - start))):
                start += len(block)
                yield block

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            folder = self.root / "runs" / _require_id(run_id)
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("files of a deleted run cannot be removed", folder=str(folder), error=str(error))

    def new_file(self) -> Path:
        folder = self.root / UPLOADS
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=_NEW)
        os.close(descriptor)
        return Path(name)

    def add_upload(self, path: Path, sha256: str) -> None:
        # The temporary name begins like those of ``new_file``, so that garbage collection also removes a file that a
        # crash left.
        temporary = path.with_name(f"{path.name}.link")
        with atomic_path(self.root / upload_key(sha256), temporary=temporary) as link:
            try:
                os.link(path, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, link)

    def has_upload(self, sha256: str) -> bool:
        return (self.root / upload_key(sha256)).is_file()

    def upload(self, sha256: str, size: int) -> StoredFile:
        path = self.root / upload_key(sha256)
        return StoredFile("", 0, path.name, size, str(path), path, sha256)

    def remove_upload(self, sha256: str) -> None:
        (self.root / upload_key(sha256)).unlink(missing_ok=True)

    def items(self) -> Iterator[StoredItem]:
        runs, uploads = self.root / "runs", self.root / UPLOADS
        for run in _entries(runs):
            if not run.is_dir() or run.is_symlink():
                yield _item("other", run, f"runs/{run.name}")
                continue
            for attempt in _entries(run):
                yield _item("attempt", attempt, f"{run.name}/{attempt.name}")
        for file in _entries(uploads):
            yield _item("upload" if _is_upload(file.name) else "other", file, f"{UPLOADS}/{file.name}")

    def remove(self, item: StoredItem) -> None:
        path = self.root / ("runs" if item.kind == "attempt" else "") / item.name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if item.kind == "attempt":
            with suppress(OSError):  # the folder has other attempts of the run
                path.parent.rmdir()


class RemoteStore:
    """A bucket that the workers upload their files to."""

    def __init__(self, url: str) -> None:
        self._objects = ObjectStore(url)
        self.upload_lock = threading.Lock()

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        """Return the files that the manifests of the attempts name."""
        files: list[StoredFile] = []
        for attempt in sorted(attempts, reverse=True):
            folder = f"runs/{_require_id(run_id)}/attempt-{attempt:d}"
            for name, entry in sorted(self._objects.manifest(folder).items()):
                key = f"{folder}/{entry.object}"
                files.append(StoredFile(_file_id(attempt, name), attempt, name, entry.size, key, sha256=entry.sha256))
        return files

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        for first in range(start, stop, _BLOCK):
            yield self._objects.read(file.location, first, min(first + _BLOCK, stop))

    def remove_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            try:
                self._objects.remove_folder(f"runs/{_require_id(run_id)}")
            except StoreError as error:
                _log.error("files of a deleted run cannot be removed", run=run_id, error=str(error))

    def new_file(self) -> Path:
        descriptor, name = tempfile.mkstemp(prefix="dkd-upload-")
        os.close(descriptor)
        return Path(name)

    def add_upload(self, path: Path, sha256: str) -> None:
        self._objects.put(path, upload_key(sha256))

    def has_upload(self, sha256: str) -> bool:
        try:
            self._objects.modified(upload_key(sha256))
        except FileNotFoundError:
            return False
        return True

    def upload(self, sha256: str, size: int) -> StoredFile:
        key = upload_key(sha256)
        return StoredFile("", 0, key.rpartition("/")[2], size, key, sha256=sha256)

    def remove_upload(self, sha256: str) -> None:
        try:
            self._objects.remove([upload_key(sha256)])
        except StoreError as error:
            _log.error("the file of a deleted upload cannot be removed", sha256=sha256, error=str(error))

    def items(self) -> Iterator[StoredItem]:
        sizes: dict[tuple[str, str], int] = {}
        newest: dict[tuple[str, str], str] = {}  # the object whose modification time stands for the item
        for key, info in self._objects.keys("runs"):
            parts = key.split("/")
            item = ("attempt", "/".join(parts[1:3])) if len(parts) > 3 else ("other", key)
            sizes[item] = sizes.get(item, 0) + int(info.get("size") or 0)
            if item not in newest or parts[-1] == MANIFEST:
                newest[item] = key
        for key, info in self._objects.keys(UPLOADS):
            item = ("upload" if _is_upload(key.rpartition("/")[2]) else "other", key)
            sizes[item], newest[item] = int(info.get("size") or 0), key
        for (kind, name), size in sizes.items():
            with suppress(FileNotFoundError):  # it was removed meanwhile
                yield StoredItem(kind, name, size, self._objects.modified(newest[kind, name]))

    def remove(self, item: StoredItem) -> None:
        if item.kind == "attempt":
            self._objects.remove_folder(f"runs/{item.name}")
        else:
            self._objects.remove([item.name])


def _require_id(run_id: str) -> str:
    """Return an id of the database; raise ValueError for any other text, which would be a bug."""
    if not _ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is not an id")
    return run_id


def _file_id(attempt: int, name: str) -> str:
    return hashlib.sha256(f"{attempt}/{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _is_upload(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}\.safetensors", name) is not None


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; symbolic links are skipped."""
    for directory, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(directory, name)
            if not path.is_symlink() and path.is_file():
                yield path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _item(kind: str, path: Path, name: str) -> StoredItem:
    stats = [path.lstat(), *(file.stat() for file in _walk(path))] if path.is_dir() else [path.lstat()]
    size = sum(stat.st_size for stat in (stats[1:] if path.is_dir() else stats))
    return StoredItem(kind, name, size, max(stat.st_mtime for stat in stats))
