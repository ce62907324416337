"""The journal: complete lines only, numbered without gaps, every float kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.events import Journal, JournalReader, Log, Metrics, Record, read_journal


def messages(path: Path) -> list[str]:
    return [record.event.message for record in read_journal(path) if isinstance(record.event, Log)]


def test_a_reader_sees_each_record_once_and_only_whole(tmp_path: Path) -> None:
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


def test_a_torn_last_line_is_cut_off_and_the_numbers_go_on(tmp_path: Path) -> None:
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


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="number"):
        Metrics.model_validate({"step": 1, "epoch": 1, "elapsed": 0, "values": {"x": "high"}})
