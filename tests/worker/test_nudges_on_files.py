"""The filesystem transport: a truncated or missing file is a lost nudge."""

from __future__ import annotations

from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection

from common.celery_config import celery_settings


@pytest.fixture
def name(tmp_path: Path) -> str:
    """Name of the queue; unique per test, since the transport caches the queues that it has created."""
    return tmp_path.name


@pytest.fixture
def broker(tmp_path: Path) -> Connection:
    for name in ("messages", "processed", "control"):
        (tmp_path / name).mkdir()
    settings = celery_settings("filesystem://", tmp_path)
    options = settings["broker_transport_options"]
    return Connection("filesystem://", transport=settings["broker_transport"], transport_options=options)


def test_truncated_message_is_skipped(broker: Connection, name: str, tmp_path: Path) -> None:
    (tmp_path / "messages" / f"0_torn.{name}.msg").write_bytes(b'{"body": "')
    with broker, broker.SimpleQueue(name) as queue:
        queue.put({"number": 1})
        assert queue.get(timeout=5).payload == {"number": 1}
        with pytest.raises(Empty):
            queue.get(block=False)


def test_message_gets_its_name_only_when_complete(
    broker: Connection, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def replace(source: Path, target: Path) -> None:
        seen.append((source.suffix, sorted(path.suffix for path in (tmp_path / "messages").iterdir())))
        source.rename(target)

    monkeypatch.setattr("common.atomic_write.os.replace", replace)
    with broker, broker.SimpleQueue(name) as queue:
        queue.put({"number": 1})
    assert seen == [(".partial", [".partial"])]
    assert [path.suffix for path in (tmp_path / "messages").iterdir()] == [".msg"]


def test_missing_folder_has_no_messages(broker: Connection, name: str, tmp_path: Path) -> None:
    with broker, broker.SimpleQueue(name) as queue:
        (tmp_path / "messages").rename(tmp_path / "aside")
        with pytest.raises(Empty):
            queue.get(block=False)
        (tmp_path / "aside").rename(tmp_path / "messages")
        queue.put({"number": 1})
        assert queue.get(timeout=5).payload == {"number": 1}


def test_truncated_queue_table_is_rewritten(broker: Connection, name: str, tmp_path: Path) -> None:
    with broker, broker.SimpleQueue(name) as queue:
        queue.put({"number": 1})
        [table] = (tmp_path / "control").iterdir()
    table.write_bytes(b"")
    with broker, broker.SimpleQueue(name) as queue:
        assert queue.get(timeout=5).payload == {"number": 1}
