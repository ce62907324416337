"""The queue with real processes on both stacks: no run is lost or trained twice, and a cancelled run has stopped.

tests/backend tests what the backend alone decides (claims, leases, fencing, teachers, repeated events).
"""

from __future__ import annotations

import hashlib
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos import digest_chain, liveness
from benchmarks.chaos.audit import check_runs
from benchmarks.chaos.claimers import Claimers, ClaimResult
from benchmarks.chaos.running_attempts import RunningAttempt, running_attempts
from benchmarks.chaos.scenario import ScenarioOptions, run_scenario
from benchmarks.chaos.stack import WORKER_NAME, Kind, Stack, Timing, running_stack
from benchmarks.chaos.stack import Worker as StackWorker
from benchmarks.chaos.standin import ranks_of
from benchmarks.chaos.submissions import Submitter, standin_experiment, standin_with_teacher, wait_for_all
from client import ApiError, Client
from core.protocol.public import Run, Worker
from tests import services
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(600)]

TIMING = Timing(lease=9.0, heartbeat=0.5, grace=2.0, margin=1.0, step=0.08)
KINDS: tuple[Kind, ...] = ("embedded", "services")


class Lab:
    """A stack under test, and the runs submitted to it."""

    def __init__(self, running: Stack, client: Client, seeds: Iterator[int]) -> None:
        self.stack, self.client = running, client
        self.submitter = Submitter(running, seed=0, real=0, epochs=1)
        self._seeds = seeds

    def submit(self, steps: int, count: int = 1, *, ranks: int = 1) -> list[str]:
        """Submit runs for the fake training; return their ids."""
        fitting = (seed for seed in self._seeds if ranks_of(seed, TIMING.ranks) == ranks)
        seeds = list(itertools.islice(fitting, count))
        return [
            run.id
            for run in self.submitter.submit(self.client, standin_experiment(f"fake-{seeds[0]}", seeds, steps)).runs
        ]

    def submit_with_teacher(self, steps: int) -> tuple[str, list[str]]:
        """Submit a teacher with students; return their ids."""
        seed = next(self._seeds)
        runs = self.submitter.submit(self.client, standin_with_teacher(f"with-teacher-{seed}", [seed], steps)).runs
        students = [run.id for run in runs if run.role == "student"]
        return next(run.id for run in runs if run.role == "teacher"), students

    def wait_for_state(self, run_id: str, *states: str) -> Run:
        """Wait until a run is in one of these states; return it."""

        def in_state() -> Run | None:
            run = self.client.run(run_id)
            return run if run.state in states else None

        return until(in_state, f"{' or '.join(states)} as the state of {run_id}")

    def wait_for_checkpoint(self, run_id: str) -> RunningAttempt:
        """Wait until a run has written a checkpoint; return its processes."""

        def with_checkpoint() -> RunningAttempt | None:
            return next((each for each in running_attempts(self.stack) if each.run == run_id and each.checkpoint), None)

        return until(with_checkpoint, f"a checkpoint of {run_id}")

    def worker_of(self, attempt: RunningAttempt) -> StackWorker:
        pid = attempt.launcher.ppid()
        return next(worker for worker in self.stack.workers if worker.process.pid == pid)


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    try:
        with running_stack(request.param, tmp_path_factory.mktemp("stack"), TIMING) as made:
            yield made
            assert made.close() == 0, "processes are left"
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def seeds() -> Iterator[int]:
    """Distinct seeds for all experiments of a stack."""
    return itertools.count(1)


@pytest.fixture
def lab(running: Stack, seeds: Iterator[int]) -> Iterator[Lab]:
    """Check after every test that each run ended as expected, on one worker at a time, with all its events."""
    running.start_workers()
    with running.client() as client:
        made = Lab(running, client, seeds)
        yield made
        running.heal()
        wait_for_all(running, 120)
    result = check_runs(running, made.submitter)
    assert (result.lost, result.twice, result.points_lost, result.points_doubled, result.wrong) == ([], [], [], [], [])


def test_eight_concurrent_claimers_get_every_run_once(running: Stack) -> None:
    """The first test: the others start workers, which would claim too."""
    claimers = Claimers(running, Submitter(running, seed=0, real=0, epochs=1), 80)

    def kill() -> None:
        time.sleep(0.5)
        assert running.backend.send(signal.SIGKILL, 0.0)

    assert claimers.run(kill, 120) == ClaimResult(runs=80, finished=80, twice=0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_training_resumes_to_the_same_weights(lab: Lab, ranks: int) -> None:
    [run_id] = lab.submit(30, ranks=ranks)
    attempt = lab.wait_for_checkpoint(run_id)
    assert len(attempt.processes) == ranks
    attempt.processes[-1].kill()
    run = lab.wait_for_state(run_id, "succeeded")
    assert run.attempt == 2
    assert run.attempts[0].outcome == "interrupted"
    expected = digest_chain.weights_content(digest_chain.states(run.seed, 30, ranks)[-1])
    written = (lab.stack.artifacts / run.weights).read_bytes()
    assert hashlib.sha256(written).digest() == hashlib.sha256(expected).digest()
    assert not psutil.pid_exists(attempt.processes[0].pid)


def test_killed_launcher_kills_every_rank(lab: Lab) -> None:
    [run_id] = lab.submit(30, ranks=2)
    attempt = lab.wait_for_checkpoint(run_id)
    attempt.launcher.kill()
    run = lab.wait_for_state(run_id, "succeeded")
    assert "launcher was killed" in run.attempts[0].reason


def test_restarted_worker_returns_its_run(lab: Lab) -> None:
    [run_id] = lab.submit(40, ranks=2)
    attempt = lab.wait_for_checkpoint(run_id)
    worker = lab.worker_of(attempt)
    assert worker.process.send(signal.SIGKILL, 0.0)
    run = lab.wait_for_state(run_id, "succeeded")
    assert run.attempts[0].outcome == "lost"
    assert not any(process.is_running() for process in (attempt.launcher, *attempt.processes))


def test_stopped_worker_returns_its_run_with_a_checkpoint(lab: Lab) -> None:
    [run_id] = lab.submit(40)
    worker = lab.worker_of(lab.wait_for_checkpoint(run_id))
    assert worker.process.send(signal.SIGTERM, 3.0)
    run = lab.wait_for_state(run_id, "succeeded")
    assert [attempt.outcome for attempt in run.attempts][:1] == ["interrupted"]
    assert run.attempts[0].reason == "the worker is shutting down"


def test_disconnected_worker_stops_its_training_before_another_starts_it(lab: Lab) -> None:
    [run_id] = lab.submit(60)
    worker = lab.worker_of(lab.wait_for_checkpoint(run_id))
    worker.link.set("frozen")
    run = lab.wait_for_state(run_id, "succeeded")
    worker.link.set("open")
    assert "lease" in run.attempts[0].reason


def test_lost_replies_are_harmless(lab: Lab) -> None:
    runs = lab.submit(15, 4)
    for worker in lab.stack.workers:
        worker.link.set("mute")
    time.sleep(1.5)
    for worker in lab.stack.workers:
        worker.link.set("open")
    assert [lab.wait_for_state(run_id, "succeeded").state for run_id in runs] == ["succeeded"] * 4


def test_duplicated_nudges_start_every_run_once(lab: Lab) -> None:
    lab.stack.nudges.write_text("20")
    runs = lab.submit(5, 10)
    assert [lab.wait_for_state(run_id, "succeeded").attempt for run_id in runs] == [1] * 10


def test_runs_are_claimed_without_nudges(lab: Lab) -> None:
    lab.stack.nudges.write_text("0")
    runs = lab.submit(5, 6)
    assert [lab.wait_for_state(run_id, "succeeded").attempt for run_id in runs] == [1] * 6


def test_workers_with_the_same_name_get_distinct_names(lab: Lab) -> None:
    def online() -> list[Worker] | None:
        workers = [worker for worker in lab.client.workers().items if worker.state == "online"]
        workers = [worker for worker in workers if worker.name.startswith(WORKER_NAME)]
        return workers if len(workers) == 4 else None

    workers = until(online, "four online workers")
    assert len({worker.id for worker in workers}) == 4
    assert len({worker.name for worker in workers}) == 4


def test_cancelled_run_has_no_rank_left(lab: Lab) -> None:
    [run_id] = lab.submit(2000, ranks=2)
    attempt = lab.wait_for_checkpoint(run_id)
    lab.submitter.runs[run_id].cancelled = True
    lab.client.cancel(run_id)
    lab.wait_for_state(run_id, "cancelled")
    assert not liveness.is_alive(lab.stack.records, run_id)
    assert not any(process.is_running() for process in (attempt.launcher, *attempt.processes))
    assert lab.client.cancel(run_id).state == "cancelled"


def test_teacher_is_cancelled_and_retried_with_its_students(lab: Lab) -> None:
    teacher, students = lab.submit_with_teacher(30)
    assert {lab.client.run(student).state for student in students} == {"waiting"}
    lab.wait_for_checkpoint(teacher)
    with pytest.raises(ApiError, match="wait for this teacher"):
        lab.client.cancel(teacher)
    lab.client.cancel_experiment(lab.client.run(teacher).experiment_id)
    for run_id in (teacher, *students):
        lab.wait_for_state(run_id, "cancelled")
    assert not liveness.is_alive(lab.stack.records, teacher)
    for student in students:
        lab.client.retry(student)
    lab.wait_for_state(teacher, "succeeded")
    assert [lab.wait_for_state(student, "succeeded").state for student in students] == ["succeeded"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_random_faults_neither_lose_nor_duplicate_anything(kind: Kind, tmp_path: Path) -> None:
    try:
        options = ScenarioOptions(
            kind, seed=5, minutes=0.4, every=0.7, real=0, claimed=0, settle=120, terms=Timing(lease=10.0)
        )
        report = run_scenario(options, tmp_path)
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))
    assert report.passed, "\n".join([str(report.must_be_zero()), *report.details()])
    assert sum(report.faults.values()) >= 15
    assert report.audit.points > 0
