"""The processors that a process may use: affinity, and the quotas of control groups as Linux writes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from common import processors
from common.processors import cpu_quota, openmp_threads, processor_count, thread_share

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
