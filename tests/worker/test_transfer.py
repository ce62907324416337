"""A worker whose artifact store is a bucket: against a real server of S3's protocol."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.object_store import ObjectStore, StoreError
from core.events import Checkpointed, read_journal
from core.protocol.worker import ArtifactRef
from tests.waiting import until
from tests.worker.conftest import Rig
from tests.worker.fake import RUN, FakeBackend
from worker.artifact_transfer import Transfer
from worker.training_monitor import Limits

FOLDER = "runs/run-1/attempt-1"
DIGEST = hashlib.sha256(b"weights").hexdigest()


class Flaky(ObjectStore):
    """A store that refuses to be written, as often as it is told to."""

    refusals = 0
    puts = 0

    def put(self, path: Path, key: str) -> None:
        self.puts += 1
        if self.refusals:
            self.refusals -= 1
            raise StoreError("cannot write: the bucket is away")
        super().put(path, key)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    from tests import services

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with services.s3() as found:
        yield found


@pytest.fixture
def store(bucket: str, request: pytest.FixtureRequest) -> Flaky:
    return Flaky(f"{bucket}/{abs(hash(request.node.name))}")


@pytest.fixture
def make(make_rig: Callable[..., Rig], store: Flaky, tmp_path: Path) -> Callable[..., Rig]:
    return lambda **more: make_rig(transfer=Transfer(store, tmp_path / "artifacts"), **more)


def put(store: ObjectStore, folder: str, name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sent"
    path.write_bytes(content)
    store.write_manifest(folder, {name: store.add(folder, name, path)})


def student(backend: FakeBackend, **more: Any) -> None:
    spec = RUN.model_copy(update={"role": "student", "teacher": "t1", "method": RUN.method})
    backend.add(spec=spec, teacher_spec=RUN, **more)


def test_what_a_run_leaves_is_in_the_store_before_it_has_succeeded(
    make: Callable[..., Rig], store: Flaky, tmp_path: Path
) -> None:
    rig = make()
    backend = rig.run("succeed")
    outcome = backend.outcome()
    assert outcome
    assert outcome.weights == ArtifactRef(path=f"{FOLDER}/weights.safetensors", sha256=DIGEST)
    files = store.manifest(FOLDER)
    assert {"weights.safetensors", "events.jsonl", "run.json", "stdout.txt", "stderr.txt"} <= set(files)
    assert files["weights.safetensors"].sha256 == DIGEST
    assert store.fetch(f"{FOLDER}/events.jsonl", tmp_path / "journal")
    assert [record.event.type for record in read_journal(tmp_path / "journal")][-1] == "finished"
    rig.idle()
    assert [path.name for path in rig.folder().iterdir()] == ["weights.safetensors"], "for the teacher's students"


def test_a_store_that_cannot_be_written_shows_before_the_training(make: Callable[..., Rig], store: Flaky) -> None:
    store.refusals = 1
    backend = make().run("succeed")
    outcome = backend.outcome()
    assert outcome
    assert (outcome.outcome, outcome.fault) == ("interrupted", True)
    assert "the bucket is away" in outcome.reason
    assert backend.types() == [], "nothing was trained"
    assert until(lambda: any("the bucket is away" in text for beat in backend.heartbeats for text in beat.problems))


def test_a_store_that_is_away_for_a_moment_costs_nothing(make: Callable[..., Rig], store: Flaky) -> None:
    rig = make()
    plain, refused = store.put, threading.Event()

    def put(path: Path, key: str) -> None:
        if key.endswith("weights.safetensors") and not refused.is_set():
            refused.set()
            raise StoreError("the bucket is away")
        plain(path, key)

    store.put = put  # type: ignore[method-assign]
    outcome = rig.run("succeed").outcome()
    assert outcome
    assert (outcome.outcome, refused.is_set()) == ("succeeded", True)
    assert "weights.safetensors" in store.manifest(FOLDER)


def test_a_trained_run_that_cannot_be_stored_goes_back_to_the_queue(make: Callable[..., Rig], store: Flaky) -> None:
    rig = make(limits=Limits(grace=20.0, margin=5.0, linger=1.0, report=1.0, store=1.0))
    plain = store.put

    def put(path: Path, key: str) -> None:
        if key.endswith("weights.safetensors"):
            raise StoreError("the bucket is full")
        plain(path, key)

    store.put = put  # type: ignore[method-assign]
    outcome = rig.run("succeed").outcome()
    assert outcome
    assert outcome.outcome == "interrupted"
    assert "the bucket is full" in outcome.reason
    assert "weights.safetensors" not in store.manifest(FOLDER)
    assert (rig.folder() / "weights.safetensors").exists(), "a person may still save it"


def test_a_checkpoint_is_reported_once_another_machine_can_have_it(
    make: Callable[..., Rig], store: Flaky, tmp_path: Path
) -> None:
    rig = make(limits=Limits(grace=20.0, margin=5.0, linger=1.0, report=30.0))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.supervisor.leave()
    until(lambda: rig.backend.outcomes, "an outcome")
    outcome = rig.backend.outcome()
    assert outcome
    assert outcome.outcome == "interrupted"
    events = [record.event for record in rig.backend.records["run-1", 1]]
    kept = [event for event in events if isinstance(event, Checkpointed)]
    assert len(kept) == 1
    assert kept[0].path in store.manifest(FOLDER)
    assert rig.backend.seqs() == list(range(1, len(events) + 1))

    # Another machine: nothing of the first one's disk.
    second = tmp_path / "elsewhere"
    claim = FakeBackend().add(attempt=2, checkpoint=ArtifactRef(path=f"{FOLDER}/{kept[0].path}"))
    Transfer(store, second).fetch(claim)
    assert next(iter(read_journal(second / FOLDER / kept[0].path))).event.type == "started"


def test_a_checkpoint_that_cannot_be_stored_is_a_warning(make: Callable[..., Rig], store: Flaky) -> None:
    rig = make(limits=Limits(grace=20.0, margin=5.0, linger=1.0, report=30.0))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    store.refusals = 1
    rig.supervisor.leave()
    until(lambda: rig.backend.outcomes, "an outcome")
    assert "checkpoint" not in rig.backend.types()
    lines = [record.event.message for record in rig.backend.records["run-1", 1] if record.event.type == "log"]
    assert "on this worker alone" in lines[-1]
    assert rig.backend.seqs() == list(range(1, len(rig.backend.seqs()) + 1)), "no gap"


def test_a_teacher_is_fetched_and_checked(make: Callable[..., Rig], store: Flaky, tmp_path: Path) -> None:
    put(store, "runs/t1/attempt-3", "weights.safetensors", b"weights", tmp_path)
    rig = make()
    student(rig.backend, teacher=ArtifactRef(path="runs/t1/attempt-3/weights.safetensors", sha256=DIGEST))
    rig.start()
    until(lambda: rig.backend.outcomes, "an outcome")
    outcome = rig.backend.outcome()
    assert outcome
    assert outcome.outcome == "succeeded"
    assert (tmp_path / "artifacts/runs/t1/attempt-3/weights.safetensors").read_bytes() == b"weights"
    rig.idle()
    assert not rig.folder().exists(), "a student's files are in the store, and not on the disk any more"


def test_a_planted_teacher_is_refused(make: Callable[..., Rig], store: Flaky, tmp_path: Path) -> None:
    put(store, "runs/t1/attempt-3", "weights.safetensors", b"planted", tmp_path)
    rig = make()
    student(rig.backend, teacher=ArtifactRef(path="runs/t1/attempt-3/weights.safetensors", sha256=DIGEST))
    rig.start()
    until(lambda: rig.backend.outcomes, "an outcome")
    outcome = rig.backend.outcome()
    assert outcome
    assert outcome.outcome == "failed"
    assert "have changed since they were reported" in outcome.reason


def test_uploaded_weights_are_fetched_by_their_content(store: Flaky, tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec = RUN.model_copy(deep=True)
    source = type("Source", (), {"source": f"upload:{DIGEST}"})()
    claim = FakeBackend().add(spec=spec.model_copy(update={"weights": source}))
    Transfer(store, root).fetch(claim)
    assert not list(root.rglob("*.safetensors")), "there is none; the training says what to do"
    sent = tmp_path / "sent"
    sent.write_bytes(b"weights")
    store.put(sent, f"uploads/{DIGEST}.safetensors")
    Transfer(store, root).fetch(claim)
    assert (root / f"uploads/{DIGEST}.safetensors").read_bytes() == b"weights"
    sent.write_bytes(b"planted")
    store.put(sent, f"uploads/{DIGEST}.safetensors")
    with pytest.raises(StoreError, match="is not the file"):
        Transfer(store, tmp_path / "other").fetch(claim)


def test_a_path_that_leads_out_is_not_fetched(store: Flaky, tmp_path: Path) -> None:
    put(store, "runs/t1/attempt-3", "weights.safetensors", b"weights", tmp_path)
    root = tmp_path / "root"
    claim = FakeBackend().add(checkpoint=ArtifactRef(path="../../outside"))
    Transfer(store, root).fetch(claim)
    assert not (tmp_path.parent / "outside").exists()


def test_what_nobody_has_used_for_days_makes_room(store: Flaky, tmp_path: Path) -> None:
    root = tmp_path / "root"
    old, fresh, own = root / "runs/old", root / "runs/fresh", root / "runs/run-1"
    for folder in (old, fresh, own):
        (folder / "attempt-1").mkdir(parents=True)
        (folder / "attempt-1" / "weights.safetensors").write_bytes(b"weights")
    long_ago = time.time() - 10 * 86_400
    for folder in (old, own):
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (long_ago, long_ago))
    Transfer(store, root).fetch(FakeBackend().add())
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["fresh", "run-1"]
