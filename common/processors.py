"""How many processors and how much memory this process may use, and how many trainings a CPU node takes at a time.

The processors are those of the process's affinity, up to the CPU quota of its control groups. ``os.cpu_count`` counts
the machine's, also inside a container that may use two of sixty-four. ``os.process_cpu_count`` (Python 3.13) and OpenMP
count the affinity, and no quota.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")

MOST_SINGLE_THREADED = 8
"""Processors up to which a CPU node takes one training per processor. A larger node gives each training several."""

THREADS_ON_LARGE_NODE = 4
TRAINING_GIB = 1.5
"""Memory of a small training: its process with torch takes about 1 GiB before any data."""


def processor_count() -> int:
    """Return the number of processors that this process may use all the time, at least 1.

    A quota of one and a half processors counts as 1: two threads would be stopped for a part of each period, and those
    that wait for them with them.
    """
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = cpu_quota()
    return usable if quota is None else max(1, min(usable, int(quota)))


def cpu_quota(own_groups: Path = _OWN_GROUPS, groups: Path = _GROUPS) -> float | None:
    """Return the CPU quota of this process in processors; None if there is none.

    Args:
        own_groups: The file with the names of the process's control groups.
        groups: The folder where control groups are mounted.
    """
    return _least("cpu", _quota, own_groups, groups)


def memory_gib(own_groups: Path = _OWN_GROUPS, groups: Path = _GROUPS) -> float | None:
    """Return how much memory this process may use, in GiB: the machine's, up to the limit of its control groups.

    Args:
        own_groups: The file with the names of the process's control groups.
        groups: The folder where control groups are mounted.

    Returns:
        The memory; None if the system does not say.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not POSIX
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        limit = _least("memory", _memory_limit, own_groups, groups)
        return machine if limit is None else min(machine, limit)
    return None


def default_cpu_slots() -> int:
    """Return how many trainings a machine without GPUs runs at the same time.

    One on each processor, because that computes more in all than one after the other with all of them. On more than
    ``MOST_SINGLE_THREADED`` processors each training has ``THREADS_ON_LARGE_NODE``, but never fewer than
    ``MOST_SINGLE_THREADED`` trainings run, so that an experiment of a few runs uses the node too. Each training must
    have ``TRAINING_GIB`` of memory.
    """
    processors = processor_count()
    slots = min(processors, max(MOST_SINGLE_THREADED, processors // THREADS_ON_LARGE_NODE))
    memory = memory_gib()
    return slots if memory is None else max(1, min(slots, int(memory / TRAINING_GIB)))


def openmp_threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of threads that ``OMP_NUM_THREADS`` asks for.

    Returns:
        The number, of the outermost level if there are several; None if the variable is not set, or is one that OpenMP
        ignores.
    """
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and int(first) > 0 else None


def thread_share(parts: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """Return the most threads that each of ``parts`` programs may use if they share the processors, at least 1.

    ``OMP_NUM_THREADS`` can lower the number.
    """
    share = max(1, processor_count() // parts)
    return min(share, openmp_threads(environment) or share)


def _least(controller: str, read: Callable[[Path, int], float | None], own_groups: Path, groups: Path) -> float | None:
    """Return the smallest limit of a controller over the own group and all that it is in; None if there is none.

    In a container, the path of the own group may be the one that the host sees; then only the root of it exists here,
    which is the container's.

    Args:
        controller: Name of the controller in version 1.
        read: Returns the limit in a group's folder, given the version of control groups; None if it has none.
        own_groups: The file with the names of the process's control groups.
        groups: The folder where control groups are mounted.
    """
    limits: list[float] = []
    with contextlib.suppress(OSError, ValueError):  # not Linux, or no control groups
        for line in own_groups.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = groups / controller if controllers else groups  # version 1 if it names controllers, else version 2
            # A group outside of what this process sees is written with "..".
            parts = [part for part in PurePosixPath(path).parts if part != "/"]
            folders = [root] if ".." in parts else [root.joinpath(*parts[:end]) for end in range(len(parts) + 1)]
            limits += [limit for folder in folders if (limit := read(folder, 1 if controllers else 2)) is not None]
    return min(limits, default=None)


def _quota(folder: Path, version: int) -> float | None:
    """Return the quota of one control group, in processors; None if it has none."""
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = map(int, " ".join((folder / name).read_text(encoding="ascii") for name in names).split())
    except (OSError, ValueError):  # the root of version 2 has no such file, and a group without limit says "max"
        return None
    return quota / period if quota > 0 < period else None  # -1 is version 1's "no limit"


def _memory_limit(folder: Path, version: int) -> float | None:
    """Return the memory limit of one control group, in GiB; None if it has none."""
    name = "memory.max" if version == 2 else "memory.limit_in_bytes"
    try:
        return int((folder / name).read_text(encoding="ascii")) / 2**30  # version 1 writes a huge number for no limit
    except (OSError, ValueError):  # the root of version 2 has no such file, and a group without limit says "max"
        return None
