"""Runs that train in one process: each is supervised as if it had its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.waiting import until
from tests.worker.conftest import STANDIN, Rig, processes_of
from worker.settings import WorkerSettings
from worker.training_groups import group_command

GROUP = (sys.executable, str(Path(__file__).with_name("standin_group.py")))
MakeRig = Callable[..., Rig]


def _group_of(rig: Rig, run_id: str, attempt: int = 1) -> int:
    path = rig.folder(run_id, attempt) / "group"
    until(lambda: path.exists() and path.read_text(), f"{run_id} is in a group")
    return int(path.read_text())


def _outcome(rig: Rig, run_id: str) -> tuple[str, str]:
    outcome = until(lambda: rig.backend.outcome(run_id), f"{run_id} ends")
    return outcome.outcome, outcome.reason


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A worker with four slots, all of whose trainings wait for a signal."""
    rig = make_rig(slots=4, group_command=GROUP)
    rig.behaviour = "train"
    return rig


def test_runs_of_a_kind_share_a_process_until_the_last_has_ended(rig: Rig) -> None:
    for run_id, group in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "")):
        rig.backend.add(run_id, group=group)
    rig.start()
    for run_id in "abcd":
        rig.ready(run_id)
    one, same, two = (_group_of(rig, run_id) for run_id in "abc")
    assert one == same != two
    assert not (rig.folder("d") / "group").exists(), "a run that the backend names no group for trains alone"
    rig.backend.orders["a"] = "cancel"
    assert _outcome(rig, "a") == ("cancelled", "cancelled")
    assert psutil.pid_exists(one), "the group still trains b"
    assert rig.backend.outcome("b") is None
    rig.backend.add("e", group="one")
    rig.ready("e")
    assert _group_of(rig, "e") == one, "a run joins a group that trains already"
    rig.backend.pauses.add("b")
    rig.backend.orders["e"] = "cancel"
    assert _outcome(rig, "b") == ("interrupted", "paused")
    assert _outcome(rig, "e") == ("cancelled", "cancelled")
    until(lambda: not psutil.pid_exists(one), "the group ends with its last run")
    assert rig.backend.outcome("c") is None


def test_results_and_failures_of_members_are_their_own(rig: Rig) -> None:
    rig.backend.add("waits", group="one")
    rig.start()
    rig.ready("waits")
    group = _group_of(rig, "waits")
    # The stand-in of the group has the environment of its start, so the others are told what to do by a run alone.
    os.kill(_member(rig, "waits"), signal.SIGKILL)
    assert _outcome(rig, "waits") == ("interrupted", "the training was killed by SIGKILL from outside")
    until(lambda: not psutil.pid_exists(group), "the group ends with its last run")
    rig.behaviour = "succeed"
    rig.backend.add("succeeds", group="one")
    assert _outcome(rig, "succeeds")[0] == "succeeded"
    rig.behaviour = "fail"
    rig.backend.add("fails", group="one")
    assert _outcome(rig, "fails") == ("failed", "the loss became NaN at step 5")
    rig.behaviour = "exit"
    rig.backend.add("exits", group="one")
    assert _outcome(rig, "exits") == ("failed", "the training ended with exit code 2: the spec cannot be used")
    assert rig.idle()
    for run_id in ("waits", "succeeds", "fails", "exits"):
        assert processes_of(rig.folder(run_id)) == []


def test_runs_of_a_group_that_died_are_interrupted_and_the_next_starts_another(rig: Rig) -> None:
    rig.backend.add("a", group="one")
    rig.backend.add("b", group="one")
    rig.start()
    for run_id in "ab":
        rig.ready(run_id)
    first = _group_of(rig, "a")
    os.kill(first, signal.SIGKILL)
    for run_id in "ab":
        assert _outcome(rig, run_id) == (
            "interrupted",
            "the training could not continue: the group process ended before the run did",
        )
    (problem,) = rig.supervisor.problems()
    assert problem.startswith("does not claim runs for another")


def test_shutdown_hands_the_runs_of_a_group_back(rig: Rig) -> None:
    for run_id in "ab":
        rig.backend.add(run_id, group="one")
    rig.start()
    for run_id in "ab":
        rig.ready(run_id)
    group = _group_of(rig, "a")
    rig.supervisor.begin_shutdown()
    assert {_outcome(rig, run_id)[0] for run_id in "ab"} == {"interrupted"}
    until(lambda: not psutil.pid_exists(group), "the group ends")


def test_run_on_several_gpus_trains_alone(make_rig: MakeRig) -> None:
    rig = make_rig(slots=4, gpus=2, group_command=GROUP)
    rig.backend.add("large", gpus=2, group="one")
    rig.backend.add("small", group="one")
    rig.start()
    assert [_outcome(rig, run_id)[0] for run_id in ("large", "small")] == ["succeeded", "succeeded"]
    assert [(rig.folder(run_id) / "group").exists() for run_id in ("large", "small")] == [False, True]


def test_group_command_is_that_of_a_training() -> None:
    assert group_command(("python", "-m", "core", "--plugin", "x", "train")) == (
        ("python", "-m", "core", "--plugin", "x", "group")
    )
    with pytest.raises(ValueError, match="DKD_TRAINING_COMMAND that ends with train"):
        WorkerSettings(group_runs="on", training_command=STANDIN)
    assert WorkerSettings(training_command=STANDIN).group_runs == "off"


def _member(rig: Rig, run_id: str) -> int:
    """Return the process that stands for a run."""
    (member,) = (pid for pid in processes_of(rig.folder(run_id)) if _is_member(psutil.Process(pid).cmdline()))
    return member


def _is_member(command: list[str]) -> bool:
    programs = [Path(word).name for word in command]
    return "group_member.py" in programs and "launcher.py" not in programs
