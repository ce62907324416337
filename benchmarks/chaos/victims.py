"""Finding a process to kill: launchers, trainings and their further ranks, below the workers."""

from __future__ import annotations

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
    found = []
    for worker in stack.workers:
        if worker.daemon.pid is None:
            continue
        try:
            launchers = psutil.Process(worker.daemon.pid).children()
        except psutil.Error:
            continue
        found += [victim for launcher in launchers if (victim := _victim(launcher))]
    return found


def _victim(launcher: psutil.Process) -> Victim | None:
    try:
        below = launcher.children(recursive=True)
        if not below:
            return None
        words = below[0].cmdline()
        out = Path(words[words.index("--out") + 1])
        real = '"digits"' in (out / "run.json").read_text()
    except (psutil.Error, ValueError, OSError):
        return None
    checkpoint = any(path.suffix != ".partial" for path in out.glob("checkpoint.*"))
    return Victim(out.parent.name, launcher, tuple(below), real, "--resume" in words, checkpoint)
