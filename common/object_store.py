"""Remote artifact stores: an S3 bucket, or any other store that fsspec reaches by an address.

A file of an attempt is an object whose name contains the file's SHA-256, and ``manifest.json`` beside it lists the
objects with their sizes and hashes. Objects are never overwritten, and the manifest is written after them. So a file is
in the store if its attempt's manifest lists it: objects that an interrupted upload left do not count as files, and a
new checkpoint does not disturb a reader of the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from common.atomic_write import atomic_path

MANIFEST = "manifest.json"
UPLOADS = "uploads"
_LOCAL = frozenset({"", "file", "local"})
_DIGITS = 16


class StoreError(OSError):
    """The store cannot be reached, refuses a request, or lacks a file that it should contain."""


@dataclass(frozen=True)
class ManifestEntry:
    """A file in a manifest.

    Attributes:
        object: Name of its object in the attempt's folder.
        size: Size in bytes.
        sha256: SHA-256 of the content, in hexadecimal digits.
    """

    object: str
    size: int
    sha256: str


def parse_artifacts(value: object) -> Path | str:
    """Parse ``DKD_ARTIFACTS``: return a folder as a Path, or the address of a remote store without a final slash.

    Raises:
        ValueError: The address cannot be used; the error says what to do.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not text:
        raise ValueError("give a folder, or an address such as s3://bucket/prefix")
    protocol, separator, path = text.partition("://")
    if not separator or protocol in _LOCAL:
        return Path(path if separator else text).expanduser()
    if "::" in text or not urlsplit(text).netloc or any(mark in text for mark in "?#@*["):
        raise ValueError(f"write {protocol}://bucket/prefix; keys belong in the environment")
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ValueError(f"{protocol}:// needs another package: {error}") from None
    except ValueError:
        raise ValueError(f"{protocol}:// is not supported by fsspec") from None
    return text.rstrip("/")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload_key(sha256: str) -> str:
    """Return the key of uploaded weights. They are named by their content, so they need no manifest."""
    return f"{UPLOADS}/{sha256}.safetensors"


class ObjectStore:
    """Reads and writes objects below one address. Keys are relative to it, with slashes.

    Every method raises StoreError if the store fails.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        # A cached listing would hide what other machines have written, and a cached instance would not use new keys in
        # the environment.
        options = {} if url.startswith("memory://") else {"use_listings_cache": False, "skip_instance_cache": True}
        with self._store_errors("open"):
            self._fs, self._root = fsspec.url_to_fs(url, **options)

    def put(self, path: Path, key: str) -> None:
        """Write a file as one object, and check its size in the store."""
        with self._store_errors(f"write {key} to"):
            self._fs.put_file(str(path), self._path(key))
            size = self._fs.info(self._path(key))["size"]
        if size != path.stat().st_size:
            raise StoreError(
                f"the artifact store {self.url} stored {size} bytes of {key} instead of {path.stat().st_size}"
            )

    def get(self, key: str, path: Path, size: int | None, sha256: str) -> None:
        """Download an object to a file, atomically.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreError: The object does not have the expected size or hash.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, private=True) as partial:
            with self._store_errors(f"read {key} from"):
                self._fs.get_file(self._path(key), str(partial))
            if (size is not None and partial.stat().st_size != size) or sha256_of(partial) != sha256:
                raise StoreError(f"{key} in the artifact store {self.url} is not the file that was put there")

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` (excluded) of an object.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreError: The object ends before ``stop``.
        """
        with self._store_errors(f"read {key} from"):
            data: bytes = self._fs.cat_file(self._path(key), start=start, end=stop)
        if len(data) != stop - start:
            raise StoreError(f"{key} in the artifact store {self.url} is shorter than it was")
        return data

    def manifest(self, folder: str) -> dict[str, ManifestEntry]:
        """Return the files of an attempt by name; empty if it has none, or its manifest is not valid."""
        try:
            with self._store_errors(f"read {folder}/{MANIFEST} from"):
                data = self._fs.cat_file(self._path(f"{folder}/{MANIFEST}"))
        except FileNotFoundError:
            return {}
        try:
            entries = {str(name): _entry(entry) for name, entry in json.loads(data)["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
        return {name: entry for name, entry in entries.items() if is_plain(name)}

    def write_manifest(self, folder: str, files: Mapping[str, ManifestEntry]) -> None:
        """Write the manifest of an attempt; an existing one is replaced."""
        entries = {
            name: {"object": entry.object, "size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(files.items())
        }
        with self._store_errors(f"write {folder}/{MANIFEST} to"):
            self._fs.pipe_file(self._path(f"{folder}/{MANIFEST}"), json.dumps({"files": entries}, indent=1).encode())

    def add(self, folder: str, name: str, path: Path) -> ManifestEntry:
        """Write a file of an attempt as an object that is named by its content. The caller writes the manifest."""
        sha256 = sha256_of(path)
        entry = ManifestEntry(f"{sha256[:_DIGITS]}.{PurePosixPath(name).name}", path.stat().st_size, sha256)
        self.put(path, f"{folder}/{entry.object}")
        return entry

    def fetch(self, key: str, path: Path) -> bool:
        """Download a file of an attempt by its key, such as ``runs/ID/attempt-1/weights.safetensors``.

        Returns:
            False if no manifest lists the file, or the file has been removed.
        """
        parts = PurePosixPath(key).parts
        folder = "/".join(parts[:3])
        entry = self.manifest(folder).get("/".join(parts[3:]))
        if entry is None:
            return False
        try:
            self.get(f"{folder}/{entry.object}", path, entry.size, entry.sha256)
        except FileNotFoundError:
            return False
        return True

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; missing ones are ignored."""
        for key in keys:
            try:
                with self._store_errors(f"remove {key} from"):
                    self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                continue

    def remove_folder(self, folder: str) -> None:
        """Remove everything below a folder, the manifests first, so that a half-removed attempt has no files."""
        keys = [key for key, _ in self.keys(folder)]
        self.remove(sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST}")))

    def keys(self, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield every object below a folder, with the store's information about it, such as its ``size``."""
        with self._store_errors(f"list {folder} in"):
            try:
                objects = self._fs.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return
        start = len(self._root.rstrip("/")) + 1
        for path, info in objects.items():
            yield path[start:], info

    def modified(self, key: str) -> float:
        """Return when an object was written, in seconds since 1970.

        Raises:
            FileNotFoundError: The object does not exist.
        """
        with self._store_errors(f"look at {key} in"):
            return float(self._fs.modified(self._path(key)).timestamp())

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    @contextmanager
    def _store_errors(self, action: str) -> Iterator[None]:
        """Convert any error of an fsspec backend, each of which has its own types, to a StoreError of one sentence."""
        try:
            yield
        except FileNotFoundError as error:
            if action.startswith(("write", "open")):
                raise StoreError(f"cannot {action} the artifact store {self.url}: {_first_line(error)}") from error
            raise
        except Exception as error:
            raise StoreError(f"cannot {action} the artifact store {self.url}: {_first_line(error)}") from error


def is_plain(name: str) -> bool:
    """Return whether a file's name stays inside its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and str(path) == name and "\0" not in name


def _entry(data: Any) -> ManifestEntry:
    entry = ManifestEntry(str(data["object"]), int(data["size"]), str(data["sha256"]))
    if "/" in entry.object or not is_plain(entry.object) or entry.size < 0:
        raise ValueError("an object outside the attempt's folder")
    return entry


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__
