"""What the trainings write down of themselves, and what follows from it. Imports only the standard library.

Whether a run was trained twice at the same time is judged from here alone, not from what the backend or the workers
believe: every process of a training says when it starts, that it lives (ten times a second) and when it stops, and
holds a lock that the kernel takes from it when it dies, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

RECORDS = "CHAOS_RECORDS"
"""Variable with the folder of the records."""

_TICK_SECONDS = 0.1
_MOST_RANKS = 8


@dataclass(frozen=True)
class Life:
    """One process of an attempt.

    Attributes:
        start: seconds by the machine's monotonic clock, which all processes share.
        last: of its last sign of life.
        stopped: whether it said that it stops; a killed one does not.
    """

    run: str
    attempt: int
    rank: int
    pid: int
    start: float
    last: float
    stopped: bool


@dataclass(frozen=True)
class Overlap:
    """Two attempts at one run that lived at the same time, and how that is known."""

    run: str
    attempts: tuple[int, int]
    seen: str


class Presence:
    """Held by a process of a training while it lives. A context manager.

    Args:
        folder: of the records.
        rank: 0 is the one that the worker's launcher started; it looks for processes of other attempts.
    """

    def __init__(self, folder: Path, run: str, attempt: int, rank: int = 0) -> None:
        self._folder, self._run, self._attempt, self._rank = folder, run, attempt, rank
        self._file = -1
        self._lock = -1
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(self._folder / "records.jsonl", flags, 0o644)
        for rank in range(_MOST_RANKS) if self._rank == 0 else (self._rank,):
            self._take(rank)
        self._write("start", sync=True)
        threading.Thread(target=self._live, name="presence", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._write("stop", sync=True)

    def _take(self, rank: int) -> None:
        """Take our own lock and keep it; look only whether another rank's is free."""
        path = self._folder / f"{self._run}-{rank}.lock"
        if rank != self._rank and not path.exists():
            return
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._write("overlap", with_attempt=int(os.pread(lock, 20, 0) or b"0"), with_rank=rank)
            os.close(lock)
            return
        if rank != self._rank:
            os.close(lock)
            return
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(self._attempt).encode(), 0)
        self._lock = lock

    def _live(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self._write("tick")

    def _write(self, what: str, *, sync: bool = False, **more: int) -> None:
        record = {"run": self._run, "attempt": self._attempt, "rank": self._rank, "pid": os.getpid(), "what": what}
        record |= {"mono": time.monotonic(), "wall": time.time(), **more}
        # One write of a short line to a file opened for appending is not torn by others.
        os.write(self._file, json.dumps(record).encode() + b"\n")
        if sync:
            os.fsync(self._file)


def presence_of(attempt_folder: Path, rank: int = 0) -> Presence:
    """Of the process that trains in ``…/RUN/attempt-N``; the folder of the records is in the environment."""
    number = int(attempt_folder.name.removeprefix("attempt-"))
    return Presence(Path(os.environ[RECORDS]), attempt_folder.parent.name, number, rank)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every record, in the order of writing."""
    path = folder / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lives(records: Iterable[dict[str, Any]]) -> list[Life]:
    """The processes that the records tell of."""
    found: dict[tuple[str, int, int, int], dict[str, Any]] = {}
    for record in records:
        if record["what"] == "overlap":
            continue
        key = (record["run"], record["attempt"], record["rank"], record["pid"])
        life = found.setdefault(key, {"start": record["mono"], "last": record["mono"], "stopped": False})
        life["last"] = max(life["last"], record["mono"])
        life["stopped"] |= record["what"] == "stop"
    return [Life(*key, **life) for key, life in found.items()]


def overlaps(records: Sequence[dict[str, Any]]) -> list[Overlap]:
    """Every pair of attempts at one run of which any two processes lived at the same time."""
    found = {
        (record["run"], record["with_attempt"], record["attempt"]): "a lock was still held"
        for record in records
        if record["what"] == "overlap" and record["with_attempt"] != record["attempt"]
    }
    by_run: dict[str, list[Life]] = {}
    for life in lives(records):
        by_run.setdefault(life.run, []).append(life)
    for run, those in by_run.items():
        those.sort(key=lambda life: life.start)
        for index, first in enumerate(those):
            for second in those[index + 1 :]:
                if first.attempt != second.attempt and second.start < first.last:
                    found.setdefault((run, first.attempt, second.attempt), "times of their records")
    return [Overlap(run, (first, second), seen) for (run, first, second), seen in sorted(found.items())]


def held(folder: Path, run: str) -> bool:
    """Whether any process of a run lives now, by its locks."""
    for path in folder.glob(f"{run}-*.lock"):
        lock = os.open(path, os.O_RDWR)
        try:
            # Shared: a training that starts meanwhile and meets this look would take it for another training.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False
