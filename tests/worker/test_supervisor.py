"""Runs from claim to outcome, with real processes and a backend that can go down."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.events import Started
from core.protocol.worker import ArtifactRef, RunOrder
from tests.waiting import until
from tests.worker.conftest import Rig, processes_of
from tests.worker.fake import RUN
from worker.health import Health
from worker.reporter import Reporter
from worker.training_monitor import TimeLimits

MakeRig = Callable[..., Rig]


def wait_for_outcome(rig: Rig, run_id: str = "run-1") -> str:
    """Wait for a run's outcome and return it."""
    outcome = until(lambda: rig.backend.outcome(run_id), f"{run_id} ends")
    return str(outcome.outcome)


def test_success_reports_every_event_and_then_the_weights(rig: Rig) -> None:
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
        ("crash", "failed", "the training was killed by SIGSEGV"),
        ("killed", "interrupted", "the training was killed by SIGKILL from outside"),
        ("exit", "failed", "the training ended with exit code 2: the spec cannot be used"),
        ("silent", "failed", "the training ended with exit code 0 and without a result"),
        ("forge", "failed", "the weights: file not found"),
        ("escape", "failed", "the path '../../weights' is outside the artifact store"),
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


def test_failure_contains_the_last_log_lines(rig: Rig) -> None:
    reported = rig.run("fail").outcome()
    assert reported is not None
    assert reported.log_tail == ["a line of the training's log", "Traceback: it went wrong"]


def test_training_stopped_from_outside_is_requeued(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    started = until(lambda: rig.backend.records.get(("run-1", 1)))[0].event
    assert isinstance(started, Started)
    os.kill(int(started.device.split()[-1]), signal.SIGTERM)
    assert wait_for_outcome(rig) == "interrupted"
    assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]


def test_one_nudge_empties_the_queue(rig: Rig) -> None:
    rig.backend.announce = False
    rig.start()
    until(lambda: rig.backend.heartbeats)
    for number in range(3):
        rig.backend.add(f"run-{number}")
    assert rig.supervisor.run_next() == 3
    assert [name for name, _ in rig.backend.outcomes] == ["run-0", "run-1", "run-2"]


def test_slots_limit_concurrent_runs(make_rig: MakeRig) -> None:
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
    assert wait_for_outcome(rig, "run-2") == "succeeded"


@pytest.mark.parametrize("behaviour", ["train", "brood"])
def test_cancel_leaves_no_process(make_rig: MakeRig, behaviour: str) -> None:
    rig = make_rig(limits=TimeLimits(grace=1.0, margin=1.0))
    rig.behaviour = behaviour
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.orders["run-1"] = "cancel"
    assert wait_for_outcome(rig) == "cancelled"
    # Checked as soon as the backend has the outcome: no process is still ending.
    assert processes_of(rig.artifacts) == []
    if behaviour == "train":
        assert rig.backend.types()[-1] == "stopped"


def test_two_attempts_of_a_run_can_be_leased_at_once(make_rig: MakeRig) -> None:
    rig = make_rig(slots=2)
    rig.behaviour = "train"
    rig.backend.add(attempt=1)
    rig.start()
    rig.ready(attempt=1)
    rig.backend.add(attempt=2)
    rig.ready(attempt=2)
    assert [holding.attempt for holding in rig.supervisor.holdings()] == [1, 2]
    rig.supervisor.apply_orders([RunOrder(run_id="run-1", attempt=1, order="lost")], 0.0)
    until(lambda: [holding.attempt for holding in rig.supervisor.holdings()] == [2], "only the first is released")
    rig.backend.orders["run-1"] = "cancel"
    assert wait_for_outcome(rig) == "cancelled"
    assert [outcome.attempt for _, outcome in rig.backend.outcomes] == [2]


def test_lost_run_is_killed_without_a_report(rig: Rig) -> None:
    rig.behaviour = "deaf"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.orders["run-1"] = "lost"
    assert rig.idle()
    assert processes_of(rig.artifacts) == []
    assert rig.backend.outcomes == []


def test_fenced_report_kills_the_training(rig: Rig) -> None:
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
    assert reported.reason == "the backend refuses the training's reports: refused"


def test_outage_neither_loses_nor_duplicates_events(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    until(rig.backend.seqs, "first events")
    rig.backend.down = True
    before = len(rig.backend.seqs())
    lines = (rig.folder() / "events.jsonl").read_text().count("\n")
    until(lambda: (rig.folder() / "events.jsonl").read_text().count("\n") > lines + 10, "the training continues")
    assert len(rig.backend.seqs()) == before
    rig.backend.lose_replies = 2
    rig.backend.down = False
    until(lambda: len(rig.backend.seqs()) > before + 10, "the rest arrives")
    rig.backend.orders["run-1"] = "cancel"
    assert wait_for_outcome(rig) == "cancelled"
    lines_written = (rig.folder() / "events.jsonl").read_text().count("\n")
    assert rig.backend.seqs() == list(range(1, lines_written + 1))
    assert any(
        later[0] <= earlier[-1] for earlier, later in zip(rig.backend.batches, rig.backend.batches[1:], strict=False)
    )


def test_rate_limit_neither_loses_events_nor_the_outcome(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reporter and the outcome wait as long as the backend demands, in the loops that repeat them anyway."""
    waited: list[float] = []
    monkeypatch.setattr(Reporter, "_pause", lambda reporter, seconds: waited.append(seconds))
    rig.backend.limit, rig.backend.retry_after = 3, 7.0
    backend = rig.run("succeed")
    assert backend.types() == ["started", *["metrics"] * 5, "log", "finished"]
    assert backend.seqs() == list(range(1, 9))
    assert wait_for_outcome(rig) == "succeeded"
    demanded = [seconds for seconds in waited if seconds >= 7.0]
    assert len(demanded) == 3


def test_outcome_above_a_rate_limit_is_repeated(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    rig.backend.add()
    finish = rig.backend.finish

    def limited(*arguments: Any) -> None:
        rig.backend.limit = 2 if not attempts else 0
        attempts.append(1)
        finish(*arguments)

    attempts: list[int] = []
    monkeypatch.setattr(rig.backend, "finish", limited)
    rig.start()
    assert wait_for_outcome(rig) == "succeeded"
    assert len(attempts) == 2


def test_events_that_the_backend_has_lost_are_sent_again(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    until(lambda: len(rig.backend.seqs()) > 20, "events")
    del rig.backend.records[("run-1", 1)][5:]
    rig.backend.orders["run-1"] = "cancel"
    assert wait_for_outcome(rig) == "cancelled"
    lines_written = (rig.folder() / "events.jsonl").read_text().count("\n")
    assert rig.backend.seqs() == list(range(1, lines_written + 1))


def test_outcome_waits_for_the_backend(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    rig.backend.orders["run-1"] = "continue"
    [process] = [psutil.Process(pid) for pid in processes_of(rig.folder()) if "launcher.py" not in _words(pid)]
    process.terminate()
    process_gone = until(lambda: not processes_of(rig.folder()), "the training has ended")
    assert process_gone
    assert rig.backend.outcomes == []
    rig.backend.down = False
    assert wait_for_outcome(rig) == "interrupted"


def _words(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


@pytest.mark.parametrize("behaviour", ["train", "brood"])
def test_training_is_stopped_before_an_unrenewable_lease_ends(make_rig: MakeRig, behaviour: str) -> None:
    rig = make_rig(lease=6.0)
    rig.behaviour = behaviour
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    until(lambda: not processes_of(rig.artifacts), "the training is stopped during the outage")
    assert rig.backend.outcomes == []
    assert not rig.supervisor.wait(0)
    rig.backend.down = False
    assert wait_for_outcome(rig) == "interrupted"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the lease could not be renewed: the worker could not reach the backend"
    if behaviour == "train":
        assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]


def test_run_fenced_after_its_lease_ended_is_discarded(make_rig: MakeRig) -> None:
    rig = make_rig(lease=6.0)
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    until(lambda: not processes_of(rig.artifacts), "the training is stopped during the outage")
    rig.backend.fenced.add("run-1")
    rig.backend.down = False
    assert rig.idle()
    assert rig.backend.outcomes == []


def test_training_continues_while_its_lease_is_renewed(make_rig: MakeRig) -> None:
    rig = make_rig(lease=3.0)
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 50, "five seconds of heartbeats")
    assert rig.backend.outcomes == []
    assert processes_of(rig.folder())


def test_shutdown_requeues_runs_and_claims_nothing_more(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add("run-1")
    rig.backend.add("run-2")
    rig.start()
    rig.ready()
    rig.supervisor.begin_shutdown()
    assert wait_for_outcome(rig) == "interrupted"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason == "the worker is shutting down"
    assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]
    assert rig.idle()
    assert rig.supervisor.run_next() == 0
    assert [claim.run_id for claim in rig.backend.queue] == ["run-2"]


def test_training_that_ignores_sigterm_is_killed_after_its_grace_and_requeued(make_rig: MakeRig) -> None:
    """Example: a training that compiles. The steps since its last checkpoint are lost, and no failure is counted."""
    rig = make_rig(limits=TimeLimits(grace=0.3, margin=1.0))
    rig.behaviour = "deaf"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.supervisor.begin_shutdown()
    assert wait_for_outcome(rig) == "interrupted"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert (outcome.reason, outcome.fault) == ("the worker is shutting down", False)
    assert processes_of(rig.artifacts) == []


def test_shutdown_does_not_wait_for_an_unreachable_backend(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.down = True
    rig.supervisor.begin_shutdown()
    assert rig.idle()
    assert processes_of(rig.artifacts) == []


def test_worker_fault_requeues_the_run_and_pauses_claiming(rig: Rig) -> None:
    rig.artifacts.mkdir()
    (rig.artifacts / "runs").write_text("a file where a folder should be")
    rig.backend.add("run-1")
    rig.backend.add("run-2")
    rig.start()
    assert wait_for_outcome(rig) == "interrupted"
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 3, "more heartbeats")
    assert [claim.run_id for claim in rig.backend.queue] == ["run-2"]


def test_training_environment_has_no_token(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_claim_with_a_lost_reply_is_repeated_with_its_key(rig: Rig) -> None:
    rig.backend.lose_claims = 2
    rig.backend.add()
    rig.start()
    assert until(rig.backend.outcome, "the run ends").outcome == "succeeded"
    keys = [request.key for request in rig.backend.requests]
    assert len(set(keys[:3])) == 1
    assert len(rig.backend.claimed) == 1
    assert keys[3] not in keys[:3]


def test_paused_run_returns_to_the_queue(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.pauses.add("run-1")
    outcome = until(rig.backend.outcome, "the run is requeued")
    assert (outcome.outcome, outcome.reason, outcome.fault) == ("interrupted", "paused", False)
    assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]


def test_full_disk_requeues_the_run_and_pauses_claiming(rig: Rig) -> None:
    rig.backend.add("run-2", attempt=1)
    rig.health = Health(problems=["the disk is full"])
    outcome = rig.run("full").outcome("run-2")
    assert outcome is not None
    assert (outcome.outcome, outcome.fault) == ("interrupted", True)
    assert outcome.reason == "the training could not continue: no space is left"
    beat = until(lambda: next((beat for beat in rig.backend.heartbeats[-1:] if len(beat.problems) == 2), None))
    assert beat.problems[0].startswith("does not claim runs for another 30 s: the training could not continue")
    assert beat.problems[1] == "the disk is full"
    assert [claim.run_id for claim in rig.backend.queue] == ["run-1"], "no further run was claimed"


def test_spec_with_an_unknown_method_reaches_the_training(make_rig: MakeRig) -> None:
    """The spec is opaque to the worker: a method of a plugin that cannot be imported here is the training's error."""
    rig = make_rig(command=(sys.executable, "-m", "core", "train"))
    spec = RUN.model_dump(mode="json")
    spec["method"] = {"name": "method_of_a_plugin", "label": "theirs", "params": {"its_own": 1}}
    claim = rig.backend.add()
    rig.backend.queue[:] = [claim.model_copy(update={"spec": spec})]
    rig.start()
    assert wait_for_outcome(rig) == "failed"
    outcome = rig.backend.outcome()
    assert outcome is not None
    assert outcome.reason.startswith("the training ended with exit code 2: ")
    assert "method_of_a_plugin" in outcome.reason
