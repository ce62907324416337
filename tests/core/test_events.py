"""The journal has complete lines, numbered without gaps, and keeps every float."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.events import Journal, JournalReader, Log, Metrics, Record, read_journal


def messages(path: Path) -> list[str]:
    return [record.event.message for record in read_journal(path) if isinstance(record.event, Log)]


def test_reader_returns_each_complete_record_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    reader = JournalReader(path)
    assert reader.read() == []
    with Journal(path) as journal:
        journal.log("one")
        journal.log("two")
        assert [record.seq for record in reader.read(limit=1)] == [1]
        assert [record.seq for record in reader.read()] == [2]
    with path.open("ab") as file:
        file.write(b'{"seq":3,"time":1.0,"event":{"type":"log","mes')
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(b'sage":"three"}}\n')
    assert [record.seq for record in reader.read()] == [3]


def test_incomplete_last_line_is_removed_and_numbering_continues(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal.log("one")
    with path.open("ab") as file:
        file.write(b'{"seq":2,"ti')
    with Journal(path) as journal:
        assert journal.log("two").seq == 2
    assert messages(path) == ["one", "two"]


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_survives_json(value: float) -> None:
    event = Metrics(step=1, epoch=1.0, elapsed=0.0, values={"x": value})
    text = Record(seq=1, time=0.0, event=event).model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = Record.model_validate_json(text).event
    assert isinstance(back, Metrics)
    assert back.values["x"] == value or (math.isnan(back.values["x"]) and math.isnan(value))


def test_value_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="number"):
        Metrics.model_validate({"step": 1, "epoch": 1, "elapsed": 0, "values": {"x": "high"}})


class Disk:
    """A disk with a given number of free bytes."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._pwrite = os.pwrite

    def pwrite(self, descriptor: int, content: memoryview, offset: int) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._pwrite(descriptor, content[: self.left], offset)
        self.left -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(10**9)
    monkeypatch.setattr("core.events.os.pwrite", disk.pwrite)
    return disk


def test_events_are_buffered_while_the_disk_is_full(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.jsonl"
    reader = JournalReader(path)
    with Journal(path) as journal:
        journal.log("before")
        disk.left = 20  # the next line is torn
        for number in range(3):
            assert journal.log(f"meanwhile {number}").seq == number + 2
        assert [record.seq for record in reader.read()] == [1]
        with pytest.raises(OSError, match="No space"):
            journal.sync()
        assert journal.settle(0.0) is False
        assert caplog.messages == [
            f"{path}: No space left on device; the training continues, and its events are buffered in memory"
        ]
        disk.left = 10**9
        journal.log("after")
        assert journal.settle(0.0) is True
    logged = messages(path)
    assert logged[:5] == ["before", "meanwhile 0", "meanwhile 1", "meanwhile 2", "after"]
    assert logged[5].startswith("the disk was full for ")
    assert [record.seq for record in reader.read()] == [2, 3, 4, 5, 6]
    assert [record.seq for record in read_journal(path)] == [1, 2, 3, 4, 5, 6]


def test_append_raises_if_the_buffer_is_full(tmp_path: Path, disk: Disk) -> None:
    disk.left = 0
    with Journal(tmp_path / "events.jsonl", buffer_bytes=1000) as journal:
        journal.log("a" * 500)
        with pytest.raises(OSError, match="so is the buffer"):
            journal.log("a" * 500)


def test_other_disk_errors_are_raised(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    with Journal(tmp_path / "events.jsonl") as journal:
        monkeypatch.setattr("core.events.os.pwrite", broken)
        with pytest.raises(OSError, match="broken"):
            journal.log("a line")
