"""Finding and ending every process that belongs to a training, wherever it has gone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set

import psutil

RUN_MARK = "DKD_RUN_TOKEN"
"""Variable that marks every process of one attempt, inherited by whatever it starts."""

WORKER_MARK = "DKD_RUN_OWNER"
"""Variable that marks every process of one worker."""


def marked(variable: str, value: str) -> set[psutil.Process]:
    """Living processes whose environment has ``variable`` = ``value``; not this process nor those above it."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return {
        process for process in psutil.process_iter() if process.pid not in spared and _has(process, variable, value)
    }


def below(pid: int) -> set[psutil.Process]:
    """Living processes below one."""
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return set()


def alive(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Those that still run. A zombie does not: it waits for its parent to take notice."""
    return {process for process in processes if _runs(process)}


def kill(processes: Set[psutil.Process]) -> None:
    """SIGKILL each of them."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue


def end_marked(variable: str, value: str, known: Iterable[psutil.Process] = (), *, seconds: float) -> set[int]:
    """Kill what carries a mark, and what is known from before, until none is left.

    Args:
        known: processes seen earlier: one that has overwritten its environment carries no mark.
        seconds: how long to try. A process in uninterruptible sleep cannot be ended by anybody.

    Returns:
        Process ids of those that still live.
    """
    known = set(known)
    rest = alive(marked(variable, value) | known)
    tries = max(1, round(seconds / 0.2))
    for _ in range(tries):
        if not rest:
            break
        kill(rest)
        psutil.wait_procs(rest, timeout=0.2)
        # Looked for anew: one may have started another while it was being killed.
        rest = alive(marked(variable, value) | known)
    return {process.pid for process in rest}


def _has(process: psutil.Process, variable: str, value: str) -> bool:
    try:
        return process.environ().get(variable) == value
    except (psutil.Error, OSError):
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
