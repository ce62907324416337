"""No message in the broker terminates a worker or is delivered twice, and the next nudge still works."""

from __future__ import annotations

import base64
import json
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from common.celery_config import NUDGE_TASK, celery_settings
from tests import services
from tests.waiting import until
from tests.worker.fake import FakeBackend, served
from tests.worker.test_worker_process import Host

NUDGE = b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def message(body: bytes = NUDGE, kind: Any = "application/json", encoding: Any = "utf-8", **headers: Any) -> bytes:
    """Return a message as Celery puts it into a queue."""
    defaults = {
        "lang": "py",
        "task": NUDGE_TASK,
        "id": str(uuid.uuid4()),
        "root_id": None,
        "parent_id": None,
        "group": None,
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": kind,
            "headers": defaults | headers,
            "properties": {
                **{"correlation_id": "x", "delivery_mode": 2, "priority": 0, "body_encoding": "base64"},
                "delivery_info": {"exchange": "", "routing_key": "dkd"},
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()


def changed(**parts: Any) -> bytes:
    return json.dumps({**json.loads(message()), **parts}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(message()).items() if key != name}).encode()


POISON = {
    "number": message(b"1"),
    "null": message(b"null"),
    "text": message(b'"abc"'),
    "list of two": message(b"[[], {}]"),
    "list of numbers": message(b"[1, 2, 3]"),
    "embedded number": message(b"[[], {}, 1]"),
    "pickle": message(pickle.dumps([1], protocol=2), "application/x-python-serialize", "binary"),
    "yaml": message(b"a", "application/x-yaml"),
    "data": message(b"a", "application/data", "binary"),
    "arguments": message(b'[["x"], {"a": 1}, {}]'),
    "callbacks": message(b'[[], {}, {"callbacks": [{"task": "os.system"}]}]'),
    "other task": message(task="os.system"),
    "chord unlock": message(task="celery.chord_unlock"),
    "task a list": message(task=["dkd.run_next"]),
    "task a number": message(task=1),
    "deep": message(b"[" * 100_000),
    "bad utf-8": message(b"\xff\xfe"),
    "eta": message(eta="nonsense"),
    "far eta": message(eta="2999-01-01T00:00:00+00:00"),
    "expires": message(expires="nonsense"),
    "expires a number": message(expires=1e400),
    "time limit": message(timelimit=["x", "y"]),
    "time limit a number": message(timelimit=5),
    "no id": message(id=None),
    "huge id": message(id=[1] * 1000, retries="x", group={"a": 1}, root_id=5, argsrepr=7, stamps=3, stamped_headers=4),
    "content type": message(kind=5, encoding=[]),
    "unknown encoding": message(encoding="no-such-codec"),
    "large": message(b" " * 1_000_000),
    "escapes": message(b"1", task="\x1b[2J\x1b]0;owned\x07"),
    "headers a list": changed(headers=[1]),
    "headers null": changed(headers=None),
    "no headers": without("headers"),
    "no properties": without("properties"),
    "properties a list": changed(properties=[]),
    "no delivery tag": changed(properties={}),
    "odd properties": changed(properties={"delivery_tag": "t", "delivery_info": 5, "body_encoding": "base64"}),
    "odd tag": changed(properties={"delivery_tag": ["t"], "delivery_info": {}}),
    "unknown body encoding": changed(properties={"delivery_tag": "u", "delivery_info": {}, "body_encoding": "rot13"}),
    "bad base64": changed(body="***"),
    "body a number": changed(body=5),
    "not json": b"not json",
    "empty object": b"{}",
    "list": b"[]",
    "bare number": b"1",
    "nothing": b"",
    "bytes": bytes(range(256)),
    "deep json": b"[" * 100_000,
}


def nudge(url: str, folder: Path) -> None:
    app = Celery(set_as_current=False)
    app.conf.update(celery_settings(url, folder))
    app.send_task(NUDGE_TASK, expires=60.0)
    app.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    backend = FakeBackend()
    backend.announce = False  # heartbeats announce no runs, so that only a nudge triggers a claim
    with served(backend) as url:
        host = Host(tmp_path, url, backend)
        try:
            yield host
        finally:
            for process in host.started:
                process.kill()
                process.wait()


@pytest.mark.services
def test_no_message_on_redis_terminates_a_worker(host: Host) -> None:
    redis = pytest.importorskip("redis")
    try:
        with services.redis() as url:
            client = redis.Redis.from_url(url)
            worker = host.start("succeed", DKD_BROKER_URL=url)
            until(lambda: host.backend.heartbeats, "the worker sends heartbeats")
            for name, content in POISON.items():
                client.lpush("dkd", content)
                until(lambda: client.llen("dkd") == 0, f"{name} is taken", 30)
                assert worker.poll() is None, name
            host.backend.add()
            nudge(url, host.home)
            assert until(host.backend.outcome, "the run ends", 30).outcome == "succeeded"
            until(lambda: client.hlen("unacked") == 0, "everything is acknowledged")
            # A key of another type instead of the queue.
            client.set("dkd", "a text")
            beats = len(host.backend.heartbeats)
            until(lambda: len(host.backend.heartbeats) > beats + 20, "some seconds pass")
            assert worker.poll() is None
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))
    assert "Unrecoverable" not in host.log()
    assert "\x1b" not in host.log()
    assert host.log().count("dropped a message that is not a nudge") >= 20


def test_no_file_in_the_broker_folder_terminates_or_blocks_a_worker(
    host: Host, tmp_path_factory: pytest.TempPathFactory
) -> None:
    worker = host.start("succeed")
    until(lambda: host.backend.heartbeats, "the worker sends heartbeats")
    messages = host.home / "broker" / "messages"
    outside = tmp_path_factory.mktemp("outside") / "kept.txt"
    outside.write_text("mine")
    for number, content in enumerate(POISON.values()):
        (messages / f"0_{number:03d}.dkd.msg").write_bytes(content)
    os.mkfifo(messages / "0_fifo.dkd.msg")
    (messages / "0_link.dkd.msg").symlink_to(outside)
    (messages / "0_endless.dkd.msg").symlink_to("/dev/zero")
    (messages / "0_nowhere.dkd.msg").symlink_to("/nowhere")
    (messages / "0_folder.dkd.msg").mkdir()
    (messages / "0_\x1b[2J.dkd.msg").write_bytes(b"1")
    (messages / os.fsdecode(b"0_\xff\xfe.dkd.msg")).write_bytes(b"1")
    unreadable = messages / "0_unreadable.dkd.msg"
    unreadable.write_bytes(message())
    unreadable.chmod(0)
    with (messages / "0_huge.dkd.msg").open("wb") as huge:
        huge.truncate(50 * 2**30)  # a sparse file
    (messages / "no-message").write_bytes(b"x")
    ignored = {"0_folder.dkd.msg", "no-message"}
    until(lambda: {path.name for path in messages.iterdir()} <= ignored, "all invalid messages are consumed", 120)
    host.backend.add()
    nudge("filesystem://", host.home / "broker")
    assert until(host.backend.outcome, "the run ends", 30).outcome == "succeeded"
    assert worker.poll() is None
    assert outside.read_text() == "mine"
    assert not (host.home / "broker/processed/0_huge.dkd.msg").exists()
    assert "Unrecoverable" not in host.log()
    assert "\x1b" not in host.log()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "huge", "numbers", "deep", "bytes"])
def test_invalid_queue_table_is_replaced(host: Host, kind: str) -> None:
    control = host.home / "broker" / "control"
    control.mkdir(parents=True)
    table = control / "dkd.exchange"
    match kind:
        case "fifo":
            os.mkfifo(table)
        case "folder":
            table.mkdir()
        case "link":
            table.symlink_to("/dev/zero")
        case "huge":
            with table.open("wb") as file:
                file.truncate(50 * 2**30)
        case "numbers":
            table.write_bytes(b"[1, 2]")
        case "deep":
            table.write_bytes(b"[" * 50_000)
        case _:
            table.write_bytes(bytes(range(256)))
    host.start("succeed")
    until(lambda: host.backend.heartbeats, "the worker sends heartbeats")
    host.backend.add()
    until(lambda: table.is_file() and not table.is_symlink() and table.stat().st_size < 1000, "the table is rewritten")
    nudge("filesystem://", host.home / "broker")
    assert until(host.backend.outcome, "the run ends", 30).outcome == "succeeded"
