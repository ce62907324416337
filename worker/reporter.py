"""Sends one training's journal to the backend, in order, as often as it takes."""

from __future__ import annotations

import random
import threading
from collections import deque
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import ValidationError

from client import ApiError, BackendUnreachable
from core.events import Checkpointed, Event, Failed, Finished, JournalReader, Log, Metrics, Record, Started, Stopped
from core.protocol.worker import EventBatch
from worker.backend_link import FENCED, UNKNOWN, WorkerApi, is_passing
from worker.leased_run import HeldRun, Want

log = structlog.get_logger()

_POLL_SECONDS = 0.3
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 5.0
# What is read ahead of what the backend has taken in: the rest of a long outage waits in the file.
_READ_AHEAD = 2_000
_BATCH_RECORDS = 500
_BATCH_BYTES = 262_144
_TAIL_LINES = 20


class Keeper(Protocol):
    """Brings checkpoints to where another machine finds them; ``worker.artifact_transfer.Upload`` is one."""

    def want(self, event: Checkpointed) -> int: ...

    def settled(self, number: int, event: Checkpointed) -> Event | None: ...


class Reporter:
    """Follows a journal in a thread of its own, so that an outage never keeps a training from being ended.

    The journal is on the disk before anything is sent, and every record has its number, so that sending one twice
    changes nothing: after an outage the next batch begins where the backend's last answer ended.

    Args:
        keeper: a checkpoint, and what comes after it, is not reported before this has it; None where the folder that
            the training writes to is where other machines look.

    Attributes:
        ending: the event the training ended with, once it has been read.
        fault: why the journal cannot be reported to its end; empty where it can.
    """

    def __init__(
        self, api: WorkerApi, worker_id: str, held: HeldRun, journal: Path, keeper: Keeper | None = None
    ) -> None:
        self.ending: Finished | Failed | Stopped | None = None
        self.fault = ""
        self._api = api
        self._worker_id = worker_id
        self._held = held
        self._journal = journal
        self._keeper = keeper
        self._kept: dict[int, int] = {}
        self._reader = JournalReader(journal)
        self._pending: deque[Record] = deque()
        self._accepted = 0
        self._batch_records = _BATCH_RECORDS
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._ended = threading.Event()
        self._abandoned = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"report-{held.claim.run_id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def training_ended(self) -> None:
        """Nothing more will be written: read to the end, send it, and be done."""
        self._ended.set()
        self._wake.set()

    def done(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the end. Whether it has come: all is sent, or there is a fault, or all is lost."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Send nothing more."""
        self._abandoned.set()
        self._wake.set()

    def log_lines(self) -> list[str]:
        """The last messages of the training's own log."""
        return list(self._lines)

    def _run(self) -> None:
        wait = _FIRST_WAIT
        while not self._abandoned.is_set():
            # Before reading: what was written before the end is then read after it is known.
            ended = self._ended.is_set()
            try:
                self._read()
            except (OSError, ValidationError) as error:
                self._give_up(f"the training's journal cannot be read: {_first_line(error)}")
                return
            if not self._pending:
                if ended:
                    return
                self._pause(_POLL_SECONDS)
            elif self._send():
                wait = _FIRST_WAIT
            else:
                self._pause(wait * random.uniform(0.8, 1.2))
                wait = min(wait * 2, _LONGEST_WAIT)

    def _read(self) -> None:
        while len(self._pending) < _READ_AHEAD:
            records = self._reader.read()
            if not records:
                return
            for record in records:
                self._note(record.event)
                if record.seq > self._accepted:
                    self._pending.append(record)
                    if self._keeper and isinstance(record.event, Checkpointed) and record.seq not in self._kept:
                        self._kept[record.seq] = self._keeper.want(record.event)

    def _note(self, event: Event) -> None:
        if isinstance(event, Finished | Failed | Stopped):
            self.ending = event
        elif isinstance(event, Started):  # a resumed journal begins with what an earlier attempt said
            self.ending = None
        elif isinstance(event, Log):
            self._lines.append(event.message)

    def _send(self) -> bool:
        """Send one batch. False where it is to be tried again after a pause."""
        batch = self._batch()
        if not batch:
            return False
        claim = self._held.claim
        try:
            accepted = self._api.send_events(
                self._worker_id, claim.run_id, EventBatch(attempt=claim.attempt, records=batch)
            )
        except BackendUnreachable:
            return False
        except ApiError as error:
            if error.status in (FENCED, UNKNOWN):
                self._held.ask(Want.DROP, str(error))
                self.abandon()
            elif error.status == 413 and len(batch) > 1:
                self._batch_records = len(batch) // 2
                return True
            elif not is_passing(error):
                self._give_up(f"the backend refuses what the training reports: {error}")
            return False
        progress = accepted >= batch[0].seq
        self._accepted = accepted
        if accepted < batch[0].seq - 1:
            # It has lost what it had taken in, as after a restored backup: from there once more.
            self._reader = JournalReader(self._journal)
            self._pending.clear()
        while self._pending and self._pending[0].seq <= accepted:
            self._pending.popleft()
        return progress

    def _batch(self) -> list[Record]:
        batch: list[Record] = []
        size = 0
        for record in self._pending:
            size += _size(record.event)
            if batch and (len(batch) == self._batch_records or size > _BATCH_BYTES):
                break
            settled = self._settled(record)
            if settled is None:
                break
            batch.append(settled)
        return batch

    def _settled(self, record: Record) -> Record | None:
        """The record as it is to be sent; None while a checkpoint is on its way to the store."""
        if self._keeper is None or not isinstance(record.event, Checkpointed):
            return record
        event = self._keeper.settled(self._kept[record.seq], record.event)
        return None if event is None else record.model_copy(update={"event": event})

    def _give_up(self, fault: str) -> None:
        log.error("reporting given up", run=self._held.claim.run_id, reason=fault)
        self.fault = fault
        self._held.ask(Want.GIVE_UP, fault)
        self.abandon()

    def _pause(self, seconds: float) -> None:
        if self._wake.wait(seconds):
            self._wake.clear()


def _size(event: Event) -> int:
    """Bytes of an event as JSON, roughly."""
    if isinstance(event, Metrics):
        return 150 + sum(len(name) + 25 for name in event.values)
    if isinstance(event, Started | Log):  # long texts, of characters that may take several bytes each
        return 150 + len(event.model_dump_json())
    return 150


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
