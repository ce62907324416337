"""Finds and kills every process of a training, even if it has its own session or its parent has ended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set

import psutil

RUN_MARK = "DKD_RUN_TOKEN"
"""Environment variable that marks every process of one attempt; child processes inherit it."""

WORKER_MARK = "DKD_RUN_OWNER"
"""Environment variable that marks every process of one worker."""


def marked_processes(variable: str, value: str) -> set[psutil.Process]:
    """Return processes whose environment contains ``variable`` = ``value``, except this process and its ancestors."""
    excluded_pids = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return {
        process
        for process in psutil.process_iter()
        if process.pid not in excluded_pids and _has_variable(process, variable, value)
    }


def descendants_of(pid: int) -> set[psutil.Process]:
    """Return the living descendants of a process."""
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return set()


def running(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return the processes that still run. A zombie has ended: it only waits until its parent reaps it."""
    return {process for process in processes if _is_running(process)}


def kill_marked(variable: str, value: str, seen: Iterable[psutil.Process] = (), *, seconds: float) -> set[int]:
    """Kill the marked processes and the processes in ``seen``, repeatedly, until none of them runs.

    Args:
        variable: Name of the mark.
        value: Value of the mark.
        seen: Processes recorded earlier. They are needed since a process that overwrote its environment has no mark.
        seconds: Time limit. A process in uninterruptible sleep cannot be killed.

    Returns:
        Ids of the processes that still run.
    """
    seen = set(seen)
    remaining = running(marked_processes(variable, value) | seen)
    for _ in range(max(1, round(seconds / 0.2))):
        if not remaining:
            break
        _kill(remaining)
        psutil.wait_procs(remaining, timeout=0.2)
        # The search is repeated, since a process may have started another process before it was killed.
        remaining = running(marked_processes(variable, value) | seen)
    return {process.pid for process in remaining}


def _kill(processes: Set[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue


def _has_variable(process: psutil.Process, variable: str, value: str) -> bool:
    try:
        return process.environ().get(variable) == value
    except (psutil.Error, OSError):
        return False


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
