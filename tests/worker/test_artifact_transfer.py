"""A worker whose artifact store is a bucket, against a real S3 server."""

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
from core.protocol.worker import ArtifactRef, TeacherRef
from tests.waiting import until
from tests.worker.conftest import Rig
from tests.worker.fake import RUN, FakeBackend
from worker.artifact_transfer import ArtifactTransfer
from worker.training_monitor import TimeLimits

FOLDER = "runs/run-1/attempt-1"
DIGEST = hashlib.sha256(b"weights").hexdigest()


class Flaky(ObjectStore):
    """A store that refuses the next ``refusals`` writes."""

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
    with services.s3() as url:
        yield url


@pytest.fixture
def store(bucket: str, request: pytest.FixtureRequest) -> Flaky:
    return Flaky(f"{bucket}/{abs(hash(request.node.name))}")


@pytest.fixture
def make(make_rig: Callable[..., Rig], store: Flaky, tmp_path: Path) -> Callable[..., Rig]:
    return lambda **more: make_rig(transfer=ArtifactTransfer(store, tmp_path / "artifacts"), **more)


def put(store: ObjectStore, folder: str, name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sent"
    path.write_bytes(content)
    store.write_manifest(folder, {name: store.add(folder, name, path)})


def student(backend: FakeBackend, **more: Any) -> None:
    spec = RUN.model_copy(update={"role": "student", "teacher": "t1", "method": RUN.method})
    backend.add(spec=spec, teacher_spec=RUN, **more)


def test_files_are_in_the_store_before_success_is_reported(
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
    assert [path.name for path in rig.folder().iterdir()] == ["weights.safetensors"], "kept for the teacher's students"


def test_unwritable_store_is_detected_before_the_training(make: Callable[..., Rig], store: Flaky) -> None:
    store.refusals = 1
    backend = make().run("succeed")
    outcome = backend.outcome()
    assert outcome
    assert (outcome.outcome, outcome.fault) == ("interrupted", True)
    assert "the bucket is away" in outcome.reason
    assert backend.types() == [], "nothing was trained"
    assert until(lambda: any("the bucket is away" in text for beat in backend.heartbeats for text in beat.problems))


def test_short_outage_of_the_store_is_retried(make: Callable[..., Rig], store: Flaky) -> None:
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


def test_trained_run_whose_files_cannot_be_stored_is_requeued(make: Callable[..., Rig], store: Flaky) -> None:
    rig = make(limits=TimeLimits(grace=20.0, margin=5.0, linger=1.0, report=1.0, store=1.0))
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
    assert (rig.folder() / "weights.safetensors").exists(), "a person can still save it"


def test_checkpoint_is_reported_after_its_upload(make: Callable[..., Rig], store: Flaky, tmp_path: Path) -> None:
    rig = make(limits=TimeLimits(grace=20.0, margin=5.0, linger=1.0, report=30.0))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.supervisor.begin_shutdown()
    until(lambda: rig.backend.outcomes, "an outcome")
    outcome = rig.backend.outcome()
    assert outcome
    assert outcome.outcome == "interrupted"
    events = [record.event for record in rig.backend.records["run-1", 1]]
    checkpoints = [event for event in events if isinstance(event, Checkpointed)]
    assert len(checkpoints) == 1
    assert checkpoints[0].path in store.manifest(FOLDER)
    assert rig.backend.seqs() == list(range(1, len(events) + 1))

    # Another machine has none of the first one's files.
    second = tmp_path / "elsewhere"
    claim = FakeBackend().add(attempt=2, checkpoint=ArtifactRef(path=f"{FOLDER}/{checkpoints[0].path}"))
    ArtifactTransfer(store, second).fetch_inputs(claim)
    assert next(iter(read_journal(second / FOLDER / checkpoints[0].path))).event.type == "started"


def test_failed_checkpoint_upload_is_a_warning(make: Callable[..., Rig], store: Flaky) -> None:
    rig = make(limits=TimeLimits(grace=20.0, margin=5.0, linger=1.0, report=30.0))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    store.refusals = 1
    rig.supervisor.begin_shutdown()
    until(lambda: rig.backend.outcomes, "an outcome")
    assert "checkpoint" not in rig.backend.types()
    lines = [record.event.message for record in rig.backend.records["run-1", 1] if record.event.type == "log"]
    assert "exists only on this worker" in lines[-1]
    assert rig.backend.seqs() == list(range(1, len(rig.backend.seqs()) + 1)), "no gap"


def test_teacher_is_fetched_and_verified(make: Callable[..., Rig], store: Flaky, tmp_path: Path) -> None:
    put(store, "runs/t1/attempt-3", "weights.safetensors", b"weights", tmp_path)
    put(store, "runs/t2/attempt-1", "weights.safetensors", b"weights", tmp_path)
    rig = make()
    second = ArtifactRef(path="runs/t2/attempt-1/weights.safetensors", sha256=DIGEST)
    student(
        rig.backend,
        teacher=ArtifactRef(path="runs/t1/attempt-3/weights.safetensors", sha256=DIGEST),
        further_teachers=[TeacherRef(weights=second, spec=RUN.model_dump(mode="json"))],
    )
    rig.start()
    until(lambda: rig.backend.outcomes, "an outcome")
    outcome = rig.backend.outcome()
    assert outcome
    assert outcome.outcome == "succeeded"
    for folder in ("t1/attempt-3", "t2/attempt-1"):
        assert (tmp_path / f"artifacts/runs/{folder}/weights.safetensors").read_bytes() == b"weights"
    rig.idle()
    assert not rig.folder().exists(), "a student's files are only in the store"


def test_replaced_teacher_is_refused(make: Callable[..., Rig], store: Flaky, tmp_path: Path) -> None:
    put(store, "runs/t1/attempt-3", "weights.safetensors", b"planted", tmp_path)
    rig = make()
    student(rig.backend, teacher=ArtifactRef(path="runs/t1/attempt-3/weights.safetensors", sha256=DIGEST))
    rig.start()
    until(lambda: rig.backend.outcomes, "an outcome")
    outcome = rig.backend.outcome()
    assert outcome
    assert outcome.outcome == "failed"
    assert "has changed since it was reported" in outcome.reason


def test_uploaded_weights_are_fetched_by_their_hash(store: Flaky, tmp_path: Path) -> None:
    root = tmp_path / "root"
    claim = FakeBackend().add(weights_source=f"upload:{DIGEST}")
    ArtifactTransfer(store, root).fetch_inputs(claim)
    assert not list(root.rglob("*.safetensors")), "the store has none; the training reports that"
    sent = tmp_path / "sent"
    sent.write_bytes(b"weights")
    store.put(sent, f"uploads/{DIGEST}.safetensors")
    ArtifactTransfer(store, root).fetch_inputs(claim)
    assert (root / f"uploads/{DIGEST}.safetensors").read_bytes() == b"weights"
    sent.write_bytes(b"planted")
    store.put(sent, f"uploads/{DIGEST}.safetensors")
    with pytest.raises(StoreError, match="is not the file"):
        ArtifactTransfer(store, tmp_path / "other").fetch_inputs(claim)


def test_path_outside_the_root_is_not_fetched(store: Flaky, tmp_path: Path) -> None:
    put(store, "runs/t1/attempt-3", "weights.safetensors", b"weights", tmp_path)
    root = tmp_path / "root"
    claim = FakeBackend().add(checkpoint=ArtifactRef(path="../../outside"))
    ArtifactTransfer(store, root).fetch_inputs(claim)
    assert not (tmp_path.parent / "outside").exists()


def test_unused_files_are_deleted_after_days(store: Flaky, tmp_path: Path) -> None:
    root = tmp_path / "root"
    old, fresh, current = root / "runs/old", root / "runs/fresh", root / "runs/run-1"
    for folder in (old, fresh, current):
        (folder / "attempt-1").mkdir(parents=True)
        (folder / "attempt-1" / "weights.safetensors").write_bytes(b"weights")
    long_ago = time.time() - 10 * 86_400
    for folder in (old, current):
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (long_ago, long_ago))
    ArtifactTransfer(store, root).fetch_inputs(FakeBackend().add())
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["fresh", "run-1"]
