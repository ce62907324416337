"""What a training says of itself, and the journal it says it in. Free of torch.

A training appends every event to ``events.jsonl`` in its own folder, one JSON object a line, before anybody reads it;
the worker follows the file and sends what is new. ``seq`` counts from 1 within one attempt at one run, so that sending
twice changes nothing. NaN and ±infinity travel as strings, since JSON has neither.
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
    Message,
    RelativePath,
    Steps,
    fit,
    fit_environment,
)
from core.undecodable import visible

_log = logging.getLogger(__name__)

JOURNAL_NAME = "events.jsonl"
RANKS_KEY = "ranks"
"""In ``Started.environment``: how many processes train together, on a GPU each where there are GPUs."""

IMAGES_KEY = "images"
"""In ``Started.environment``: the beginning of the SHA-256 of all images, training and test, with their labels."""

DECODING_KEY = "decoding"
"""In ``Started.environment``: what decoded image files into pixels; absent where no files were decoded."""

MOST_RANKS = 1024

_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_KEPT_BYTES = 16 * 2**20
_SETTLE_STEP_SECONDS = 0.5


MACHINE_EXIT = 75
"""Exit status of a training that its machine kept from going on, as by a full disk: BSD's EX_TEMPFAIL."""


THREADS, MOST_THREADS = "DKD_THREADS", "DKD_MOST_THREADS"
"""CPU threads of a training: exactly so many, or at most so many, of which a small one takes one."""
GPUS_GIVEN = "DKD_GPUS_GIVEN"
"""Variable with the number of GPUs that a worker has given a training, which must not do without."""

EXTERNAL_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals by which people and the system end a process; the others are faults of the program itself."""


def rank_count(environment: Mapping[str, str]) -> int:
    """How many processes a training says that it consists of; 1 where it says nothing that could be."""
    count = environment.get(RANKS_KEY, "1")
    # Not read as a number where it is longer: Python refuses one of thousands of digits.
    return int(count) if len(count) <= 4 and count.isdecimal() and 1 <= int(count) <= MOST_RANKS else 1


def is_full_disk(error: OSError) -> bool:
    """Whether it says that no more can be written here, which may pass once somebody makes room."""
    return error.errno in _DISK_IS_FULL


_FROM_TEXT = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode_number(value: float) -> float | str:
    """A float as JSON can hold it: itself, or "NaN", "Infinity", "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def decode_number(value: Any) -> Any:
    """The inverse of ``encode_number``; anything else is returned as it came, to be judged by its type."""
    return _FROM_TEXT.get(value, value) if isinstance(value, str) else value


AnyFloat = Annotated[
    float,
    BeforeValidator(decode_number),
    PlainSerializer(encode_number, return_type=float | str, when_used="json"),
]
"""A float in a JSON body, NaN and ±infinity included."""

MetricName = Annotated[str, fit(1000, lines=False), Field(min_length=1, max_length=200)]


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(_Event):
    """The training is about to take its first step (or its first since it was resumed)."""

    type: Literal["started"] = "started"
    total_steps: int = Field(ge=1, le=MOST_STEPS, description="Optimiser steps of the whole run.")
    total_epochs: int = Field(ge=1, le=MOST_EPOCHS)
    start_step: Steps = Field(0, description="Steps already done by an earlier attempt.")
    train_size: Images = Field(description="Training images.")
    test_size: Images = Field(description="Test images.")
    parameters: int = Field(ge=1, le=MOST_PARAMETERS, description="Trainable parameters of the network.")
    device: Annotated[str, fit(200, lines=False)] = Field(description='As "cpu" or "cuda:0 NVIDIA H200".')
    environment: Annotated[dict[str, str], BeforeValidator(fit_environment)] = Field(
        default_factory=dict, description="Versions and settings chosen for speed; long ones are cut."
    )


class Metrics(_Event):
    """Values at one step. The pair (name, step) is unique within a run."""

    type: Literal["metrics"] = "metrics"
    step: Steps = Field(description="Optimiser steps done.")
    epoch: float = Field(ge=0, le=MOST_EPOCHS, allow_inf_nan=False, description="Passes over the training images done.")
    elapsed: float = Field(
        ge=0, le=MOST_SECONDS, allow_inf_nan=False, description="Seconds of training, earlier attempts included."
    )
    values: dict[MetricName, AnyFloat] = Field(max_length=1000, description="NaN and ±infinity as texts.")


class Log(_Event):
    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: Message


class Checkpointed(_Event):
    """A checkpoint is complete on disk."""

    type: Literal["checkpoint"] = "checkpoint"
    step: Steps
    path: RelativePath = Field(description="Relative to the attempt's folder.")


class Finished(_Event):
    """The training is complete; its weights are on disk."""

    type: Literal["finished"] = "finished"
    weights: RelativePath = Field(description="Relative to the attempt's folder.")
    sha256: Sha256 = Field(description="Of the weights file.")
    summary: dict[MetricName, AnyFloat] = Field(
        default_factory=dict, max_length=20_000, description="Last value of each metric."
    )


class Stopped(_Event):
    """Told to stop (SIGTERM); a checkpoint holds everything done."""

    type: Literal["stopped"] = "stopped"
    step: Steps


class Failed(_Event):
    """The training cannot go on, and says why."""

    type: Literal["failed"] = "failed"
    kind: Literal["spec", "nan", "oom", "error"]
    reason: Message


Event = Started | Metrics | Log | Checkpointed | Finished | Stopped | Failed


class Record(BaseModel):
    """An event with its number and its time.

    Attributes:
        seq: counts from 1 within one attempt, without gaps.
        time: seconds since 1970 by the training machine's clock.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(ge=1, le=MOST_STEPS)
    time: float = Field(allow_inf_nan=False)
    event: Annotated[Event, Field(discriminator="type")]


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


class Journal:
    """Appends events to a file, each line on its way to the disk before ``append`` returns.

    A journal that exists is continued after its last complete line; a torn last line is cut off. While the disk is
    full, lines wait in memory, in order, and are written as soon as there is room: a training goes on meanwhile.

    Args:
        kept_bytes: how much may wait in memory; beyond it ``append`` raises.
    """

    def __init__(self, path: Path, *, buffer_bytes: int = _KEPT_BYTES) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seq = 0
        self._end = 0
        if path.exists():
            for record, end in _records(path, 0):
                self.seq, self._end = record.seq, end
        self._kept_bytes = buffer_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._full_since: float | None = None
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._descriptor, self._end)

    def append(self, event: Event) -> Record:
        """Write one event, or keep it while the disk is full.

        Raises OSError where the disk refuses it for another reason, or has been full for too many events.
        """
        record = Record(seq=self.seq + 1, time=time.time(), event=event)
        try:
            line = record.model_dump_json().encode() + b"\n"
        except PydanticSerializationError:  # a file name in it is no UTF-8
            record = record.model_copy(update={"event": type(event).model_validate(_visible(event.model_dump()))})
            line = record.model_dump_json().encode() + b"\n"
        if self._waiting_bytes + len(line) > self._kept_bytes:
            raise OSError(errno.ENOSPC, f"the disk has been full for so long that {self.path.name} cannot go on")
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self.seq = record.seq
        self._write()
        return record

    def metrics(self, *, step: int, epoch: float, elapsed: float, values: Mapping[str, float]) -> Record:
        return self.append(Metrics(step=step, epoch=epoch, elapsed=elapsed, values=dict(values)))

    def log(self, message: str, level: Literal["debug", "info", "warning", "error"] = "info") -> Record:
        return self.append(Log(message=message, level=level))

    def sync(self) -> None:
        """Have the operating system put everything on the disk. Raises OSError, also where it is full."""
        if not self._write():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._descriptor)

    def settle(self, seconds: float) -> bool:
        """As ``sync``, at the end: where the disk is full, wait so long for room. False where there was none."""
        end = time.monotonic() + seconds
        while not self._write():
            if time.monotonic() > end:
                return False
            time.sleep(_SETTLE_STEP_SECONDS)
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
        """Write what waits; False where the disk is full."""
        while self._waiting:
            line = self._waiting[0]
            try:
                _write_all(self._descriptor, line, self._end)
            except OSError as error:
                # What went in of the line would be read as the beginning of the next.
                os.ftruncate(self._descriptor, self._end)
                if not is_full_disk(error):
                    raise
                self._say_full(error)
                return False
            self._end += len(line)
            self._waiting_bytes -= len(line)
            self._waiting.popleft()
            if not self._waiting and self._full_since is not None:
                seconds, self._full_since = time.monotonic() - self._full_since, None
                self.log(f"the disk was full for {seconds:.0f} s; events were kept in memory meanwhile", "warning")
        return True

    def _say_full(self, error: OSError) -> None:
        if self._full_since is None:
            self._full_since = time.monotonic()
            # By the usual way to stderr: the journal itself cannot say it.
            _log.error("%s: %s; the training goes on, and its events wait in memory", self.path, error.strerror)


def _visible(value: Any) -> Any:
    """The same value with every text in it fit for UTF-8."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {_visible(key): _visible(item) for key, item in value.items()}
    return value


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def read_journal(path: Path) -> Iterable[Record]:
    """Every complete record of a journal, in order; nothing where there is no file."""
    return (record for record, _ in _records(path, 0)) if path.exists() else ()


class JournalReader:
    """Follows a journal that somebody else is writing: each call of ``read`` returns what is new and complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self, limit: int = 500) -> list[Record]:
        """At most ``limit`` new records; an empty list where there are none yet."""
        if not self.path.exists():
            return []
        found: list[Record] = []
        for record, end in _records(self.path, self._offset):
            found.append(record)
            self._offset = end
            if len(found) == limit:
                break
        return found


def _records(path: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """Complete records from a byte offset on, each with the offset behind it."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):  # still being written, or torn by a crash
                return
            offset += len(line)
            yield _RECORD.validate_json(line), offset
