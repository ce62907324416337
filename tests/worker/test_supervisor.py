"""Runs from claim to outcome, with real processes and a backend that can be switched off."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from core.events import Started
from core.protocol.worker import ArtifactRef, RunOrder
from tests.waiting import until
from tests.worker.conftest import Rig, processes_of
from tests.worker.fake import RUN
from worker.training_monitor import Limits

MakeRig = Callable[..., Rig]


def ends(rig: Rig, run_id: str = "run-1") -> str:
    """Wait for a run's outcome; returns its word."""
    outcome = until(lambda: rig.backend.outcome(run_id), f"{run_id} ends")
    return str(outcome.outcome)


def test_success_reports_everything_then_the_weights(rig: Rig) -> None:
    backend = rig.run("succeed")
    outcome = backend.outcome()
    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == ("succeeded", "")
    assert outcome.weights == ArtifactRef(
        path="runs/run-1/attempt-1/weights.safetensors", sha256=hashlib.sha256(b"weights").hexdigest()
    )
    assert (rig.artifacts / outcome.weights.path).read_bytes() == b"weights"
    assert backend.types() == ["started", *["metrics"] * 5, "log", "finished"]
    assert backend.seqs() == list(range(1, 9))


@pytest.mark.parametrize(
    ("behaviour", "outcome", "reason"),
    [
        ("fail", "failed", "the loss became NaN at step 5"),
        ("crash", "failed", "the training was ended by SIGSEGV"),
        ("killed", "interrupted", "the training was ended by SIGKILL from outside"),
        ("exit", "failed", "the training ended with exit code 2: the spec cannot be used"),
        ("silent", "failed", "the training ended with exit code 0 and without a result"),
        ("forge", "failed", "the weights are not there"),
        ("escape", "failed", "the path '../../weights' leads out of the artifact store"),
        ("torn", "failed", "the training's journal cannot be read"),
        ("linger", "succeeded", ""),
        ("brood-succeed", "succeeded", ""),
    ],
)
def test_outcome_and_reason(rig: Rig, behaviour: str, outcome: str, reason: str) -> None:
    reported = rig.run(behaviour).outcome()
    assert reported is not None
    assert reported.outcome == outcome
    assert reported.reason.startswith(reason)
    assert rig.idle()
    assert processes_of(rig.folder()) == []


def test_failure_carries_the_last_lines(rig: Rig) -> None:
    reported = rig.run("fail").outcome()
    assert reported is not None
    assert reported.log_tail == ["a line of the training's log", "Traceback: it went wrong"]


def test_training_stopped_from_outside_goes_back(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    started = until(lambda: rig.backend.records.get(("run-1", 1)))[0].event
    assert isinstance(started, Started)
    os.kill(int(started.device.split()[-1]), signal.SIGTERM)
    assert ends(rig) == "interrupted"
    assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]


def test_one_nudge_drains_the_queue(rig: Rig) -> None:
    rig.backend.announce = False
    rig.start()
    until(lambda: rig.backend.heartbeats)
    for number in range(3):
        rig.backend.add(f"run-{number}")
    assert rig.supervisor.run_next() == 3
    assert [name for name, _ in rig.backend.outcomes] == ["run-0", "run-1", "run-2"]


def test_slots_bound_what_runs_at_once(make_rig: MakeRig) -> None:
    rig = make_rig(slots=2)
    rig.behaviour = "train"
    for number in range(3):
        rig.backend.add(f"run-{number}")
    rig.start()
    rig.ready("run-0")
    rig.ready("run-1")
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 3, "more heartbeats")
    assert rig.supervisor.run_next() == 0
    assert [claim.run_id for claim in rig.backend.queue] == ["run-2"]
    assert {item.run_id for item in rig.backend.heartbeats[-1].holding} == {"run-0", "run-1"}
    rig.behaviour = "succeed"
    rig.backend.orders["run-0"] = "cancel"
    assert ends(rig, "run-2") == "succeeded"


@pytest.mark.parametrize("behaviour", ["train", "brood"])
def test_cancel_leaves_no_process(make_rig: MakeRig, behaviour: str) -> None:
    rig = make_rig(limits=Limits(grace=1.0, margin=1.0))
    rig.behaviour = behaviour
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.orders["run-1"] = "cancel"
    assert ends(rig) == "cancelled"
    # Looked at the moment the backend hears of it: nothing is still on its way out.
    assert processes_of(rig.artifacts) == []
    if behaviour == "train":
        assert rig.backend.types()[-1] == "stopped"


def test_the_next_attempt_is_held_while_the_end_of_the_last_is_not_yet_heard(make_rig: MakeRig) -> None:
    rig = make_rig(slots=2)
    rig.behaviour = "train"
    rig.backend.add(attempt=1)
    rig.start()
    rig.ready(attempt=1)
    rig.backend.add(attempt=2)
    rig.ready(attempt=2)
    assert [held.attempt for held in rig.supervisor.holding()] == [1, 2]
    rig.supervisor.obey([RunOrder(run_id="run-1", attempt=1, order="lost")], 0.0)
    until(lambda: [held.attempt for held in rig.supervisor.holding()] == [2], "the first is let go, the second is not")
    rig.backend.orders["run-1"] = "cancel"
    assert ends(rig) == "cancelled"
    assert [outcome.attempt for _, outcome in rig.backend.outcomes] == [2]


def test_run_that_is_lost_is_ended_without_a_word(rig: Rig) -> None:
    rig.behaviour = "deaf"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.orders["run-1"] = "lost"
    assert rig.idle()
    assert processes_of(rig.artifacts) == []
    assert rig.backend.outcomes == []


def test_fenced_report_ends_the_training(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.fenced.add("run-1")
    assert rig.idle()
    assert processes_of(rig.artifacts) == []
    assert rig.backend.outcomes == []


def test_refused_report_fails_the_run(rig: Rig) -> None:
    rig.backend.refuse_events = 422
    reported = rig.run("train").outcome()
    assert reported is not None
    assert reported.outcome == "failed"
    assert reported.reason == "the backend refuses what the training reports: refused"


def test_outage_loses_nothing_and_repeats_nothing(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    until(rig.backend.seqs, "first events")
    rig.backend.down = True
    before = len(rig.backend.seqs())
    lines = (rig.folder() / "events.jsonl").read_text().count("\n")
    until(lambda: (rig.folder() / "events.jsonl").read_text().count("\n") > lines + 10, "the training goes on")
    assert len(rig.backend.seqs()) == before
    rig.backend.lose_replies = 2
    rig.backend.down = False
    until(lambda: len(rig.backend.seqs()) > before + 10, "the rest arrives")
    rig.backend.orders["run-1"] = "cancel"
    assert ends(rig) == "cancelled"
    whole = (rig.folder() / "events.jsonl").read_text().count("\n")
    assert rig.backend.seqs() == list(range(1, whole + 1))
    assert any(
        later[0] <= earlier[-1] for earlier, later in zip(rig.backend.batches, rig.backend.batches[1:], strict=False)
    )


def test_events_the_backend_has_lost_are_sent_again(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    until(lambda: len(rig.backend.seqs()) > 20, "events")
    del rig.backend.records[("run-1", 1)][5:]
    rig.backend.orders["run-1"] = "cancel"
    assert ends(rig) == "cancelled"
    whole = (rig.folder() / "events.jsonl").read_text().count("\n")
    assert rig.backend.seqs() == list(range(1, whole + 1))


def test_outcome_waits_for_the_backend(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    rig.backend.orders["run-1"] = "continue"
    [process] = [psutil.Process(pid) for pid in processes_of(rig.folder()) if "launcher.py" not in _words(pid)]
    process.terminate()
    process_gone = until(lambda: not processes_of(rig.folder()), "the training is gone")
    assert process_gone
    assert rig.backend.outcomes == []
    rig.backend.down = False
    assert ends(rig) == "interrupted"


def _words(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


@pytest.mark.parametrize("behaviour", ["train", "brood"])
def test_training_ends_before_a_lease_that_cannot_be_renewed(make_rig: MakeRig, behaviour: str) -> None:
    rig = make_rig(lease=6.0)
    rig.behaviour = behaviour
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    until(lambda: not processes_of(rig.artifacts), "the training is ended while nobody answers")
    assert rig.backend.outcomes == []
    assert not rig.supervisor.wait(0)
    rig.backend.down = False
    assert ends(rig) == "interrupted"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the lease could not be renewed: the worker could not reach the backend"
    if behaviour == "train":
        assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]


def test_fenced_after_a_lost_lease_is_dropped(make_rig: MakeRig) -> None:
    rig = make_rig(lease=6.0)
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    until(lambda: not processes_of(rig.artifacts), "the training is ended while nobody answers")
    rig.backend.fenced.add("run-1")
    rig.backend.down = False
    assert rig.idle()
    assert rig.backend.outcomes == []


def test_renewed_lease_lets_a_training_go_on(make_rig: MakeRig) -> None:
    rig = make_rig(lease=3.0)
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 50, "five seconds of heartbeats")
    assert rig.backend.outcomes == []
    assert processes_of(rig.folder())


def test_leaving_hands_back_and_claims_nothing_more(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add("run-1")
    rig.backend.add("run-2")
    rig.start()
    rig.ready()
    rig.supervisor.leave()
    assert ends(rig) == "interrupted"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the worker was told to leave"
    assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]
    assert rig.idle()
    assert rig.supervisor.run_next() == 0
    assert [claim.run_id for claim in rig.backend.queue] == ["run-2"]


def test_a_training_that_does_not_hear_is_killed_after_its_grace_and_handed_back(make_rig: MakeRig) -> None:
    """As one whose library compiles: the steps since its last checkpoint are lost, and that is nobody's fault."""
    rig = make_rig(limits=Limits(grace=0.3, margin=1.0))
    rig.behaviour = "deaf"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.supervisor.leave()
    assert ends(rig) == "interrupted"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert (outcome.reason, outcome.fault) == ("the worker was told to leave", False)
    assert processes_of(rig.artifacts) == []


def test_leaving_does_not_wait_for_a_backend_that_is_gone(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    rig.supervisor.leave()
    assert rig.idle()
    assert processes_of(rig.artifacts) == []


def test_resumed_attempt_republishes_and_goes_on(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.supervisor.leave()
    assert ends(rig) == "interrupted"
    checkpoint = next(rig.folder().glob("checkpoint-*"))
    rig.close()

    other = Rig(rig.artifacts)
    path = checkpoint.relative_to(rig.artifacts).as_posix()
    other.backend.add(attempt=2, checkpoint=ArtifactRef(path=path))
    other.start()
    assert ends(other) == "succeeded"
    types = other.backend.types(attempt=2)
    assert types.count("started") == 2
    assert types[-1] == "finished"
    assert other.backend.seqs(attempt=2) == list(range(1, len(types) + 1))
    other.close()


def test_missing_checkpoint_means_from_the_beginning(rig: Rig) -> None:
    rig.backend.add(attempt=2, checkpoint=ArtifactRef(path="runs/run-1/attempt-1/gone.pt"))
    rig.start()
    assert ends(rig) == "succeeded"
    assert rig.backend.types(attempt=2).count("started") == 1


def student(rig: Rig, **weights: str) -> None:
    (rig.artifacts / "runs/teacher/attempt-1").mkdir(parents=True)
    (rig.artifacts / "runs/teacher/attempt-1/weights.safetensors").write_bytes(b"the teacher")
    ref = {"path": "runs/teacher/attempt-1/weights.safetensors", "sha256": hashlib.sha256(b"the teacher").hexdigest()}
    spec = RUN.model_copy(update={"role": "student", "teacher": RUN.fingerprint()})
    rig.backend.add(spec=spec, teacher=ArtifactRef(**{**ref, **weights}), teacher_spec=RUN)
    rig.start()


def test_teacher_is_handed_to_the_training(rig: Rig) -> None:
    student(rig)
    assert ends(rig) == "succeeded"
    assert (rig.folder() / "teacher.json").exists()


def test_changed_teacher_fails_readably(rig: Rig) -> None:
    student(rig, sha256="0" * 64)
    assert ends(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason.startswith("the teacher's weights have changed since they were reported: ")
    assert not rig.folder().exists()


def test_missing_teacher_fails_readably(rig: Rig) -> None:
    student(rig, path="runs/teacher/attempt-9/weights.safetensors")
    assert ends(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason.startswith("the teacher's weights are not there: ")


def test_teacher_that_is_not_named_fails_readably(rig: Rig) -> None:
    rig.backend.add(spec=RUN.model_copy(update={"role": "student", "teacher": RUN.fingerprint()}))
    rig.start()
    assert ends(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the run needs a teacher, and the backend named none"


def test_path_out_of_the_store_is_refused(rig: Rig) -> None:
    rig.backend.add(folder="runs/../../outside")
    rig.start()
    assert ends(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the path 'runs/../../outside' leads out of the artifact store"
    assert not (rig.artifacts.parent / "outside").exists()


def test_files_of_a_forgotten_attempt_are_kept_apart(rig: Rig) -> None:
    rig.folder().mkdir(parents=True)
    (rig.folder() / "events.jsonl").write_text("from another life\n")
    assert rig.run("succeed").outcomes[0][1].outcome == "succeeded"
    [kept] = [path for path in rig.folder().parent.iterdir() if path != rig.folder()]
    assert (kept / "events.jsonl").read_text() == "from another life\n"


def test_fault_of_the_worker_gives_runs_back_and_pauses(rig: Rig) -> None:
    rig.artifacts.mkdir()
    (rig.artifacts / "runs").write_text("a file where a folder should be")
    rig.backend.add("run-1")
    rig.backend.add("run-2")
    rig.start()
    assert ends(rig) == "interrupted"
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 3, "more heartbeats")
    assert [claim.run_id for claim in rig.backend.queue] == ["run-2"]


def test_training_gets_no_token(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DKD_WORKER_TOKEN", "secret-of-the-worker")
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    for pid in processes_of(rig.folder()):
        environment = psutil.Process(pid).environ()
        assert "secret-of-the-worker" not in environment.values()
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert environment["DKD_THREADS"] == environment["OMP_NUM_THREADS"] == "1"
