"""What a training says of itself, and the journal it says it in. Free of torch.

A training appends every event to ``events.jsonl`` in its own folder, one JSON object a line, before anybody reads it;
the worker follows the file and sends what is new. ``seq`` counts from 1 within one attempt at one run, so that sending
twice changes nothing. NaN and ±infinity travel as strings, since JSON has neither.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter

JOURNAL_NAME = "events.jsonl"

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


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(_Event):
    """The training is about to take its first step (or its first since it was resumed)."""

    type: Literal["started"] = "started"
    total_steps: int = Field(ge=1, description="Optimiser steps of the whole run.")
    total_epochs: int = Field(ge=1)
    start_step: int = Field(0, ge=0, description="Steps already done by an earlier attempt.")
    train_size: int = Field(ge=1, description="Training images.")
    test_size: int = Field(ge=1, description="Test images.")
    parameters: int = Field(ge=1, description="Trainable parameters of the network.")
    device: str = Field(description='As "cpu" or "cuda:0 NVIDIA H200".')
    environment: dict[str, str] = Field(default_factory=dict, description="Versions and settings chosen for speed.")


class Metrics(_Event):
    """Values at one step. The pair (name, step) is unique within a run."""

    type: Literal["metrics"] = "metrics"
    step: int = Field(ge=0, description="Optimiser steps done.")
    epoch: float = Field(ge=0, description="Passes over the training images done.")
    elapsed: float = Field(ge=0, description="Seconds of training, earlier attempts included.")
    values: dict[Annotated[str, Field(min_length=1, max_length=200)], AnyFloat] = Field(max_length=1000)


class Log(_Event):
    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: str


class Checkpointed(_Event):
    """A checkpoint is complete on disk."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=0)
    path: str = Field(description="Relative to the attempt's folder.")


class Finished(_Event):
    """The training is complete; its weights are on disk."""

    type: Literal["finished"] = "finished"
    weights: str = Field(description="Relative to the attempt's folder.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the weights file.")
    summary: dict[str, AnyFloat] = Field(default_factory=dict, description="Last value of each metric.")


class Stopped(_Event):
    """Told to stop (SIGTERM); a checkpoint holds everything done."""

    type: Literal["stopped"] = "stopped"
    step: int = Field(ge=0)


class Failed(_Event):
    """The training cannot go on, and says why."""

    type: Literal["failed"] = "failed"
    kind: Literal["spec", "nan", "oom", "error"]
    reason: str


Event = Started | Metrics | Log | Checkpointed | Finished | Stopped | Failed


class Record(BaseModel):
    """An event with its number and its time.

    Attributes:
        seq: counts from 1 within one attempt, without gaps.
        time: seconds since 1970 by the training machine's clock.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(ge=1)
    time: float
    event: Annotated[Event, Field(discriminator="type")]


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


class Journal:
    """Appends events to a file, each line on its way to the disk before ``append`` returns.

    A journal that exists is continued after its last complete line; a torn last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seq = 0
        end = 0
        if path.exists():
            for record, end in _records(path, 0):  # noqa: B007 (used below)
                self.seq = record.seq
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(end)

    def append(self, event: Event) -> Record:
        """Write one event. Raises OSError where the disk refuses it."""
        record = Record(seq=self.seq + 1, time=time.time(), event=event)
        self._file.write(record.model_dump_json().encode() + b"\n")
        self._file.flush()
        self.seq = record.seq
        return record

    def metrics(self, *, step: int, epoch: float, elapsed: float, values: Mapping[str, float]) -> Record:
        return self.append(Metrics(step=step, epoch=epoch, elapsed=elapsed, values=dict(values)))

    def log(self, message: str, level: Literal["debug", "info", "warning", "error"] = "info") -> Record:
        return self.append(Log(message=message, level=level))

    def sync(self) -> None:
        """Have the operating system put everything on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


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
