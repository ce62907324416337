"""The queue's contract with real processes, on both stacks: nothing lost, nothing run twice, cancelled means stopped.

What the backend alone decides (claims, leases, fencing, teachers, repeated events) is tested on both in tests/backend.
"""

from __future__ import annotations

import hashlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.chaos import chain, records
from benchmarks.chaos.audit import audit
from benchmarks.chaos.claimers import Claimed, Claimers
from benchmarks.chaos.load import Load, played, taught, wait_for_all
from benchmarks.chaos.play import Options, play
from benchmarks.chaos.stack import WORKER_NAME, Kind, Stack, Terms, stack
from benchmarks.chaos.standin import ranks_of
from benchmarks.chaos.victims import Victim, victims
from client import ApiError, Client
from core.protocol.public import Run
from tests import services

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(600)]

TERMS = Terms(lease=9.0, heartbeat=0.5, grace=2.0, margin=1.0, step=0.08)
KINDS: tuple[Kind, ...] = ("embedded", "services")


class Lab:
    """A stack under test, and what was submitted to it."""

    def __init__(self, running: Stack, client: Client, seeds: Iterator[int]) -> None:
        self.stack, self.client = running, client
        self.load = Load(running, seed=0, real=0, epochs=1)
        self._seeds = seeds

    def submit(self, steps: int, count: int = 1, *, ranks: int = 1) -> list[str]:
        """Ids of new runs for the stand-in."""
        fitting = (seed for seed in self._seeds if ranks_of(seed, TERMS.ranks) == ranks)
        seeds = list(itertools.islice(fitting, count))
        return [run.id for run in self.load.submit(self.client, played(f"played-{seeds[0]}", seeds, steps)).runs]

    def teach(self, steps: int) -> tuple[str, list[str]]:
        """Ids of a new teacher and of its students."""
        seed = next(self._seeds)
        runs = self.load.submit(self.client, taught(f"taught-{seed}", [seed], steps)).runs
        students = [run.id for run in runs if run.role == "student"]
        return next(run.id for run in runs if run.role == "teacher"), students

    def until(self, run_id: str, *states: str) -> Run:
        """The run, once it is in one of these states."""
        return wait_for(lambda: (run := self.client.run(run_id)).state in states and run, f"{run_id} is {states}")

    def under_way(self, run_id: str) -> Victim:
        """The processes of a run that has written a checkpoint."""

        def found() -> Any:
            return next((each for each in victims(self.stack) if each.run == run_id and each.checkpoint), None)

        return wait_for(found, f"{run_id} has a checkpoint")

    def worker_of(self, victim: Victim) -> Any:
        pid = victim.launcher.ppid()
        return next(worker for worker in self.stack.workers if worker.daemon.pid == pid)


def wait_for(true: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    pytest.fail(f"it did not come to this: {what}")


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    try:
        with stack(request.param, tmp_path_factory.mktemp("stack"), TERMS) as made:
            yield made
            assert made.close() == 0, "processes were left"
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def seeds() -> Iterator[int]:
    """No two experiments of a stack are alike."""
    return itertools.count(1)


@pytest.fixture
def lab(running: Stack, seeds: Iterator[int]) -> Iterator[Lab]:
    """After every test: each run ended as it should, was trained by one worker at a time, and all it said is there."""
    running.start_workers()
    with running.client() as client:
        made = Lab(running, client, seeds)
        yield made
        running.heal()
        wait_for_all(running, 120)
    found = audit(running, made.load)
    assert (found.lost, found.twice, found.points_lost, found.points_doubled, found.wrong) == ([], [], [], [], [])


def test_eight_claimers_on_one_queue_get_every_run_once(running: Stack) -> None:
    """Comes first: the workers, who would claim too, are started by the other tests."""
    claimers = Claimers(running, Load(running, seed=0, real=0, epochs=1), 80)

    def kill() -> None:
        time.sleep(0.5)
        assert running.backend.send(signal.SIGKILL, 0.0)

    assert claimers.run(kill, 120) == Claimed(runs=80, finished=80, twice=0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_weights(lab: Lab, ranks: int) -> None:
    [run_id] = lab.submit(30, ranks=ranks)
    victim = lab.under_way(run_id)
    assert len(victim.processes) == ranks
    victim.processes[-1].kill()
    run = lab.until(run_id, "succeeded")
    assert run.attempt == 2
    assert run.attempts[0].outcome == "interrupted"
    expected = chain.weights(chain.states(run.seed, 30, ranks)[-1])
    written = (lab.stack.artifacts / run.weights).read_bytes()
    assert hashlib.sha256(written).digest() == hashlib.sha256(expected).digest()
    assert not psutil.pid_exists(victim.processes[0].pid)


def test_a_killed_launcher_takes_every_rank_along(lab: Lab) -> None:
    [run_id] = lab.submit(30, ranks=2)
    victim = lab.under_way(run_id)
    victim.launcher.kill()
    run = lab.until(run_id, "succeeded")
    assert "launcher was killed" in run.attempts[0].reason


def test_a_killed_worker_hands_its_run_back_when_it_is_started_again(lab: Lab) -> None:
    [run_id] = lab.submit(40, ranks=2)
    victim = lab.under_way(run_id)
    worker = lab.worker_of(victim)
    assert worker.daemon.send(signal.SIGKILL, 0.0)
    run = lab.until(run_id, "succeeded")
    assert run.attempts[0].outcome == "lost"
    assert not any(process.is_running() for process in (victim.launcher, *victim.processes))


def test_a_worker_told_to_stop_hands_its_run_back_with_a_checkpoint(lab: Lab) -> None:
    [run_id] = lab.submit(40)
    worker = lab.worker_of(lab.under_way(run_id))
    assert worker.daemon.send(signal.SIGTERM, 3.0)
    run = lab.until(run_id, "succeeded")
    assert [attempt.outcome for attempt in run.attempts][:1] == ["interrupted"]
    assert run.attempts[0].reason == "the worker is shutting down"


def test_a_worker_that_is_cut_off_ends_its_training_before_another_starts_it(lab: Lab) -> None:
    [run_id] = lab.submit(60)
    worker = lab.worker_of(lab.under_way(run_id))
    worker.link.set("frozen")
    run = lab.until(run_id, "succeeded")
    worker.link.set("open")
    assert "lease" in run.attempts[0].reason


def test_answers_that_are_lost_do_no_harm(lab: Lab) -> None:
    runs = lab.submit(15, 4)
    for worker in lab.stack.workers:
        worker.link.set("mute")
    time.sleep(1.5)
    for worker in lab.stack.workers:
        worker.link.set("open")
    assert [lab.until(run_id, "succeeded").state for run_id in runs] == ["succeeded"] * 4


def test_every_nudge_twenty_times_starts_every_run_once(lab: Lab) -> None:
    lab.stack.nudges.write_text("20")
    runs = lab.submit(5, 10)
    assert [lab.until(run_id, "succeeded").attempt for run_id in runs] == [1] * 10


def test_without_any_nudge_every_run_is_found(lab: Lab) -> None:
    lab.stack.nudges.write_text("0")
    runs = lab.submit(5, 6)
    assert [lab.until(run_id, "succeeded").attempt for run_id in runs] == [1] * 6


def test_workers_of_one_name_are_told_apart(lab: Lab) -> None:
    def online() -> Any:
        found = [worker for worker in lab.client.workers().items if worker.state == "online"]
        found = [worker for worker in found if worker.name.startswith(WORKER_NAME)]
        return found if len(found) == 4 else None

    found = wait_for(online, "four workers are there")
    assert len({worker.id for worker in found}) == 4
    assert len({worker.name for worker in found}) == 4


def test_cancelled_means_that_every_rank_is_gone(lab: Lab) -> None:
    [run_id] = lab.submit(2000, ranks=2)
    victim = lab.under_way(run_id)
    lab.load.runs[run_id].cancelled = True
    lab.client.cancel(run_id)
    lab.until(run_id, "cancelled")
    assert not records.held(lab.stack.records, run_id)
    assert not any(process.is_running() for process in (victim.launcher, *victim.processes))
    assert lab.client.cancel(run_id).state == "cancelled"


def test_a_teacher_ends_and_comes_back_with_its_students(lab: Lab) -> None:
    teacher, students = lab.teach(30)
    assert {lab.client.run(student).state for student in students} == {"waiting"}
    lab.under_way(teacher)
    with pytest.raises(ApiError, match="wait for this teacher"):
        lab.client.cancel(teacher)
    lab.client.cancel_experiment(lab.client.run(teacher).experiment_id)
    for run_id in (teacher, *students):
        lab.until(run_id, "cancelled")
    assert not records.held(lab.stack.records, teacher)
    for student in students:
        lab.client.retry(student)
    lab.until(teacher, "succeeded")
    assert [lab.until(student, "succeeded").state for student in students] == ["succeeded"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_nothing_doubled_whatever_breaks(kind: Kind, tmp_path: Path) -> None:
    try:
        options = Options(kind, seed=5, minutes=0.4, every=0.7, real=0, claimed=0, settle=120, terms=Terms(lease=10.0))
        report = play(options, tmp_path)
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))
    assert report.passed, "\n".join([str(report.must_be_zero()), *report.details()])
    assert sum(report.faults.values()) >= 15
    assert report.audit.points > 0
