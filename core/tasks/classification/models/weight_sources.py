"""Files of weights by their address: local files, uploads, object stores, https, and the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.settings import TrainingSettings
from core.specs.weights import HUB_ADDRESS
from core.tasks.classification.data.paths import PathRefusedError, spec_path
from core.weights.errors import WeightsError
from core.weights.weights_file import check_size

_UPLOAD = "upload:"  # followed by the SHA-256; the backend resolves names of uploads to it
_SCHEMES = ("hf", "https", "s3", "gs", "file")
_BLOCK_BYTES = 1 << 20
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files that are looked for in a repository of the Hub, if the address names none."""


@contextmanager
def local_file(source: str, sha256: str | None, settings: TrainingSettings) -> Iterator[Path]:
    """Yield the path of a local file with the weights.

    A file of the Hub stays in the Hub's cache. A file from another address stays in this program's cache if its SHA-256
    is known; otherwise it is removed afterwards, because the same address may have other content the next time.

    Args:
        source: a path, an upload, or an address.
        sha256: expected SHA-256 of the file; None skips the check.
        settings: folders and limits of this machine.

    Raises:
        WeightsError: the file cannot be had, is too large or has another hash; the message says what to do.
    """
    scheme, separator, rest = source.partition("://")
    if source.startswith(_UPLOAD):
        yield _checked(_upload_path(source, settings.uploads), source, sha256, settings)
    elif not separator or scheme == "file":
        try:
            path = spec_path(rest if separator else source, "file", settings)
        except PathRefusedError as error:
            raise WeightsError(f"{error}. The weights of a teacher are searched for there") from None
        yield _checked(path, source, sha256, settings)
    elif scheme == "hf":
        yield _checked(_hub_file(source, settings), source, sha256, settings)
    elif sha256 is not None:
        yield _cached(source, sha256, settings)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights")
            _fetch(source, path, settings)
            yield path


def _checked(path: Path, source: str, sha256: str | None, settings: TrainingSettings) -> Path:
    """Return a path whose file has the expected hash."""
    if sha256 is not None:
        try:
            check_size(path.stat().st_size, settings.max_weights_bytes)
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise WeightsError(f"{source}: cannot be read: {error.strerror or error}") from error
        if actual != sha256:
            raise WeightsError(f"{source} has the SHA-256 {actual}, not {sha256}: it is not the expected file")
    return path


def _cached(source: str, sha256: str, settings: TrainingSettings) -> Path:
    """Return the file with this hash from the cache; fetch it if it is not there.

    The hash is the name, so the cache also serves other addresses of the file, and works without a network.
    """
    path = settings.cache_dir / "weights" / sha256
    if path.is_file():
        return _checked(path, source, sha256, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetched = Path(folder, "weights")
        _fetch(source, fetched, settings)
        # Renamed after the check, so that a name in the cache always has the content that it says.
        os.replace(_checked(fetched, source, sha256, settings), path)
    return path


def _upload_path(source: str, folder: Path | None) -> Path:
    if folder is None:
        raise WeightsError(
            f"{source} is in the store of a backend, which this run does not have; give the path of the file instead"
        )
    name = source.removeprefix(_UPLOAD)
    path = Path(folder, f"{name}.safetensors")
    if not re.fullmatch("[0-9a-f]{64}", name) or not path.is_file():
        raise WeightsError(f"{source} is no longer in the artifact store; upload it again")
    return path


def _hub_file(source: str, settings: TrainingSettings) -> Path:
    """Return the file of an address ``hf://OWNER/NAME[@REVISION][/FILE]`` in the Hub's cache.

    It is downloaded only with DKD_DOWNLOAD=1, and never if HF_HUB_OFFLINE is set.
    """
    match = HUB_ADDRESS.fullmatch(source)
    if match is None:
        raise WeightsError(f"{source} is not an address of the form hf://OWNER/NAME[@REVISION][/FILE]")
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise WeightsError("reading hf:// requires the package huggingface_hub on the worker") from None
    download = settings.download and not constants.HF_HUB_OFFLINE
    place: dict[str, Any] = {
        "repo_id": match["repository"],
        "revision": match["revision"],
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }
    for name in [match["file"]] if match["file"] else _HUB_FILES:
        try:
            if download:
                check_size(_announced_size({**place, "filename": name}), settings.max_weights_bytes)
            return Path(hf_hub_download(filename=name, local_files_only=not download, **place))
        except LocalEntryNotFoundError as error:
            if download:  # the network fails, and the file is not in the cache
                raise WeightsError(f"cannot fetch {source}: {_first_line(error)}") from error
        except EntryNotFoundError:
            continue
        except WeightsError as error:
            raise WeightsError(f"{source}: {error}") from None
        except Exception as error:  # errors of the network have various types
            raise WeightsError(f"cannot fetch {source}: {_first_line(error)}") from error
    names = match["file"] or " and no ".join(_HUB_FILES)
    if download:
        raise WeightsError(f"{source}: the repository has no {names}")
    raise WeightsError(
        f"{source} is not in the cache of this machine (HF_HOME), and downloads are off; set DKD_DOWNLOAD=1, without "
        "HF_HUB_OFFLINE"
    )


def _announced_size(place: dict[str, Any]) -> int:
    """Return the size of a file of the Hub in bytes; 0 if it is not announced, or the Hub cannot be reached.

    Raises:
        HfHubHTTPError: The Hub refuses the request.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return get_hf_file_metadata(hf_hub_url(**place)).size or 0
    except HfHubHTTPError:
        raise
    except Exception:  # noqa: BLE001 (errors of the network; the cache may still have the file)
        return 0


def _fetch(source: str, path: Path, settings: TrainingSettings) -> None:
    """Download at most ``settings.max_weights_bytes``, whatever length the server announces."""
    scheme = source.partition("://")[0]
    if scheme not in _SCHEMES or "::" in source:
        raise WeightsError(f"weights cannot be read from {source}: give a path or {', '.join(_SCHEMES)}://…")
    if scheme == "https" and not settings.download:
        raise WeightsError(f"downloads are off; set DKD_DOWNLOAD=1, or download {source} and give the path of the file")
    import fsspec

    limit = settings.max_weights_bytes
    # As a stream: fsspec would buffer all that a server sends for a file of an announced length.
    options = {"block_size": 0} if scheme == "https" else {}
    try:
        with fsspec.open(source, "rb", **options) as remote, path.open("wb") as local:
            check_size(getattr(remote, "size", None) or 0, limit)
            remaining = limit
            while block := remote.read(_BLOCK_BYTES):
                remaining -= len(block)
                if remaining < 0:
                    check_size(limit + 1, limit)
                local.write(block)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    except ImportError as error:
        raise WeightsError(f"reading {scheme}:// requires another package on the worker: {error}") from error
    except Exception as error:  # the backends of fsspec raise various exceptions
        raise WeightsError(f"cannot fetch {source}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
