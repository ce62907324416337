"""Slots, GPUs and whose processes are on them, with a driver that is made up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from core.events import Started
from core.protocol.public import GpuUse
from tests.waiting import until
from tests.worker.conftest import STANDIN, WORKER_ID, Rig, processes_of
from tests.worker.fake import FakeBackend
from worker.gpus import Guard, Nvml, Reading, find_monitor
from worker.health import Condition, Observer, disk_problem
from worker.identity import Identity
from worker.service import WorkerService
from worker.settings import WorkerSettings
from worker.slots import Slots
from worker.training_monitor import Limits

NOBODY = 2**22 + 5  # above the greatest process id that Linux gives


class Driver:
    """Two GPUs with the processes that the test puts there."""

    def __init__(self) -> None:
        self.processes: dict[int, set[int]] = {0: set(), 1: set()}

    def read(self) -> list[Reading]:
        return [Reading(name="H200", processes=frozenset(found)) for found in self.processes.values()]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_run_over_several_gpus_gets_all_of_them_or_none() -> None:
    slots = Slots(4, 4)
    assert slots.take(1) == (0,)
    assert slots.take(4) is None
    assert slots.take(2, shunned={1}) == (2, 3)
    assert (slots.free, slots.free_gpus(), slots.free_gpus({1})) == (1, 1, 0)
    assert slots.take(1, shunned={1}) is None
    slots.give((2, 3))
    assert slots.take(3) == (1, 2, 3)
    assert slots.occupied == {0, 1, 2, 3}


def test_runs_that_share_gpus_are_spread_over_them() -> None:
    slots = Slots(4, 2)
    assert [slots.on(slots.take(1) or ()) for _ in range(2)] == [(0,), (1,)]
    assert slots.on(slots.take(2) or ()) == (0, 1)
    assert slots.take(1) is None


def test_slots_of_a_cpu_worker_have_no_gpus() -> None:
    slots = Slots(2)
    assert (slots.take(1), slots.take(1), slots.take(1)) == ((0,), (1,), None)
    assert (slots.on((0, 1)), slots.free_gpus(), slots.occupied) == ((), 0, frozenset())


def test_a_training_is_bound_to_its_gpus_and_told_how_many(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(slots=3, gpus=3)
    rig.behaviour = "train"
    rig.backend.add("small")
    rig.backend.add("large", gpus=2)
    rig.start()
    found = {}
    for name in ("small", "large"):
        rig.ready(name)
        event = until(lambda name=name: rig.backend.records.get((name, 1)))[0].event
        assert isinstance(event, Started)
        found[name] = (event.environment["CUDA_VISIBLE_DEVICES"], event.environment["ranks"])
    assert found == {"small": ("0", "1"), "large": ("1,2", "2")}
    assert [request.free_gpus for request in rig.backend.requests[:2]] == [3, 2]


def test_a_large_run_waits_for_its_gpus(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(slots=2, gpus=2)
    rig.behaviour = "train"
    rig.backend.add("small")
    rig.start()
    rig.ready("small")
    rig.backend.add("large", gpus=2)
    until(lambda: len(rig.backend.requests) > 3, "it asks again")
    assert {request.free_gpus for request in rig.backend.requests[1:]} == {1}
    rig.backend.orders["small"] = "cancel"
    rig.ready("large")


def test_a_gpu_that_somebody_uses_is_waited_for(make_rig: Callable[..., Rig], driver: Driver) -> None:
    rig = make_rig(slots=2, gpus=2, monitor=driver)
    driver.processes = {0: {os.getpid()}, 1: {NOBODY}}
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 5, "more heartbeats")
    assert rig.backend.requests == []
    driver.processes[1].clear()
    rig.ready()
    assert (rig.backend.requests[0].free_gpus, rig.backend.requests[0].usable_gpus) == (1, 1)
    assert rig.supervisor.occupied() == {1}


def test_our_own_processes_on_a_shared_gpu_are_nobody_elses(driver: Driver) -> None:
    mine = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={"DKD_RUN_OWNER": WORKER_ID})
    try:
        guard = Guard(driver, WORKER_ID)
        driver.processes = {0: {mine.pid}, 1: {mine.pid, os.getpid()}}
        assert guard.busy(occupied={0, 1}) == {1}
        assert [gpu.foreign for gpu in guard.report({0, 1})] == [0, 1]
        assert guard.busy(occupied=()) == {0, 1}, "what is left of a run of ours has to go first"
        driver.processes[1] = {NOBODY}
        assert guard.busy(occupied={0, 1}) == frozenset(), "numbers of another namespace say nothing"
    finally:
        mine.kill()
        mine.wait()


def test_a_run_is_not_cancelled_before_its_gpu_memory_is_free(make_rig: Callable[..., Rig], driver: Driver) -> None:
    rig = make_rig(slots=1, gpus=1, monitor=driver, limits=Limits(grace=20.0, margin=1.0, gpu=60.0))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    driver.processes[0] = {NOBODY}  # as the driver may name it
    rig.backend.orders["run-1"] = "cancel"
    until(lambda: not processes_of(rig.folder()), "the processes are gone")
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 5, "more heartbeats")
    assert rig.backend.outcomes == []
    driver.processes[0].clear()
    outcome = until(rig.backend.outcome, "it is cancelled")
    assert (outcome.outcome, outcome.reason) == ("cancelled", "cancelled")


def test_gpu_memory_that_is_never_freed_is_said(make_rig: Callable[..., Rig], driver: Driver) -> None:
    rig = make_rig(slots=1, gpus=1, monitor=driver, limits=Limits(grace=20.0, margin=1.0, gpu=0.3))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    driver.processes[0] = {NOBODY}
    rig.backend.orders["run-1"] = "cancel"
    outcome = until(rig.backend.outcome, "it is cancelled")
    assert outcome.reason == f"cancelled; the GPU memory of processes [{NOBODY}] was not freed"


def test_a_claim_whose_answer_is_lost_is_sent_again(rig: Rig) -> None:
    rig.backend.lose_claims = 2
    rig.backend.add()
    rig.start()
    assert until(rig.backend.outcome, "the run ends").outcome == "succeeded"
    keys = [request.key for request in rig.backend.requests]
    assert len(set(keys[:3])) == 1
    assert len(rig.backend.claimed) == 1
    assert keys[3] not in keys[:3]


def test_a_run_that_is_to_be_paused_is_handed_back(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    rig.backend.pauses.add("run-1")
    outcome = until(rig.backend.outcome, "it is handed back")
    assert (outcome.outcome, outcome.reason, outcome.fault) == ("interrupted", "paused", False)
    assert rig.backend.types()[-2:] == ["checkpoint", "stopped"]


def test_a_full_disk_gives_the_run_back_and_says_so(rig: Rig) -> None:
    rig.backend.add("run-2", attempt=1)
    rig.condition = Condition(problems=["the disk is full"])
    outcome = rig.run("full").outcome("run-2")
    assert outcome is not None
    assert (outcome.outcome, outcome.fault) == ("interrupted", True)
    assert outcome.reason == "the training could not go on: no space is left"
    beat = until(lambda: len(rig.backend.heartbeats[-1].problems) == 2 and rig.backend.heartbeats[-1])
    assert beat.problems[0].startswith("takes no runs for 30 s more: the training could not go on")
    assert beat.problems[1] == "the disk is full"
    assert [claim.run_id for claim in rig.backend.queue] == ["run-1"], "the queue is not spoilt"


def test_a_disk_that_is_nearly_full_is_a_problem(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_problem(tmp_path / "not" / "there" / "yet") == ""
    monkeypatch.setattr("worker.health.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    assert disk_problem(tmp_path) == f"takes no runs: the disk of {tmp_path} is full, 3 MiB are left"


def test_while_the_disk_is_full_no_run_is_taken(rig: Rig) -> None:
    rig.condition = Condition(disk_full=True)
    rig.backend.add()
    rig.start()
    until(lambda: len(rig.backend.heartbeats) > 2, "the worker has heard that there is work")
    assert rig.supervisor.run_next() == 0
    assert rig.backend.requests == []
    rig.condition = Condition()
    assert until(rig.backend.outcome, "there is room again").outcome == "succeeded"


def test_a_worker_looks_at_the_disk_of_its_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.health.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    settings = WorkerSettings(home=tmp_path, device="cpu", training_command=STANDIN)
    backend = FakeBackend()
    with Identity(tmp_path, "node") as identity:
        service = WorkerService(settings, identity, connect=lambda: backend)
        service.start()
        try:
            until(lambda: any(beat.problems for beat in backend.heartbeats), "it says so")
            backend.add()
            assert service.supervisor.run_next() == 0
            assert backend.requests == []
        finally:
            assert service.close()


def test_a_machine_that_cannot_be_looked_at_does_not_end_the_looking() -> None:
    healthy: list[bool] = []

    def look() -> Condition:
        if not healthy:
            raise ValueError("a driver's own")
        return Condition()

    observer = Observer(look, seconds=0.01)
    observer.start()
    until(lambda: observer.latest.problems, "it is said")
    healthy.append(True)
    until(lambda: not observer.latest.problems, "it is well again")
    observer.stop()


class NvmlError(Exception):
    pass


class Library:
    """NVIDIA's, as far as it is used: GPU 0 tells everything, GPU-b nothing but its memory, the third is not there."""

    NVMLError = NvmlError

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 0:
            raise NvmlError("invalid argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return {"GPU-b": 1}[uuid]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=5, total=10)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=self._told(handle, 93))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        return [SimpleNamespace(pid=self._told(handle, NOBODY))]

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return self._told(handle, b"NVIDIA H200")

    def _told(self, handle: int, value: Any) -> Any:
        if handle:
            raise NvmlError("not supported")
        return value


def test_what_the_driver_does_not_tell_is_not_known() -> None:
    guard = Guard(Nvml(Library(), ("0", "GPU-b", "7")), WORKER_ID)
    assert guard.report(()) == [
        GpuUse(index=0, name="NVIDIA H200", use=93.0, memory_used=5, memory_total=10, foreign=1),
        GpuUse(index=1, memory_used=5, memory_total=10),
        GpuUse(index=2),
    ]
    assert guard.busy(()) == {0}


def test_no_driver_no_monitor() -> None:
    assert find_monitor(()) is None
    if not os.path.exists("/dev/nvidiactl"):
        assert find_monitor(("0",)) is None
