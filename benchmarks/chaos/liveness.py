"""Records of living training processes, which show whether a run was trained twice at the same time.

The records are independent of the backend and the workers: every process of a training records its start, a sign of
life ten times a second, and its end, and holds a lock that the kernel releases when it dies, in whatever way. This
module imports only the standard library.
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
"""Environment variable with the folder of the records."""

_TICK_SECONDS = 0.1
_MOST_RANKS = 8


@dataclass(frozen=True)
class ProcessLife:
    """One process of an attempt.

    Attributes:
        start: time in seconds of the machine's monotonic clock, which all processes share.
        last: time of its last sign of life.
        stopped: whether it recorded its end, which a killed process does not.
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
    """Two attempts at one run that lived at the same time, and the evidence."""

    run: str
    attempts: tuple[int, int]
    evidence: str


class LivenessRecorder:
    """A context manager that records the life of a training process.

    Args:
        folder: The folder of the records.
        rank: 0 for the process that the worker's launcher started, which also checks for processes of other attempts.
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
            self._lock_rank(rank)
        self._write("start", sync=True)
        threading.Thread(target=self._record_ticks, name="presence", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._write("stop", sync=True)

    def _lock_rank(self, rank: int) -> None:
        """Acquire and keep the lock of this process; for another rank, check only that its lock is free."""
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

    def _record_ticks(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self._write("tick")

    def _write(self, kind: str, *, sync: bool = False, **more: int) -> None:
        record = {"run": self._run, "attempt": self._attempt, "rank": self._rank, "pid": os.getpid(), "what": kind}
        record |= {"mono": time.monotonic(), "wall": time.time(), **more}
        # One write of a short line to a file opened for appending is atomic.
        os.write(self._file, json.dumps(record).encode() + b"\n")
        if sync:
            os.fsync(self._file)


def recorder_for(attempt_folder: Path, rank: int = 0) -> LivenessRecorder:
    """Return the recorder of the process that trains in ``…/RUN/attempt-N``; the environment has the folder."""
    number = int(attempt_folder.name.removeprefix("attempt-"))
    return LivenessRecorder(Path(os.environ[RECORDS]), attempt_folder.parent.name, number, rank)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return every record, in the order of writing."""
    path = folder / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def process_lives(records: Iterable[dict[str, Any]]) -> list[ProcessLife]:
    """Return the processes in the records."""
    lives: dict[tuple[str, int, int, int], dict[str, Any]] = {}
    for record in records:
        if record["what"] == "overlap":
            continue
        key = (record["run"], record["attempt"], record["rank"], record["pid"])
        life = lives.setdefault(key, {"start": record["mono"], "last": record["mono"], "stopped": False})
        life["last"] = max(life["last"], record["mono"])
        life["stopped"] |= record["what"] == "stop"
    return [ProcessLife(*key, **life) for key, life in lives.items()]


def overlaps(records: Sequence[dict[str, Any]]) -> list[Overlap]:
    """Return every pair of attempts at one run with two processes that lived at the same time."""
    evidence = {
        (record["run"], record["with_attempt"], record["attempt"]): "a lock was still held"
        for record in records
        if record["what"] == "overlap" and record["with_attempt"] != record["attempt"]
    }
    by_run: dict[str, list[ProcessLife]] = {}
    for life in process_lives(records):
        by_run.setdefault(life.run, []).append(life)
    for run, lives in by_run.items():
        lives.sort(key=lambda life: life.start)
        for index, first in enumerate(lives):
            for second in lives[index + 1 :]:
                if first.attempt != second.attempt and second.start < first.last:
                    evidence.setdefault((run, first.attempt, second.attempt), "times of their records")
    return [Overlap(run, (first, second), text) for (run, first, second), text in sorted(evidence.items())]


def is_alive(folder: Path, run: str) -> bool:
    """Return whether any process of a run is alive, by its locks."""
    for path in folder.glob(f"{run}-*.lock"):
        lock = os.open(path, os.O_RDWR)
        try:
            # Shared: a training that starts during this check would take an exclusive lock for another training.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False
