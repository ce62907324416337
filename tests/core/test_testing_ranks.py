"""The two processes of the contract's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.testing_ranks import run_two_ranks


def write_process(rank: int, folder: str) -> None:
    Path(folder, f"rank{rank}").write_text(str(os.getpid()))


def fail_in_one(rank: int, folder: str) -> None:
    if rank == 1:
        raise ZeroDivisionError("rank 1 divides by zero")
    os.mkfifo(f"{folder}/pipe")
    Path(folder, "pipe").read_text()  # waits for the other rank for ever


def die(rank: int) -> None:
    os._exit(3)


def processes(folder: Path) -> list[int]:
    run_two_ranks(write_process, str(folder))
    return [int((folder / f"rank{rank}").read_text()) for rank in range(2)]


def test_ranks_are_two_processes_that_stay(tmp_path: Path) -> None:
    first = processes(tmp_path)
    assert len({*first, os.getpid()}) == 3
    assert processes(tmp_path) == first


def test_failure_of_one_rank_is_raised_and_ends_the_other(tmp_path: Path) -> None:
    before = processes(tmp_path)
    with pytest.raises(AssertionError, match="ZeroDivisionError: rank 1 divides by zero"):
        run_two_ranks(fail_in_one, str(tmp_path))
    assert not set(processes(tmp_path)) & set(before)
    with pytest.raises(AssertionError, match="the process of a rank ended"):
        run_two_ranks(die)
