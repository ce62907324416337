"""Heaps of the C library in a process with many threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, sys, threading
from backend.operations.allocator import limit_heaps

if sys.argv[1] == "limited":
    assert limit_heaps()
barrier = threading.Barrier(12)

def allocate():
    barrier.wait()
    kept = [bytes(5_000) for _ in range(200)]
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""


def heaps(how: str) -> int:
    answer = subprocess.run([sys.executable, "-c", _PROGRAM, how], check=True, capture_output=True, text=True)
    return answer.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="the heaps of the GNU C library")
def test_threads_share_two_heaps() -> None:
    assert heaps("limited") <= 2
    assert heaps("unlimited") > 2, "else the limit is not what the test has seen"
