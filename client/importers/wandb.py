"""Reads offline runs of Weights & Biases without its package: ``offline-run-*/run-*.wandb``.

Such a file is a log in LevelDB's format whose records are protocol buffers. Only the fields that are needed are
decoded, by their numbers in ``wandb_internal.proto``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.importers.foreign import ForeignPoint, ForeignRun, ImportSourceError, existing_folder

SOURCE = "wandb"
_MAGIC = b":W&B"
_FILE_HEADER = 7
_BLOCK = 32768
_RECORD_HEADER = 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

# Numbers of fields: of Record, of the messages in it, and of an item of a history or a configuration.
_HISTORY, _RUN, _EXIT = 2, 17, 18
_ITEM, _STEP, _STEP_NUMBER = 1, 2, 1
_RUN_ID, _PROJECT, _CONFIG, _GROUP, _NAME, _START = 1, 3, 4, 6, 8, 17
_UPDATE, _KEY, _NESTED_KEY, _INTEGER, _NUMBER, _JSON = 1, 1, 2, 5, 6, 16
_EXIT_CODE = 1
_SECONDS = 1

Fields = dict[int, list[Any]]
"""The values of a message by the number of their field: bytes, or an integer of 64 bits."""


def read(folder: Path) -> Iterator[ForeignRun]:
    """Yield the run of every ``.wandb`` file below a folder.

    Raises:
        ImportSourceError: There is no such file, or a file is damaged.
        OSError: A file cannot be read.
    """
    paths = sorted(existing_folder(folder).rglob("*.wandb"))
    if not paths:
        raise ImportSourceError(f"{folder} has no offline runs (run-*.wandb); `wandb offline` makes them")
    for path in paths:
        yield _read_run(path)


@dataclass
class _Log:
    """What the records of a log say about its run."""

    run: Fields = field(default_factory=dict)
    points: list[ForeignPoint] = field(default_factory=list)
    exit_code: int | None = None


def _read_run(path: Path) -> ForeignRun:
    log = _Log()
    try:
        for content in _records(path.read_bytes()):
            record = _fields(content)
            for history in record.get(_HISTORY, []):
                log.points += _points(_fields(history))
            if _RUN in record:
                log.run = _fields(record[_RUN][0])
            if _EXIT in record:
                log.exit_code = _signed(_fields(record[_EXIT][0]).get(_EXIT_CODE, [0])[0])
    except (ValueError, IndexError, struct.error) as error:
        raise ImportSourceError(f"{path} is not an offline run of W&B, or is damaged: {error}") from error
    run = log.run
    start = _fields(run[_START][0]).get(_SECONDS, [0])[0] if _START in run else None
    times = [point.time for point in log.points if point.time is not None]
    run_id = _text(run, _RUN_ID) or path.stem.removeprefix("run-")
    return ForeignRun(
        source=SOURCE,
        id=run_id,
        name=_text(run, _NAME) or run_id,
        group="/".join(filter(None, (_text(run, _PROJECT), _text(run, _GROUP)))),
        config=_config(run),
        points=log.points,
        state="" if log.exit_code is None else "failed" if log.exit_code else "succeeded",
        started_at=datetime.fromtimestamp(start, UTC) if start else None,
        ended_at=datetime.fromtimestamp(max(times), UTC) if times else None,
    )


def _points(history: Fields) -> Iterator[ForeignPoint]:
    """Yield the numbers of one step; names that begin with _ are W&B's own."""
    values = dict(_items(history, _ITEM))
    step = values.get("_step")
    if step is None and _STEP in history:
        step = _fields(history[_STEP][0]).get(_STEP_NUMBER, [0])[0]
    time = values.get("_timestamp")
    epoch = values.get("epoch")
    for name, value in values.items():
        if not name.startswith("_") and name != "epoch" and isinstance(value, int | float):
            yield ForeignPoint(
                name,
                int(step or 0),
                float(time) if time is not None else None,
                float(value),
                float(epoch) if isinstance(epoch, int | float) else None,
            )


def _config(run: Fields) -> dict[str, Any]:
    """Return the parameters by their path, such as training.epochs."""
    flat: dict[str, Any] = {}
    for update in run.get(_CONFIG, []):
        for name, value in _items(_fields(update), _UPDATE):
            if not name.startswith("_"):
                flat |= _flatten(name, value)
    return flat


def _flatten(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(f"{name}.{key}", item)
    return flat


def _items(message: Fields, number: int) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each item."""
    for content in message.get(number, []):
        item = _fields(content)
        name = _text(item, _KEY) or ".".join(part.decode("utf-8") for part in item.get(_NESTED_KEY, []))
        if _JSON in item:
            yield name, json.loads(item[_JSON][0])
        elif _NUMBER in item:
            yield name, struct.unpack("<d", struct.pack("<Q", item[_NUMBER][0]))[0]
        elif _INTEGER in item:
            zigzag = item[_INTEGER][0]
            yield name, (zigzag >> 1) ^ -(zigzag & 1)


def _text(message: Fields, number: int) -> str:
    return str(message[number][0], "utf-8") if number in message else ""


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format; a last one that is not complete is left out.

    Raises:
        ValueError: The file is not such a log.
    """
    if log[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it does not begin with :W&B")
    place, parts = _FILE_HEADER, b""
    while place + _RECORD_HEADER <= len(log):
        rest = _BLOCK - place % _BLOCK
        if rest < _RECORD_HEADER:  # the end of a block that is too short for a header
            place += rest
            continue
        _, length, kind = struct.unpack("<IHB", log[place : place + _RECORD_HEADER])
        content = log[place + _RECORD_HEADER : place + _RECORD_HEADER + length]
        place += _RECORD_HEADER + length
        if len(content) < length:
            return
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST):
            raise ValueError(f"a record has the unknown kind {kind}")
        parts = content if kind in (_WHOLE, _FIRST) else parts + content
        if kind in (_WHOLE, _LAST):
            yield parts


def _fields(message: bytes) -> Fields:
    """Decode the fields of a protocol buffer.

    Raises:
        ValueError: The message is damaged.
        IndexError: The message is truncated.
    """
    fields: Fields = {}
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 1:
            value, place = int.from_bytes(message[place : place + 8], "little"), place + 8
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        elif kind == 5:
            value, place = int.from_bytes(message[place : place + 4], "little"), place + 4
        else:
            raise ValueError(f"a field has the unknown type {kind}")
        if place > len(message):
            raise ValueError("a field is cut")
        fields.setdefault(number, []).append(value)
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
        if shift > 63:
            raise ValueError("a number is too long")
