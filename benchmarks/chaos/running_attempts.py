"""Finds processes to kill: launchers, trainings and their ranks, below the workers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos.stack import Stack


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt that is running.

    Attributes:
        run: id of the run.
        processes: the training itself, then its other ranks.
        real: whether core trains it, instead of the stand-in.
        resumed: whether it began at the checkpoint of an earlier attempt.
        checkpoint: whether it has written a checkpoint.
    """

    run: str
    launcher: psutil.Process
    processes: tuple[psutil.Process, ...]
    real: bool
    resumed: bool
    checkpoint: bool


def running_attempts(stack: Stack) -> list[RunningAttempt]:
    """Return every attempt that is running now."""
    children = _children()
    workers = [pid for worker in stack.workers if (pid := worker.process.pid) is not None]
    launchers = [launcher for pid in workers for launcher in children.get(pid, ())]
    return [attempt for launcher in launchers if (attempt := _attempt_of(launcher, children))]


def _children() -> dict[int, list[psutil.Process]]:
    """Return the processes of this machine by parent, listed once; psutil would list them again for each parent."""
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
    return children


def _attempt_of(launcher: psutil.Process, children: dict[int, list[psutil.Process]]) -> RunningAttempt | None:
    below = list(children.get(launcher.pid, ()))
    for process in below:
        below += children.get(process.pid, ())
    if not below:
        return None
    try:
        words = below[0].cmdline()
        out = Path(words[words.index("--out") + 1])
        real = '"digits"' in (out / "run.json").read_text()
    except (psutil.Error, ValueError, OSError):
        return None
    checkpoint = any(path.suffix != ".partial" for path in out.glob("checkpoint.*"))
    return RunningAttempt(out.parent.name, launcher, tuple(below), real, "--resume" in words, checkpoint)
