"""Describes the machine of a measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> str:
    """Return the processor, the number of cores and the version of Python in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores, Python {platform.python_version()}"
