"""Sends the records of one training's journal to the backend in order; repeats records until they are accepted."""

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
from worker.backend_link import FENCED, NOT_FOUND, WorkerApi, demanded_wait, is_transient
from worker.leased_run import LeasedRun, StopIntent

log = structlog.get_logger()

_POLL_SECONDS = 0.3
_FIRST_WAIT = 0.5
_MAX_WAIT = 5.0
# Maximum number of unaccepted records in memory. During a long outage, further records are not read from the file.
_READ_AHEAD = 2_000
_BATCH_RECORDS = 500
_BATCH_BYTES = 262_144
_TAIL_LINES = 20


class CheckpointSink(Protocol):
    """Stores checkpoints for other machines. ``worker.artifact_transfer.AttemptUpload`` implements it."""

    def submit(self, event: Checkpointed) -> int:
        """Store a checkpoint in the background. Return a ticket for ``committed``."""

    def committed(self, ticket: int, event: Checkpointed) -> Event | None:
        """Return the event to report for a submitted checkpoint; None while the checkpoint is being stored."""


class Reporter:
    """Reads and sends a journal in its own thread, so that an outage of the backend never delays a training.

    A record is on disk before it is sent. Every record has a number, and the backend ignores a number that it already
    has. After an outage, the next batch starts after the last number that the backend accepted.

    Args:
        api: The backend.
        worker_id: Id of this worker.
        run: The run. A stop is requested from it if the backend refuses the reports.
        journal: The training's journal.
        checkpoint_sink: Stores each checkpoint. A checkpoint and the records after it are not reported before the sink
            has stored it. None if other machines can read the folder to which the training writes.

    Attributes:
        final_event: The training's final event; None before it has been read.
    """

    def __init__(
        self,
        api: WorkerApi,
        worker_id: str,
        run: LeasedRun,
        journal: Path,
        checkpoint_sink: CheckpointSink | None = None,
    ) -> None:
        self.final_event: Finished | Failed | Stopped | None = None
        self._api = api
        self._worker_id = worker_id
        self._leased_run = run
        self._journal = journal
        self._checkpoint_sink = checkpoint_sink
        self._tickets: dict[int, int] = {}
        self._reader = JournalReader(journal)
        self._pending: deque[Record] = deque()
        self._accepted_seq = 0
        self._demanded_wait = 0.0
        self._batch_records = _BATCH_RECORDS
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._ended = threading.Event()
        self._abandoned = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"report-{run.claim.run_id}", daemon=True)

    def start(self) -> None:
        """Start the thread that sends the records."""
        self._thread.start()

    def training_ended(self) -> None:
        """Tell the reporter that the training has ended, so that it stops after it has sent the whole journal."""
        self._ended.set()
        self._wake.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until the reporter has ended.

        Returns:
            Whether it has ended, since all records are sent, the backend refuses the reports, or it was abandoned.
        """
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Stop the reporter without sending the remaining records."""
        self._abandoned.set()
        self._wake.set()

    def log_lines(self) -> list[str]:
        """Return the last messages of the training's log."""
        return list(self._lines)

    def _run(self) -> None:
        """Send the journal's events until the training has ended and all are sent."""
        wait = _FIRST_WAIT
        while not self._abandoned.is_set():
            # Checked before the journal is read, so that all records that were written before the end are read.
            ended = self._ended.is_set()
            try:
                self._read()
            except (OSError, ValidationError) as error:
                self._abort(f"the training's journal cannot be read: {_first_line(error)}")
                return
            if not self._pending:
                if ended:
                    return
                self._pause(_POLL_SECONDS)
            elif self._send():
                wait = _FIRST_WAIT
            else:
                self._pause(wait * random.uniform(0.8, 1.2) + self._demanded_wait)
                wait = min(wait * 2, _MAX_WAIT)

    def _read(self) -> None:
        while len(self._pending) < _READ_AHEAD:
            records = self._reader.read()
            if not records:
                return
            for record in records:
                self._observe(record.event)
                if record.seq > self._accepted_seq:
                    self._pending.append(record)
                    if (
                        self._checkpoint_sink
                        and isinstance(record.event, Checkpointed)
                        and record.seq not in self._tickets
                    ):
                        self._tickets[record.seq] = self._checkpoint_sink.submit(record.event)

    def _observe(self, event: Event) -> None:
        if isinstance(event, Finished | Failed | Stopped):
            self.final_event = event
        elif isinstance(event, Started):  # a resumed journal begins with the events of an earlier attempt
            self.final_event = None
        elif isinstance(event, Log):
            self._lines.append(event.message)

    def _send(self) -> bool:
        """Send one batch. Return False if the caller has to wait before it sends the next batch."""
        self._demanded_wait = 0.0
        batch = self._next_batch()
        if not batch:
            return False
        claim = self._leased_run.claim
        try:
            accepted_seq = self._api.send_events(
                self._worker_id, claim.run_id, EventBatch(attempt=claim.attempt, records=batch)
            )
        except BackendUnreachable:
            return False
        except ApiError as error:
            if error.status in (FENCED, NOT_FOUND):
                self._leased_run.request_stop(StopIntent.DISCARD, str(error))
                self.abandon()
            elif error.status == 413 and len(batch) > 1:
                self._batch_records = len(batch) // 2
                return True
            elif not is_transient(error):
                self._abort(f"the backend refuses the training's reports: {error}")
            self._demanded_wait = demanded_wait(error)
            return False
        progress = accepted_seq >= batch[0].seq
        self._accepted_seq = accepted_seq
        if accepted_seq < batch[0].seq - 1:
            # The backend has lost records that it had accepted, for example by restoring a backup. Send them again.
            self._reader = JournalReader(self._journal)
            self._pending.clear()
        while self._pending and self._pending[0].seq <= accepted_seq:
            self._pending.popleft()
        return progress

    def _next_batch(self) -> list[Record]:
        batch: list[Record] = []
        size = 0
        for record in self._pending:
            size += _estimated_size(record.event)
            if batch and (len(batch) == self._batch_records or size > _BATCH_BYTES):
                break
            sendable = self._sendable(record)
            if sendable is None:
                break
            batch.append(sendable)
        return batch

    def _sendable(self, record: Record) -> Record | None:
        """Return the record in the form to send; None while its checkpoint is being stored."""
        if self._checkpoint_sink is None or not isinstance(record.event, Checkpointed):
            return record
        event = self._checkpoint_sink.committed(self._tickets[record.seq], record.event)
        return None if event is None else record.model_copy(update={"event": event})

    def _abort(self, reason: str) -> None:
        log.error("reporting aborted", run=self._leased_run.claim.run_id, reason=reason)
        self._leased_run.request_stop(StopIntent.ABORT, reason)
        self.abandon()

    def _pause(self, seconds: float) -> None:
        if self._wake.wait(seconds):
            self._wake.clear()


def _estimated_size(event: Event) -> int:
    """Return the approximate number of bytes of an event as JSON."""
    if isinstance(event, Metrics):
        return 150 + sum(len(name) + 25 for name in event.values)
    if isinstance(event, Started | Log):  # these may contain long texts, with several bytes per character
        return 150 + len(event.model_dump_json())
    return 150


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
