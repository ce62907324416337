"""Events of a training, and the journal in which it records them. This module needs no torch.

A training appends every event to ``events.jsonl`` in its folder, one JSON object per line. The worker follows the file
and sends new events. ``seq`` counts from 1 within one attempt of a run, so that sending an event twice has no effect.
NaN and ±infinity are strings, because JSON has no such numbers.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic_core import PydanticSerializationError

from common.input_bounds import Sha256
from common.report_bounds import (
    MOST_EPOCHS,
    MOST_PARAMETERS,
    MOST_SECONDS,
    MOST_STEPS,
    Images,
    MessageText,
    RelativePath,
    Steps,
    fit_environment,
    fitted_to,
)
from core.undecodable import visible

_log = logging.getLogger(__name__)

JOURNAL_NAME = "events.jsonl"
RANKS_KEY = "ranks"
"""Key in ``Started.environment``: number of processes that train together, each on one GPU if there are GPUs."""

IMAGES_KEY = "images"
"""Key in ``Started.environment``: first digits of the SHA-256 of all training and test images with their labels."""

DECODING_KEY = "decoding"
"""Key in ``Started.environment``: the decoder of the image files; absent if no files were decoded."""

MOST_RANKS = 1024

_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BUFFER_BYTES = 16 * 2**20
_RETRY_SECONDS = 0.5


MACHINE_EXIT = 75
"""Exit status of a training that the machine prevented from continuing, such as by a full disk (EX_TEMPFAIL)."""


THREADS, MOST_THREADS = "DKD_THREADS", "DKD_MOST_THREADS"
"""Variables with the exact or the largest number of CPU threads of a training; a small training uses one thread."""
GPUS_GIVEN = "DKD_GPUS_GIVEN"
"""Variable with the number of GPUs that a worker assigned to a training, which must not run without them."""

EXTERNAL_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals by which a person or the system ends a process; other signals are faults of the program."""


def rank_count(environment: Mapping[str, str]) -> int:
    """Return the number of processes of a training; 1 if its environment has no valid number."""
    count = environment.get(RANKS_KEY, "1")
    # The length is checked first, because Python refuses to convert thousands of digits.
    return int(count) if len(count) <= 4 and count.isdecimal() and 1 <= int(count) <= MOST_RANKS else 1


def is_full_disk(error: OSError) -> bool:
    """Return whether the error means that the disk, the quota or the file size limit is exhausted."""
    return error.errno in _DISK_IS_FULL


_FROM_TEXT = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode_number(value: float) -> float | str:
    """Return a float in JSON form: the number, or "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def decode_number(value: Any) -> Any:
    """Invert ``encode_number``; other values are returned unchanged, for validation by type."""
    return _FROM_TEXT.get(value, value) if isinstance(value, str) else value


AnyFloat = Annotated[
    float,
    BeforeValidator(decode_number),
    PlainSerializer(encode_number, return_type=float | str, when_used="json"),
]
"""A float in JSON, including NaN and ±infinity."""

MetricName = Annotated[str, fitted_to(1000, lines=False), Field(min_length=1, max_length=200)]


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(_Event):
    """The training is about to take its first step, or the first step after it was resumed."""

    type: Literal["started"] = "started"
    total_steps: int = Field(ge=1, le=MOST_STEPS, description="Optimiser steps of the whole run.")
    total_epochs: int = Field(ge=1, le=MOST_EPOCHS)
    start_step: Steps = Field(0, description="Steps already done by an earlier attempt.")
    train_size: Images = Field(description="Training images.")
    test_size: Images = Field(description="Test images.")
    parameters: int = Field(ge=1, le=MOST_PARAMETERS, description="Parameters of the network that the run leaves.")
    device: Annotated[str, fitted_to(200, lines=False)] = Field(
        description='For example "cpu" or "cuda:0 NVIDIA H200".'
    )
    environment: Annotated[dict[str, str], BeforeValidator(fit_environment)] = Field(
        default_factory=dict, description="Versions, and settings that affect speed; long values are truncated."
    )


class Metrics(_Event):
    """Values at one step. The pair (name, step) is unique within a run."""

    type: Literal["metrics"] = "metrics"
    step: Steps = Field(description="Optimiser steps done.")
    epoch: float = Field(ge=0, le=MOST_EPOCHS, allow_inf_nan=False, description="Passes over the training images done.")
    elapsed: float = Field(
        ge=0, le=MOST_SECONDS, allow_inf_nan=False, description="Seconds of training, including earlier attempts."
    )
    values: dict[MetricName, AnyFloat] = Field(max_length=1000, description="NaN and ±infinity are strings.")


class Log(_Event):
    """A log line."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: MessageText


class Checkpointed(_Event):
    """A checkpoint is complete on disk."""

    type: Literal["checkpoint"] = "checkpoint"
    step: Steps
    path: RelativePath = Field(description="Relative to the attempt's folder.")


class Finished(_Event):
    """The training is complete; its weights are on disk."""

    type: Literal["finished"] = "finished"
    weights: RelativePath = Field(description="Relative to the attempt's folder.")
    sha256: Sha256 = Field(description="SHA-256 of the weight file.")
    items: RelativePath | None = Field(
        None, description="Per-item results, relative to the attempt's folder; null if there are none."
    )
    detections: RelativePath | None = Field(
        None, description="Detections on the test images, relative to the attempt's folder; null if there are none."
    )
    pictures: RelativePath | None = Field(
        None, description="Pictures of some test images, relative to the attempt's folder; null if there are none."
    )
    correlations: RelativePath | None = Field(
        None, description="Correlations of the logits, relative to the attempt's folder; null if there are none."
    )
    features: RelativePath | None = Field(
        None,
        description="Features of some test images over the epochs, relative to the attempt's folder; null if "
        "there are none.",
    )
    summary: dict[MetricName, AnyFloat] = Field(
        default_factory=dict, max_length=20_000, description="Last value of each metric."
    )


class Stopped(_Event):
    """The training was stopped by SIGTERM; a checkpoint contains all steps done."""

    type: Literal["stopped"] = "stopped"
    step: Steps


class Failed(_Event):
    """The training cannot continue, for the given reason."""

    type: Literal["failed"] = "failed"
    kind: Literal["spec", "nan", "oom", "error"]
    reason: MessageText


Event = Started | Metrics | Log | Checkpointed | Finished | Stopped | Failed


class Record(BaseModel):
    """An event with its number and its time.

    Attributes:
        seq: counts from 1 within one attempt, without gaps.
        time: seconds since 1970 by the clock of the training machine.
        event: the event.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(ge=1, le=MOST_STEPS)
    time: float = Field(allow_inf_nan=False)
    event: Annotated[Event, Field(discriminator="type")]


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


class Journal:
    """Writer of a journal, which passes each event to the operating system before ``append`` returns.

    An existing journal is continued after its last complete line; an incomplete last line is removed. While the disk
    is full, lines are buffered in memory, in order, and written as soon as there is space. The training continues.

    Args:
        path: the file.
        buffer_bytes: largest size of the buffer; ``append`` raises if it is exceeded.
    """

    def __init__(self, path: Path, *, buffer_bytes: int = _BUFFER_BYTES) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seq = 0
        self._end = 0
        if path.exists():
            for record, end in _records(path, 0):
                self.seq, self._end = record.seq, end
        self._buffer_bytes = buffer_bytes
        self._buffered: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._full_since: float | None = None
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._descriptor, self._end)

    def append(self, event: Event) -> Record:
        """Write one event, or buffer it while the disk is full.

        Raises:
            OSError: writing failed for another reason, or the buffer is full.
        """
        record = Record(seq=self.seq + 1, time=time.time(), event=event)
        try:
            line = record.model_dump_json().encode() + b"\n"
        except PydanticSerializationError:  # the event contains a file name that is not UTF-8
            record = record.model_copy(update={"event": type(event).model_validate(_make_visible(event.model_dump()))})
            line = record.model_dump_json().encode() + b"\n"
        if self._buffered_bytes + len(line) > self._buffer_bytes:
            raise OSError(errno.ENOSPC, f"the disk is full, and so is the buffer of {self.path.name}")
        self._buffered.append(line)
        self._buffered_bytes += len(line)
        self.seq = record.seq
        self._write()
        return record

    def metrics(self, *, step: int, epoch: float, elapsed: float, values: Mapping[str, float]) -> Record:
        return self.append(Metrics(step=step, epoch=epoch, elapsed=elapsed, values=dict(values)))

    def log(self, message: str, level: Literal["debug", "info", "warning", "error"] = "info") -> Record:
        return self.append(Log(message=message, level=level))

    def sync(self) -> None:
        """Flush all events to the disk.

        Raises:
            OSError: flushing failed, or the disk is full.
        """
        if not self._write():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._descriptor)

    def settle(self, seconds: float) -> bool:
        """Flush all events at the end, waiting for space on a full disk.

        Args:
            seconds: how long to wait.

        Returns:
            False if the disk was full until the end.
        """
        end = time.monotonic() + seconds
        while not self._write():
            if time.monotonic() > end:
                return False
            time.sleep(_RETRY_SECONDS)
        os.fsync(self._descriptor)
        return True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self) -> bool:
        """Write the buffered lines; return False if the disk is full."""
        while self._buffered:
            line = self._buffered[0]
            try:
                _write_all(self._descriptor, line, self._end)
            except OSError as error:
                # A partly written line would be read as the beginning of the next one.
                os.ftruncate(self._descriptor, self._end)
                if not is_full_disk(error):
                    raise
                self._log_disk_full(error)
                return False
            self._end += len(line)
            self._buffered_bytes -= len(line)
            self._buffered.popleft()
            if not self._buffered and self._full_since is not None:
                seconds, self._full_since = time.monotonic() - self._full_since, None
                self.log(
                    f"the disk was full for {seconds:.0f} s; the events of that time were buffered in memory", "warning"
                )
        return True

    def _log_disk_full(self, error: OSError) -> None:
        if self._full_since is None:
            self._full_since = time.monotonic()
            # Logged to stderr, because the journal cannot be written.
            _log.error(
                "%s: %s; the training continues, and its events are buffered in memory", self.path, error.strerror
            )


def _make_visible(value: Any) -> Any:
    """Return the value with every string in it escaped so that it is valid UTF-8."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {_make_visible(key): _make_visible(item) for key, item in value.items()}
    return value


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    remaining = memoryview(content)
    while remaining:
        written = os.pwrite(descriptor, remaining, offset)
        remaining, offset = remaining[written:], offset + written


def read_journal(path: Path) -> Iterable[Record]:
    """Return every complete record of a journal, in order; none if there is no file."""
    return (record for record, _ in _records(path, 0)) if path.exists() else ()


class JournalReader:
    """Reader that follows a journal while another process writes it; each ``read`` returns the new complete records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self, limit: int = 500) -> list[Record]:
        """Return at most ``limit`` new records; an empty list if there are none."""
        if not self.path.exists():
            return []
        records: list[Record] = []
        for record, end in _records(self.path, self._offset):
            records.append(record)
            self._offset = end
            if len(records) == limit:
                break
        return records


def _records(path: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield the complete records from a byte offset on, each with the offset after it."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):  # still being written, or cut off by a crash
                return
            offset += len(line)
            yield _RECORD.validate_json(line), offset
