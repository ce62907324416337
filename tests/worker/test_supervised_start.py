"""What a run starts from: files of an earlier attempt, its teacher, and a folder in which nothing is in the way."""

from __future__ import annotations

import hashlib

from core.protocol.worker import ArtifactRef
from tests.worker.conftest import Rig
from tests.worker.fake import RUN
from tests.worker.test_supervisor import wait_for_outcome


def test_resumed_attempt_republishes_the_journal_and_continues(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.supervisor.begin_shutdown()
    assert wait_for_outcome(rig) == "interrupted"
    checkpoint = next(rig.folder().glob("checkpoint-*"))
    rig.close()

    other = Rig(rig.artifacts)
    path = checkpoint.relative_to(rig.artifacts).as_posix()
    other.backend.add(attempt=2, checkpoint=ArtifactRef(path=path))
    other.start()
    assert wait_for_outcome(other) == "succeeded"
    types = other.backend.types(attempt=2)
    assert types.count("started") == 2
    assert types[-1] == "finished"
    assert other.backend.seqs(attempt=2) == list(range(1, len(types) + 1))
    other.close()


def test_missing_checkpoint_starts_from_the_beginning(rig: Rig) -> None:
    rig.backend.add(attempt=2, checkpoint=ArtifactRef(path="runs/run-1/attempt-1/gone.pt"))
    rig.start()
    assert wait_for_outcome(rig) == "succeeded"
    assert rig.backend.types(attempt=2).count("started") == 1


def student(rig: Rig, **weights: str) -> None:
    (rig.artifacts / "runs/teacher/attempt-1").mkdir(parents=True)
    (rig.artifacts / "runs/teacher/attempt-1/weights.safetensors").write_bytes(b"the teacher")
    ref = {"path": "runs/teacher/attempt-1/weights.safetensors", "sha256": hashlib.sha256(b"the teacher").hexdigest()}
    spec = RUN.model_copy(update={"role": "student", "teacher": RUN.fingerprint()})
    rig.backend.add(spec=spec, teacher=ArtifactRef(**{**ref, **weights}), teacher_spec=RUN)
    rig.start()


def test_teacher_is_passed_to_the_training(rig: Rig) -> None:
    student(rig)
    assert wait_for_outcome(rig) == "succeeded"
    assert (rig.folder() / "teacher.json").exists()


def test_changed_teacher_fails_with_a_reason(rig: Rig) -> None:
    student(rig, sha256="0" * 64)
    assert wait_for_outcome(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason.startswith("the teacher's weights: file has changed since it was reported: ")
    assert not rig.folder().exists()


def test_missing_teacher_fails_with_a_reason(rig: Rig) -> None:
    student(rig, path="runs/teacher/attempt-9/weights.safetensors")
    assert wait_for_outcome(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason.startswith("the teacher's weights: file not found: ")


def test_claim_without_its_teacher_fails_with_a_reason(rig: Rig) -> None:
    rig.backend.add(spec=RUN.model_copy(update={"role": "student", "teacher": RUN.fingerprint()}))
    rig.start()
    assert wait_for_outcome(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the run needs a teacher, and the backend named none"


def test_path_outside_the_store_is_refused(rig: Rig) -> None:
    rig.backend.add(folder="runs/../../outside")
    rig.start()
    assert wait_for_outcome(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the path 'runs/../../outside' is outside the artifact store"
    assert not (rig.artifacts.parent / "outside").exists()


def test_files_of_an_unknown_attempt_are_moved_aside(rig: Rig) -> None:
    rig.folder().mkdir(parents=True)
    (rig.folder() / "events.jsonl").write_text("from another life\n")
    assert rig.run("succeed").outcomes[0][1].outcome == "succeeded"
    [moved] = [path for path in rig.folder().parent.iterdir() if path != rig.folder()]
    assert (moved / "events.jsonl").read_text() == "from another life\n"
