"""Transfers files between the local folder of a training and an artifact store that is not a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

import structlog

from common.object_store import UPLOADS, ManifestEntry, ObjectStore, StoreError, upload_key
from core.events import Checkpointed, Event, Log
from core.protocol.worker import ArtifactRef, Claim

log = structlog.get_logger()

_UPLOAD = "upload:"
_KEEP_SECONDS = 3 * 86_400.0
_WEIGHTS = "weights.safetensors"
# The previous checkpoint protects against a damaged file on the local disk. The store has an intact latest checkpoint.
_LOCAL_ONLY = frozenset({"checkpoint.before.safetensors"})


class ArtifactTransfer:
    """Fetches the input files of trainings from the store, and starts the upload of their output files.

    Args:
        store: The artifact store.
        root: Local folder with the same relative paths as the store. The worker may delete any file in it, since the
            file can be fetched or created again.
    """

    def __init__(self, store: ObjectStore, root: Path) -> None:
        self._store = store
        self._root = root

    def fetch_inputs(self, claim: Claim) -> None:
        """Fetch the training's input files: the teachers' weights, uploaded weights and the checkpoint.

        A file that the store does not have is skipped. The code that reads the file from the folder reports that it
        is missing.

        Raises:
            StoreError: The store cannot be read.
        """
        self._prune(keep={claim.run_id})
        if claim.weights_source.startswith(_UPLOAD):
            sha256 = claim.weights_source.removeprefix(_UPLOAD)
            local = self._root / upload_key(sha256)
            if not _touch_if_present(local):
                with contextlib.suppress(FileNotFoundError):
                    self._store.get(upload_key(sha256), local, None, sha256)
        for ref in (claim.teacher, *(teacher.weights for teacher in claim.further_teachers), claim.checkpoint):
            if ref is not None:
                self._fetch(ref)

    def start_upload(self, claim: Claim, folder: Path) -> AttemptUpload:
        """Upload the files that the attempt's folder contains at the start; return the object for later uploads.

        If the store cannot be written, this call fails before the training starts and not after hours of training.

        Raises:
            StoreError: The store cannot be written.
        """
        upload = AttemptUpload(self._store, claim, folder)
        upload.put_all()
        return upload

    def _fetch(self, ref: ArtifactRef) -> None:
        # The backend chose the path; ``worker.attempt_folder.resolve_inside`` refuses one outside the folder.
        local = self._root / ref.path
        if local.resolve().is_relative_to(self._root.resolve()) and not _touch_if_present(local):
            self._store.fetch(ref.path, local)

    def _prune(self, keep: Collection[str]) -> None:
        """Delete files that were not used for ``_KEEP_SECONDS``, such as the weights of teachers."""
        oldest = time.time() - _KEEP_SECONDS
        for kind in ("runs", UPLOADS):
            with contextlib.suppress(OSError):
                for path in (self._root / kind).iterdir():
                    if path.name not in keep and _latest_mtime(path) < oldest:
                        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class AttemptUpload:
    """Uploads one attempt's files to the store. A separate thread uploads checkpoints during the training.

    Args:
        store: The artifact store.
        claim: The run.
        folder: The attempt's local folder.
    """

    def __init__(self, store: ObjectStore, claim: Claim, folder: Path) -> None:
        self._store = store
        self._claim = claim
        self._folder = folder
        self._files: dict[str, ManifestEntry] = {}
        self._uploaded: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._submitted: list[tuple[int, str]] = []
        self._errors: dict[int, str] = {}
        self._last_ticket = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, event: Checkpointed) -> int:
        """Upload a checkpoint in the background. Return a ticket for ``committed``."""
        with self._changed:
            self._last_ticket += 1
            self._submitted.append((self._last_ticket, event.path))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"store-{self._claim.run_id}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._last_ticket

    def committed(self, ticket: int, event: Checkpointed) -> Event | None:
        """Return the event to report for a submitted checkpoint; None while the checkpoint is being uploaded.

        Returns:
            ``event`` itself once the store has the checkpoint, or a warning if the upload failed.
        """
        with self._changed:
            error = self._errors.get(ticket)
        if error is None:
            return None
        if not error:
            return event
        text = f"the checkpoint at step {event.step} exists only on this worker: {error}"
        return Log(message=text, level="warning")

    def put_all(self) -> None:
        """Upload every new or changed file.

        Raises:
            StoreError: The store cannot be written. A later call does not repeat the uploads that succeeded.
        """
        self._put([path for path in sorted(self._folder.rglob("*")) if path.name not in _LOCAL_ONLY])

    def close(self) -> None:
        """End the thread that uploads checkpoints, after the checkpoints that were already submitted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def remove_local_files(self) -> None:
        """Delete local files that the store has, except a teacher's weights, which its students read."""
        keep_weights = self._claim.role == "teacher" and (self._folder / _WEIGHTS).exists()
        for path in self._folder.iterdir():
            if not (keep_weights and path.name == _WEIGHTS):
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # fails if weights remain
            self._folder.parent.rmdir()  # fails if other attempts remain

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._submitted or self._closed)
                # A later checkpoint overwrites the earlier one, so that one upload of the file completes all tickets.
                submitted, self._submitted = self._submitted, []
                if self._closed and not submitted:
                    return
            failure = ""
            try:
                self._put([self._folder / name for name in {name for _, name in submitted}])
            except OSError as error:
                failure = str(error)
                log.warning("a checkpoint was not uploaded", run=self._claim.run_id, reason=failure)
            with self._changed:
                self._errors.update(dict.fromkeys((ticket for ticket, _ in submitted), failure))

    def _put(self, paths: Collection[Path]) -> None:
        """Store the files that have changed since they were stored last, and write the manifest."""
        with self._lock:
            replaced: list[str] = []
            changed = False
            resolved_folder = self._folder.resolve()
            for path in paths:
                if path.name.startswith(".") or path.suffix == ".partial" or path.is_symlink() or not path.is_file():
                    continue
                if not path.resolve().is_relative_to(resolved_folder):
                    raise StoreError(f"{path} is outside the attempt's folder")
                name = path.relative_to(self._folder).as_posix()
                version = _file_version(path)
                if self._uploaded.get(name) == version:
                    continue
                previous = self._files.get(name)
                with _snapshot(path) as snapshot:
                    self._files[name] = entry = self._store.add(self._claim.folder, name, snapshot)
                self._uploaded[name] = version
                changed = True
                if previous is not None and previous.object != entry.object:
                    replaced.append(f"{self._claim.folder}/{previous.object}")
            if changed:
                self._store.write_manifest(self._claim.folder, self._files)
            self._store.remove(replaced)


@contextlib.contextmanager
def _snapshot(path: Path) -> Iterator[Path]:
    """Yield a link to or a copy of the file's current content, since a training may change the file at any time."""
    snapshot = path.with_name(f".sending-{uuid.uuid4().hex[:8]}")
    try:
        if path.suffix == ".safetensors":
            try:
                os.link(path, snapshot)
            except OSError:
                shutil.copyfile(path, snapshot)
        else:  # a journal or an output: the training appends to the file itself, so that a link would change too
            shutil.copyfile(path, snapshot)
        yield snapshot
    finally:
        snapshot.unlink(missing_ok=True)


def _file_version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _touch_if_present(path: Path) -> bool:
    """Return whether a file exists; if it does, set its modification time to now."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _latest_mtime(path: Path) -> float:
    times = [path.stat().st_mtime]
    times += [file.stat().st_mtime for file in path.rglob("*")] if path.is_dir() else []
    return max(times)
