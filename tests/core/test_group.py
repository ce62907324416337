"""Several trainings in one process: each gives what it gives alone, whatever happens to the others."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from core.catalog import load_plugins
from core.catalog.metric import VARYING_PREFIXES
from core.events import MACHINE_EXIT, Failed, Finished, Metrics, Stopped
from core.group import GroupRun, make_turns
from core.settings import TrainingSettings
from core.specs import RunSpec, parse_experiment
from core.testing_runs import events_of, reason_of
from core.train import run_training
from core.train.checkpoint import CHECKPOINT_NAME, find_checkpoint
from core.train.process_state import ProcessState
from core.training_command import TrainingRequest
from core.turns import Turns, pass_turn, release, shared
from tests.core import group_plugin

ROOT = Path(__file__).parents[2]
SECONDS = 300.0


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> None:
    load_plugins(["tests.core.group_plugin"])


def _plan(methods: Sequence[Any], **training: Any) -> list[RunSpec]:
    spec = {
        "name": "group",
        "dataset": "digits",
        "teacher": {"model": {"name": "small_cnn", "params": {"width": 8}}, "training": {"epochs": 1}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
        "methods": list(methods),
        "seeds": [0],
        "training": {"epochs": 2} | training,
    }
    return [run.spec for run in parse_experiment(spec).plan()]


class Lab:
    """Trains the students of one teacher, alone or as a group.

    Attributes:
        folder: The folder of all runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.teacher, *_ = _plan(["kd"])
        done = run_training(self.teacher, folder / "teacher", settings=self.settings("teacher"))
        assert done == "finished", reason_of(folder / "teacher")

    def settings(self, cache: str, checkpoint_seconds: float = 60.0) -> TrainingSettings:
        """Return settings with a cache of their own."""
        return TrainingSettings(
            cache_dir=self.folder / f"cache-{cache}", threads=1, checkpoint_seconds=checkpoint_seconds
        )

    def request(self, spec: RunSpec, name: str, resume: Path | None = None) -> TrainingRequest:
        """Return the request of a student."""
        teachers = [self.teacher] if spec.teacher else []
        weights = [self.folder / "teacher" / "weights.safetensors"] * len(teachers)
        return TrainingRequest(spec, self.folder / name, teachers, weights, resume)

    def alone(self, spec: RunSpec, name: str, resume: Path | None = None) -> Path:
        """Train a student alone; return its folder."""
        request = self.request(spec, name, resume)
        assert run_training(settings=self.settings("alone"), **request.arguments()) == "finished"
        return request.out

    def group(self, requests: Sequence[TrainingRequest], cache: str, **options: float) -> list[GroupRun]:
        """Start requests as a group."""
        turns = make_turns()
        runs = [GroupRun(request, self.settings(cache, **options), turns) for request in requests]
        for run in runs:
            run.start()
        return runs


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("group"))


def _same(one: Path, other: Path) -> None:
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    assert _epochs(one) == _epochs(other)
    assert _epochs(one)


def _epochs(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of whole epochs; on a busy machine there are reports between them."""
    return [
        {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)}
        for event in events_of(folder)
        if isinstance(event, Metrics) and event.epoch % 1 == 0
    ]


METHODS = [
    "kd",
    {"name": "group_noise"},
    {"name": "fitnet", "params": {"student_tap": "stage1", "teacher_tap": "stage1"}},
]


def test_three_runs_of_a_group_give_what_they_give_alone(lab: Lab) -> None:
    _, *specs = _plan(METHODS)
    alone = [lab.alone(spec, f"alone-{number}") for number, spec in enumerate(specs)]
    before = ProcessState.now()
    runs = lab.group([lab.request(spec, f"together-{number}") for number, spec in enumerate(specs)], "together")
    for run in runs:
        run.join(SECONDS)
    assert [run.status.code for run in runs if run.status] == [0, 0, 0]
    for number, folder in enumerate(alone):
        _same(folder, lab.folder / f"together-{number}")
    assert torch.equal(torch.get_rng_state(), before.torch_random), (
        "the group draws from the generator of another thread"
    )
    assert logging.getLogger("core.tasks").level == logging.NOTSET, "the group leaves the level of its journals behind"


def test_teacher_runs_once_for_runs_with_the_same_views(lab: Lab) -> None:
    _, *specs = _plan(["kd", "dkd", "dist"])
    runs = lab.group([lab.request(spec, f"views-{number}") for number, spec in enumerate(specs)], "views")
    for run in runs:
        run.join(SECONDS)
    shares = [
        [
            event.values["speed/teacher_reused"]
            for event in events_of(lab.folder / f"views-{number}")
            if _is_epoch(event)
        ]
        for number in range(len(specs))
    ]
    # Nothing was on the disk. Each batch of an epoch was computed by one of the three.
    assert [pytest.approx(100 * (len(specs) - 1)) for _ in range(2)] == [
        sum(epoch) for epoch in zip(*shares, strict=True)
    ]


def _is_epoch(event: Any) -> bool:
    return "speed/teacher_reused" in getattr(event, "values", {})


def test_end_of_one_run_touches_no_other(lab: Lab) -> None:
    """One run's loss is not finite, one is stopped, one's method raises, one is given up, and two go on."""
    bad = [{"name": "group_fault", "label": kind, "params": {"kind": kind, "step": 12}} for kind in ("nan", "raise")]
    _, *specs = _plan(["kd", {"name": "group_noise"}, *bad, "dkd", "dist"], epochs=4)
    kept = [lab.alone(spec, f"kept-{number}") for number, spec in enumerate(specs[:2])]
    names = ["goes-on-0", "goes-on-1", "nan", "raise", "stopped", "dropped"]
    runs = lab.group([lab.request(spec, name) for spec, name in zip(specs, names, strict=True)], "faults")
    group_plugin.wait_for_step(6, SECONDS)
    runs[4].stop()
    runs[5].drop()
    for run in runs:
        run.join(SECONDS)
    for number, folder in enumerate(kept):
        _same(folder, lab.folder / f"goes-on-{number}")
    last = {name: events_of(lab.folder / name)[-1] for name in names}
    assert isinstance(last["nan"], Failed)
    assert last["nan"].kind == "nan"
    assert isinstance(last["raise"], Failed)
    assert "the method has a fault" in last["raise"].reason
    assert isinstance(last["stopped"], Stopped)
    assert (lab.folder / "stopped" / CHECKPOINT_NAME).exists()
    assert not isinstance(last["dropped"], Failed | Finished | Stopped)
    assert not (lab.folder / "dropped" / CHECKPOINT_NAME).exists()
    codes = [run.status.code if run.status else None for run in runs]
    assert codes == [0, 0, 1, 1, 0, None]
    # A stopped run continues alone, or in another group, with the numbers of one that was never stopped.
    whole = lab.alone(specs[4], "stopped-whole")
    rest = lab.group([lab.request(specs[4], "stopped-rest", lab.folder / "stopped" / CHECKPOINT_NAME)], "faults")
    rest[0].join(SECONDS)
    _same(whole, lab.folder / "stopped-rest")


class GroupProcess:
    """The group process as a worker uses it."""

    def __init__(self, lab: Lab, cache: str, command: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        self._sockets = [self._control]
        environment = os.environ | {
            "DKD_CACHE_DIR": str(lab.folder / f"cache-{cache}"),
            "DKD_THREADS": "1",
            # Only the one that is killed needs them often.
            "DKD_CHECKPOINT_SECONDS": "0" if cache == "killed" else "60",
            "DKD_PLUGINS": "tests.core.group_plugin",
        }
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *command, "group", "--control", str(theirs.fileno())],
                cwd=ROOT,
                env=environment,
                pass_fds=[theirs.fileno()],
            )

    def add(self, arguments: Sequence[str]) -> socket.socket:
        """Hand a run over; return its socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        self._sockets.append(ours)
        ours.settimeout(SECONDS)
        ours.sendall(json.dumps(list(arguments)).encode() + b"\n")
        return ours

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()


class Start(Protocol):
    """Starts a group process; by default with the command that a worker uses."""

    def __call__(self, cache: str, command: Sequence[str] = ...) -> GroupProcess: ...


@pytest.fixture
def start(lab: Lab) -> Iterator[Start]:
    processes: list[GroupProcess] = []

    def started(cache: str, command: Sequence[str] = ("-m", "core")) -> GroupProcess:
        processes.append(GroupProcess(lab, cache, command))
        return processes[-1]

    yield started
    for group in processes:
        group.close()
        group.process.kill()
        group.process.wait()


def _arguments(lab: Lab, spec: RunSpec, name: str, resume: Path | None = None) -> list[str]:
    request = lab.request(spec, name, resume)
    request.out.mkdir()
    arguments = ["--out", str(request.out)]
    for option, content in (("--run", spec), ("--teacher", lab.teacher)):
        path = request.out / f"{option.removeprefix('--')}.json"
        path.write_text(content.model_dump_json())
        arguments += [option, str(path)]
    arguments += ["--teacher-weights", str(lab.folder / "teacher" / "weights.safetensors")]
    return arguments if resume is None else [*arguments, "--resume", str(resume)]


def _status(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile() as lines:
        status: dict[str, Any] = json.loads(lines.readline())
    return status


def test_runs_of_a_killed_group_continue_exactly(lab: Lab, start: Start) -> None:
    _, *specs = _plan(METHODS, epochs=4)
    whole = [lab.alone(spec, f"whole-{number}") for number, spec in enumerate(specs)]
    group = start("killed")
    connections = [group.add(_arguments(lab, spec, f"killed-{number}")) for number, spec in enumerate(specs)]
    checkpoints = [lab.folder / f"killed-{number}" / CHECKPOINT_NAME for number in range(len(specs))]
    deadline = time.monotonic() + SECONDS
    while not all(path.exists() for path in checkpoints):
        assert time.monotonic() < deadline
        assert group.process.poll() is None
        time.sleep(0.01)
    group.process.send_signal(signal.SIGKILL)
    assert [connection.recv(1) for connection in connections] == [b""] * 3
    for number, spec in enumerate(specs):
        found = find_checkpoint(checkpoints[number], spec.fingerprint()).checkpoint
        assert found
        assert found.progress.epoch < 4
    again = start("again")
    rest = [
        again.add(_arguments(lab, spec, f"rest-{number}", checkpoints[number])) for number, spec in enumerate(specs)
    ]
    assert [_status(connection)["code"] for connection in rest] == [0, 0, 0]
    for number, folder in enumerate(whole):
        _same(folder, lab.folder / f"rest-{number}")
    again.close()
    assert again.process.wait(SECONDS) == 0


def test_group_process_says_how_each_run_ended(lab: Lab, start: Start) -> None:
    _, spec, fault = _plan(["kd", {"name": "group_fault", "params": {"kind": "raise", "step": 1}}])
    group = start("ends")
    unreadable = group.add(["--run", str(lab.folder / "none.json"), "--out", str(lab.folder / "none")])
    wrong = group.add(["--out", "x"])
    failed = group.add(_arguments(lab, fault, "ends-failed"))
    stopped = group.add(_arguments(lab, spec, "ends-stopped"))
    stopped.sendall(b"stop\n")
    assert _status(unreadable) == {
        "code": 2,
        "text": f"cannot read {lab.folder / 'none.json'}: No such file or directory",
    }
    assert _status(wrong)["code"] == 2
    assert _status(failed)["code"] == 1
    assert _status(stopped) == {"code": 0, "text": ""}
    assert isinstance(events_of(lab.folder / "ends-stopped")[-1], Stopped)
    group.close()
    assert group.process.wait(SECONDS) == 0


def test_run_that_hangs_when_nobody_waits_for_it_ends_the_process(lab: Lab, start: Start) -> None:
    """It keeps the turn from the others, which continue elsewhere."""
    mark = lab.folder / "hangs"
    _, fault, other = _plan([{"name": "group_fault", "params": {"kind": "hang", "mark": str(mark)}}, "kd"])
    impatient = "import sys; from core import cli, group; group.DROP_SECONDS = 0.1; sys.exit(cli.main())"
    group = start("hangs", ("-c", impatient))
    hanging = group.add(_arguments(lab, fault, "hanging"))
    deadline = time.monotonic() + SECONDS
    while not mark.exists():
        assert time.monotonic() < deadline
        assert group.process.poll() is None
        time.sleep(0.01)
    waiting = group.add(_arguments(lab, other, "waiting"))
    hanging.close()
    assert group.process.wait(SECONDS) == MACHINE_EXIT
    assert waiting.recv(1) == b"", "no exit status: the run has not ended"


def test_run_that_waits_for_its_turn_does_not_hang(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.group.DROP_SECONDS", 0.0)
    _, spec = _plan(["kd"])
    turns = make_turns()
    with turns.member():
        run = GroupRun(lab.request(spec, "waits"), lab.settings("waits"), turns)
        run.start()
        run.drop()
        time.sleep(0.05)
        assert not run.hangs
        assert not run.ended
    run.join(SECONDS)
    assert run.ended
    assert run.status is None


def test_exit_of_a_method_is_a_failure_of_its_run(lab: Lab) -> None:
    _, fault, other = _plan([{"name": "group_fault", "params": {"kind": "exit", "step": 6}}, "kd"])
    runs = lab.group([lab.request(fault, "exits"), lab.request(other, "beside-exit")], "exits")
    for run in runs:
        run.join(SECONDS)
    assert all(run.ended for run in runs)
    assert [run.status.code for run in runs if run.status] == [1, 0]


def test_process_state_is_restored() -> None:
    before = ProcessState.now()
    try:
        other = before.copy()
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        torch.set_num_threads(before.threads + 1)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("high")
        expected = torch.rand(3), random.random(), np.random.rand()
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        changed = ProcessState.now()
        other.restore()
        assert torch.get_num_threads() == before.threads
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == before.float32_products
        torch.rand(5), random.random(), np.random.rand()
        changed.restore()
        drawn = torch.rand(3), random.random(), np.random.rand()
        assert torch.equal(drawn[0], expected[0])
        assert drawn[1:] == expected[1:]
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.get_num_threads() == before.threads + 1
    finally:
        before.restore()


class _Nothing:
    def restore(self) -> None:
        """Nothing is kept."""


def test_values_are_shared_by_those_who_use_them() -> None:
    turns, built = Turns(_Nothing, _Nothing), []

    def build() -> list[int]:
        built.append(1)
        return [len(built)]

    with turns.member() as member:
        first = shared("key", build)
        assert shared("key", build) is first
        member.release("key")
        assert shared("key", build) is not first
    with turns.member():
        assert shared("key", build) == [3]
        release("key")
        release("key")
        pass_turn()
    assert shared("key", build) == [4], "alone, nothing is kept"
    assert shared("key", build) == [5]
