"""Between the folder that trainings write to and an artifact store that is no folder: what is fetched, what is put."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection
from pathlib import Path

import structlog

from common.object_store import UPLOADS, ManifestEntry, ObjectStore, StoreError, upload_key
from core.events import Checkpointed, Event, Log
from core.protocol.worker import ArtifactRef, Claim

log = structlog.get_logger()

_UPLOAD = "upload:"
_KEPT_SECONDS = 3 * 86_400.0
_WEIGHTS = "weights.safetensors"
# The store has the last checkpoint whole; the one before it is for damage on a disk.
_NOT_SENT = frozenset({"checkpoint.before.safetensors"})


class Transfer:
    """The store, and the folder of this machine that stands for it: paths in both are the same.

    Args:
        root: what is in it is this worker's own, and may be fetched or made again.
    """

    def __init__(self, store: ObjectStore, root: Path) -> None:
        self._store = store
        self._root = root

    def fetch(self, claim: Claim) -> None:
        """Bring what the training will read: the teacher's weights, uploaded weights, the checkpoint.

        What the store does not have is left out; whoever looks for it in the folder says so. Raises StoreError where
        the store cannot tell.
        """
        self._prune(keep={claim.run_id})
        source = claim.spec.weights.source if claim.spec.weights else ""
        if source.startswith(_UPLOAD):
            sha256 = source.removeprefix(_UPLOAD)
            local = self._root / upload_key(sha256)
            if not _used_again(local):
                with contextlib.suppress(FileNotFoundError):
                    self._store.get(upload_key(sha256), local, None, sha256)
        for ref in (claim.teacher, claim.checkpoint):
            if ref is not None:
                self._fetch(ref)

    def begin(self, claim: Claim, folder: Path) -> Upload:
        """Put what an attempt begins with: a store that cannot be written shows before hours of training, not after."""
        upload = Upload(self._store, claim, folder)
        upload.put_all()
        return upload

    def _fetch(self, ref: ArtifactRef) -> None:
        # The backend's own words; a path that leads elsewhere is refused by ``worker.attempt_folder.inside``.
        local = self._root / ref.path
        if local.resolve().is_relative_to(self._root.resolve()) and not _used_again(local):
            self._store.fetch(ref.path, local)

    def _prune(self, keep: Collection[str]) -> None:
        """Remove what nobody has touched for days, as the weights of teachers that were fetched once."""
        late = time.time() - _KEPT_SECONDS
        for kind in ("runs", UPLOADS):
            with contextlib.suppress(OSError):
                for path in (self._root / kind).iterdir():
                    if path.name not in keep and _newest(path) < late:
                        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class Upload:
    """One attempt's files on their way to the store. Checkpoints go while it trains, in a thread of their own.

    Args:
        folder: the attempt's, on this machine.
    """

    def __init__(self, store: ObjectStore, claim: Claim, folder: Path) -> None:
        self._store = store
        self._claim = claim
        self._folder = folder
        self._files: dict[str, ManifestEntry] = {}
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._wanted: list[tuple[int, str]] = []
        self._answers: dict[int, str] = {}
        self._number = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def want(self, event: Checkpointed) -> int:
        """Have a checkpoint put into the store; returns a number to ask after it by."""
        with self._changed:
            self._number += 1
            self._wanted.append((self._number, event.path))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"store-{self._claim.run_id}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._number

    def settled(self, number: int, event: Checkpointed) -> Event | None:
        """What to report of that checkpoint: that it is there, or why it is not; None while it is on its way."""
        with self._changed:
            answer = self._answers.get(number)
        if answer is None:
            return None
        if not answer:
            return event
        text = f"the checkpoint at step {event.step} is on this worker alone: {answer}"
        return Log(message=text, level="warning")

    def put_all(self) -> None:
        """Put every file that is new or has changed. Raises StoreError; what has arrived need not be put again."""
        self._put([path for path in sorted(self._folder.rglob("*")) if path.name not in _NOT_SENT])

    def close(self) -> None:
        """Put no more checkpoints."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def remove(self) -> None:
        """Free the disk of what the store has. A teacher's weights stay for its students."""
        teacher = self._claim.spec.role == "teacher" and (self._folder / _WEIGHTS).exists()
        for path in self._folder.iterdir():
            if not (teacher and path.name == _WEIGHTS):
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # not where weights stay
            self._folder.parent.rmdir()  # not where other attempts are

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                # Written over by each other: the last state of the file is what all of them ask for.
                wanted, self._wanted = self._wanted, []
                if self._closed and not wanted:
                    return
            answer = ""
            try:
                self._put([self._folder / name for name in {name for _, name in wanted}])
            except OSError as error:
                answer = str(error)
                log.warning("a checkpoint is not in the store", run=self._claim.run_id, reason=answer)
            with self._changed:
                self._answers.update(dict.fromkeys((number for number, _ in wanted), answer))

    def _put(self, paths: Collection[Path]) -> None:
        with self._lock:
            gone: list[str] = []
            changed = False
            top = self._folder.resolve()
            for path in paths:
                if path.name.startswith(".") or path.suffix == ".partial" or path.is_symlink() or not path.is_file():
                    continue
                if not path.resolve().is_relative_to(top):
                    raise StoreError(f"{path} is not in the attempt's folder")
                name = path.relative_to(self._folder).as_posix()
                state = _state(path)
                if self._sent.get(name) == state:
                    continue
                before = self._files.get(name)
                with _pinned(path) as pinned:
                    self._files[name] = entry = self._store.add(self._claim.folder, name, pinned)
                self._sent[name] = state
                changed = True
                if before is not None and before.object != entry.object:
                    gone.append(f"{self._claim.folder}/{before.object}")
            if changed:
                self._store.write_manifest(self._claim.folder, self._files)
            self._store.remove(gone)


class _pinned:  # noqa: N801 (a context manager, used as one)
    """A file as it is now under a second name, since a training replaces its checkpoint whenever it likes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pin = path.with_name(f".sending-{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Path:
        if self._path.suffix == ".safetensors":
            try:
                os.link(self._path, self._pin)
            except OSError:
                shutil.copyfile(self._path, self._pin)
        else:  # written to its end, and so the same file all the time: a journal, the output
            shutil.copyfile(self._path, self._pin)
        return self._pin

    def __exit__(self, *_: object) -> None:
        self._pin.unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _used_again(path: Path) -> bool:
    """Whether a file is here already; it then counts as used just now."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _newest(path: Path) -> float:
    times = [path.stat().st_mtime]
    times += [file.stat().st_mtime for file in path.rglob("*")] if path.is_dir() else []
    return max(times)
