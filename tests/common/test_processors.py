"""The processors that a process may use: affinity, and the quotas of control groups as Linux writes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from common import processors
from common.processors import (
    cpu_quota,
    default_cpu_slots,
    memory_gib,
    openmp_threads,
    processor_count,
    thread_share,
)

# What /proc/self/cgroup says, and files below /sys/fs/cgroup.
SYSTEMS: dict[str, tuple[str, dict[str, str], float | None]] = {
    "version 2, no limit": ("0::/user.slice\n", {"user.slice/cpu.max": "max 100000\n"}, None),
    "version 2, in a container": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, smallest of the groups around": (
        "0::/lab.slice/worker.service/training\n",
        {
            "lab.slice/cpu.max": "400000 100000\n",
            "lab.slice/worker.service/cpu.max": "100000 50000\n",
            "lab.slice/worker.service/training/cpu.max": "max 100000\n",
            "other.slice/cpu.max": "10000 100000\n",
        },
        2.0,
    ),
    "version 2, in a group outside": ("0::/../../host\n", {"cpu.max": "300000 100000\n"}, 3.0),
    "version 1, no limit": (
        "3:cpuset:/\n1:cpu,cpuacct:/\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "version 1, own group": (
        "4:memory:/big\n2:cpuacct,cpu:/lab\n1:name=systemd:/\n",
        {"cpu/lab/cpu.cfs_quota_us": "250000\n", "cpu/lab/cpu.cfs_period_us": "100000\n"},
        2.5,
    ),
    "version 1, in a container that sees the host's path": (
        "2:cpu,cpuacct:/docker/0a1b2c\n",
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "unreadable numbers": ("0::/\n", {"cpu.max": "many 100000\n"}, None),
    "unreadable groups": ("nonsense\n", {"cpu.max": "100000 100000\n"}, None),
}


def quota_of(system: str, folder: Path) -> float | None:
    own_groups, files, _ = SYSTEMS[system]
    (folder / "own").write_text(own_groups)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(folder / "own", folder / "groups")


@pytest.mark.parametrize("system", SYSTEMS)
def test_quota_is_read(system: str, tmp_path: Path) -> None:
    assert quota_of(system, tmp_path) == SYSTEMS[system][2]


def test_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "count"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 1), (8, 0.2, 1), (2, 6.0, 2)]
)
def test_processors_are_the_affinity_up_to_the_quota(
    affinity: int, quota: float | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processor_count() == count


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), (" 4 ,2", 4), ("", None), ("0", None), ("-1", None), ("two", None), ("²", None)]
)
def test_openmp_threads_equal_the_number_that_openmp_uses(value: str, threads: int | None) -> None:
    assert openmp_threads({"OMP_NUM_THREADS": value}) == threads


@pytest.mark.parametrize(
    ("parts", "asked", "share"), [(1, "", 8), (2, "", 4), (3, "", 2), (9, "", 1), (2, "3", 3), (2, "1", 1), (2, "6", 4)]
)
def test_parts_share_the_processors(parts: int, asked: str, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processor_count", lambda: 8)
    assert thread_share(parts, {"OMP_NUM_THREADS": asked}) == share


@pytest.mark.parametrize(
    ("own_groups", "files", "gib"),
    [
        ("0::/\n", {"memory.max": f"{3 << 30}\n"}, 3.0),
        ("0::/lab/worker\n", {"lab/memory.max": f"{2 << 30}\n", "lab/worker/memory.max": "max\n"}, 2.0),
        ("2:cpu:/\n4:memory:/lab\n", {"memory/lab/memory.limit_in_bytes": f"{1 << 30}\n"}, 1.0),
        ("4:memory:/lab\n", {"memory/lab/memory.limit_in_bytes": "9223372036854771712\n"}, 16.0),
        ("0::/\n", {}, 16.0),
    ],
)
def test_memory_is_the_machines_up_to_the_limit(
    own_groups: str, files: dict[str, str], gib: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (16 << 30) // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    (tmp_path / "own").write_text(own_groups)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory_gib(tmp_path / "own", tmp_path / "groups") == gib


@pytest.mark.parametrize(
    ("count", "gib", "slots"),
    [
        (1, 64.0, 1),
        (2, 64.0, 2),
        (8, 64.0, 8),
        (16, 64.0, 8),
        (64, 256.0, 16),
        (64, 12.0, 8),
        (2, 1.0, 1),
        (4, None, 4),
    ],
)
def test_node_takes_one_training_per_processor_if_it_has_the_memory(
    count: int, gib: float | None, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "processor_count", lambda: count)
    monkeypatch.setattr(processors, "memory_gib", lambda: gib)
    assert default_cpu_slots() == slots
