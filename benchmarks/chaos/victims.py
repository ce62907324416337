"""Finding a process to kill: launchers, trainings and their further ranks, below the workers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos.stack import Stack


@dataclass(frozen=True)
class Victim:
    """One attempt under way.

    Attributes:
        run: its id.
        processes: the training itself first, then its further ranks.
        real: trained by core, not played.
        resumed: from an earlier attempt's checkpoint.
        checkpoint: whether it has written one of its own.
    """

    run: str
    launcher: psutil.Process
    processes: tuple[psutil.Process, ...]
    real: bool
    resumed: bool
    checkpoint: bool


def victims(stack: Stack) -> list[Victim]:
    """Every attempt that runs now."""
    children = _children()
    workers = [pid for worker in stack.workers if (pid := worker.daemon.pid) is not None]
    launchers = [launcher for pid in workers for launcher in children.get(pid, ())]
    return [victim for launcher in launchers if (victim := _victim(launcher, children))]


def _children() -> dict[int, list[psutil.Process]]:
    """Every process of the machine by its parent, looked for once: psutil would do that for each parent anew."""
    found: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.setdefault(process.ppid(), []).append(process)
    return found


def _victim(launcher: psutil.Process, children: dict[int, list[psutil.Process]]) -> Victim | None:
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
    return Victim(out.parent.name, launcher, tuple(below), real, "--resume" in words, checkpoint)
