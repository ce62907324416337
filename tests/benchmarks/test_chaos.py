"""The checks of the chaos benchmark distinguish violations from correct behaviour."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import digest_chain, liveness
from benchmarks.chaos.audit import Audit, count_resumed_trainings
from benchmarks.chaos.claimers import ClaimResult
from benchmarks.chaos.liveness import RECORDS, LivenessRecorder, overlaps
from benchmarks.chaos.report import Report
from benchmarks.chaos.standin import STEP_SECONDS
from benchmarks.chaos.supervised import ROOT
from core.events import Journal, Started, read_journal
from tests.waiting import until

STEPS = 12


def start(folder: Path, attempt: int, *more: str, ranks: int = 1, seconds: float = 0.01) -> subprocess.Popen[bytes]:
    """Start an attempt at a stand-in run, as a worker does."""
    out = folder / "run" / f"attempt-{attempt}"
    out.mkdir(parents=True)
    spec: dict[str, Any] = {"dataset": {"name": "synthetic"}, "seed": 3, "training": {"epochs": STEPS}}
    (out / "run.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "benchmarks.chaos.standin", "--ranks", str(ranks), "--out", str(out)]
    environment = os.environ | {RECORDS: str(folder), STEP_SECONDS: str(seconds), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, "--run", str(out / "run.json"), *more], env=environment)


def types(folder: Path, attempt: int) -> list[str]:
    return [record.event.type for record in read_journal(folder / "run" / f"attempt-{attempt}" / "events.jsonl")]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a first attempt that has written a checkpoint and runs for long."""
    process = start(tmp_path, 1, ranks=2, seconds=0.2)
    until(lambda: "checkpoint" in types(tmp_path, 1))
    yield process
    process.kill()
    process.wait()


def end_ranks(folder: Path) -> None:
    for life in liveness.process_lives(liveness.read_records(folder)):
        if life.rank and not life.stopped:
            os.kill(life.pid, signal.SIGKILL)
    until(lambda: not liveness.is_alive(folder, "run"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_resumed_standin_ends_like_an_undisturbed_one(
    tmp_path: Path, slow: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    slow.send_signal(number)
    slow.wait()
    if number == signal.SIGTERM:
        assert types(tmp_path, 1)[-2:] == ["checkpoint", "stopped"]
    else:
        end_ranks(tmp_path)
    checkpoint = tmp_path / "run" / "attempt-1" / "checkpoint.json"
    assert start(tmp_path, 2, "--resume", str(checkpoint), ranks=2).wait() == 0
    journal = [record.event for record in read_journal(tmp_path / "run" / "attempt-2" / "events.jsonl")]
    assert [event.step for event in journal if event.type == "metrics"] == list(range(1, STEPS + 1))
    assert [event.start_step > 0 for event in journal if event.type == "started"] == [False, True]
    expected = digest_chain.weights_content(digest_chain.states(3, STEPS, 2)[-1])
    assert (tmp_path / "run" / "attempt-2" / "weights.safetensors").read_bytes() == expected
    assert journal[-1].type == "finished"
    assert journal[-1].sha256 == hashlib.sha256(expected).hexdigest()
    assert overlaps(liveness.read_records(tmp_path)) == []


def test_concurrent_second_attempt_is_detected(tmp_path: Path, slow: subprocess.Popen[bytes]) -> None:
    assert start(tmp_path, 2).wait() == 0
    assert slow.poll() is None
    assert [(overlap.run, overlap.attempts) for overlap in overlaps(liveness.read_records(tmp_path))] == [
        ("run", (1, 2))
    ]
    slow.kill()
    slow.wait()
    end_ranks(tmp_path)


def test_leftover_rank_is_detected(tmp_path: Path, slow: subprocess.Popen[bytes]) -> None:
    slow.kill()
    slow.wait()
    assert liveness.is_alive(tmp_path, "run"), "the other rank is still alive"
    assert start(tmp_path, 2).wait() == 0
    assert [overlap.attempts for overlap in overlaps(liveness.read_records(tmp_path))] == [(1, 2)]
    end_ranks(tmp_path)


def test_overlap_is_detected_from_times_alone(tmp_path: Path) -> None:
    def life(attempt: int, pid: int, *times: float) -> list[dict[str, Any]]:
        same = {"run": "run", "attempt": attempt, "rank": 0, "pid": pid}
        return [same | {"what": "tick" if index else "start", "mono": time} for index, time in enumerate(times)]

    assert overlaps(life(1, 10, 0.0, 1.0) + life(2, 11, 1.5, 2.0)) == []
    assert [overlap.attempts for overlap in overlaps(life(1, 10, 0.0, 2.0) + life(2, 11, 1.5, 3.0))] == [(1, 2)]


def test_lost_repeated_or_reordered_step_changes_the_weights() -> None:
    right = digest_chain.states(3, 5, 1)[-1]
    for steps in ([1, 2, 3, 4], [1, 2, 3, 3, 4, 5], [1, 3, 2, 4, 5]):
        state = digest_chain.initial_state(3)
        for step in steps:
            state = digest_chain.advance(state, step, [])
        assert state != right
    assert digest_chain.states(3, 5, 1, teacher=b"weights")[-1] != right


def test_count_resumed_trainings_counts_finished_attempts_that_began_at_a_checkpoint(tmp_path: Path) -> None:
    def attempt(run: str, number: int, data: str, *steps: int, weights: bool = True) -> None:
        out = tmp_path / "runs" / run / f"attempt-{number}"
        out.mkdir(parents=True)
        (out / "run.json").write_text(json.dumps({"dataset": {"name": data}}))
        with Journal(out / "events.jsonl") as journal:
            for step in steps:
                journal.append(
                    Started(
                        total_steps=9,
                        total_epochs=9,
                        start_step=step,
                        train_size=1,
                        test_size=1,
                        parameters=1,
                        device="cpu",
                    )
                )
        if weights:
            (out / "weights.safetensors").touch()

    attempt("undisturbed", 1, "digits", 0)
    attempt("restarted", 1, "digits", 0, weights=False)
    attempt("restarted", 2, "digits", 0)
    attempt("under-way", 2, "digits", 0, 4, weights=False)
    attempt("played", 2, "synthetic", 0, 4)
    assert count_resumed_trainings(tmp_path) == 0
    attempt("resumed", 3, "digits", 0, 4, 4)
    assert count_resumed_trainings(tmp_path) == 1


def test_process_holds_its_lock_until_it_ends(tmp_path: Path) -> None:
    with LivenessRecorder(tmp_path, "run", 1):
        assert liveness.is_alive(tmp_path, "run")
    assert [(life.attempt, life.stopped) for life in liveness.process_lives(liveness.read_records(tmp_path))] == [
        (1, True)
    ]


def test_report_is_written_as_json_and_fails_on_any_violation() -> None:
    def report(**wrong: list[str]) -> Report:
        counted = Audit(submitted=2, states={"succeeded": 2}, **wrong)  # type: ignore[arg-type]
        terms = {"lease": 12.0}
        return Report(
            "embedded", 1, 1.0, "a machine", "abc", terms, {"worker killed": 3}, ClaimResult(5, 5, 0), counted
        )

    right = report()
    assert right.passed
    assert json.loads(json.dumps(right.as_json()))["audit"]["states"] == {"succeeded": 2}
    assert "| faults injected | 3 |" in right.as_markdown()
    for name in ("lost", "twice", "points_lost", "points_doubled", "left", "wrong"):
        wrong = report(**{name: ["a violation"]})
        assert not wrong.passed
        assert "a violation" in wrong.as_markdown()
