"""Starts one training as several processes, its ranks, and ends all of them when one ends badly. Free of torch.

The ranks run the same command line; three variables in their environment tell them which they are. They die with this
process, however it dies, and it with whatever stands above it. SIGTERM goes to rank 0 alone, which has all of them stop
at one step. Rank 0 writes the journal; how the training failed is put into it here, where all the ranks are seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from common.atomic_write import atomic_write
from common.parent_death import die_with_parent
from core.events import EXTERNAL_SIGNALS, JOURNAL_NAME, MACHINE_EXIT, MOST_THREADS, THREADS, Failed, Journal

_RANK, _RANKS, _FOLDER, _PARENT = "DKD_RANK", "DKD_RANKS", "DKD_RANKS_DIR", "DKD_RANKS_PARENT"
# All ranks are on one machine: gloo would look for them under its name, which not every machine can resolve.
_AT_HOME = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
_POLL_SECONDS = 0.05
_LAST_WORDS_SECONDS = 10.0
"""For the other ranks to end by themselves and say why, once one has ended: the first is often not the one at fault."""


_PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""OpenMP's own name, GNU's and LLVM's."""


def wait_passively() -> None:
    """Have threads of OpenMP sleep while they wait for each other; to be called before torch is imported.

    By default they spin. Beside other work a thread that spins takes the core from the one that it waits for: a
    training of 6 s on two idle cores took 93 s beside two busy processes, and 24 s so. What the environment says
    already stays. No sum is added in another order.
    """
    for name, value in _PASSIVE.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class RankInfo:
    """Which process of a training this is.

    Attributes:
        rank: counts from 0.
        folder: for what the ranks tell each other; gone when they have ended.
    """

    rank: int
    ranks: int
    folder: Path

    @property
    def scratch(self) -> Path:
        """For what a rank writes that is not the first, and nobody reads."""
        return self.folder / f"rank{self.rank}"


@dataclass(frozen=True)
class RankFailure:
    """Why a rank could not go on.

    Attributes:
        lost_another: it only noticed that another one was gone.
    """

    kind: Literal["spec", "nan", "oom", "error"]
    reason: str
    peer_lost: bool = False

    def write(self, place: RankInfo) -> None:
        atomic_write(_report_path(place.folder, place.rank), json.dumps(vars(self)))


def rank_from_env(environment: Mapping[str, str] = os.environ) -> RankInfo | None:
    """Where this process was put by ``launch``; None for one that was not. From here on it dies with its parent."""
    if _RANK not in environment:
        return None
    if not die_with_parent(int(environment[_PARENT])):
        os._exit(1)
    return RankInfo(int(environment[_RANK]), int(environment[_RANKS]), Path(environment[_FOLDER]))


def launch(ranks: int, arguments: Sequence[str], out: Path, on_stop: Callable[[], object] = lambda: None) -> int:
    """Run ``python -m core ARGUMENTS`` in so many processes.

    Returns 0, 1 where it failed, MACHINE_EXIT, or -N where a rank was ended from outside by signal N: as with
    a training of one process, that is no failure of the run.

    Args:
        out: the training's folder, where the journal is.
        on_stop: called when this process is told to stop (SIGTERM or SIGINT), beside the ranks.
    """
    with tempfile.TemporaryDirectory(prefix="dkd-ranks-") as folder:
        group = _Group(Path(folder), ranks, out)

        def stop() -> None:
            on_stop()
            group.stop()

        with _forwarding(stop):
            group.start(arguments)
            try:
                return group.follow()
            finally:
                group.kill()


class _Group:
    def __init__(self, folder: Path, ranks: int, out: Path) -> None:
        self._folder, self._ranks, self._out = folder, ranks, out
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stop_asked = False
        self._killed: set[int] = set()

    def start(self, arguments: Sequence[str]) -> None:
        for rank in range(self._ranks):
            own: dict[str, object] = {_RANK: rank, _RANKS: self._ranks, _FOLDER: self._folder, _PARENT: os.getpid()}
            name, threads = _threads()
            own[name] = max(1, threads // self._ranks)
            environment = _AT_HOME | os.environ | {name: str(value) for name, value in own.items()}
            command = [sys.executable, "-m", "core", *arguments]
            self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        if self._stop_asked:
            self.stop()

    def stop(self) -> None:
        self._stop_asked = True
        if self._processes:
            self._processes[0].send_signal(signal.SIGTERM)

    def follow(self) -> int:
        """Wait for the end; the exit code."""
        while not any(self._codes()) and self._codes()[0] is None:
            time.sleep(_POLL_SECONDS)
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while None in self._codes() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self.kill()
        first = self._codes()[0]
        # Rank 0 ends last of all in a training that ends well; the others may lose it when it is told to stop early.
        if first == 0:
            return 0
        if first == -signal.SIGTERM and self._stop_asked:  # before it could listen
            return 128 + signal.SIGTERM
        if MACHINE_EXIT in self._codes():
            return MACHINE_EXIT
        report, number = self._report(), self._from_outside()
        with Journal(self._out / JOURNAL_NAME) as journal:
            journal.log(report.reason, "error")
            if number is None:
                journal.append(Failed(kind=report.kind, reason=report.reason))
            journal.sync()
        return 1 if number is None else -number

    def kill(self) -> None:
        for rank, process in enumerate(self._processes):
            if process.poll() is None:
                self._killed.add(rank)
                process.kill()
            process.wait()

    def _codes(self) -> list[int | None]:
        return [process.poll() for process in self._processes]

    def _reports(self) -> dict[int, RankFailure]:
        found: dict[int, RankFailure] = {}
        for rank in range(self._ranks):
            with contextlib.suppress(FileNotFoundError):
                found[rank] = RankFailure(**json.loads(_report_path(self._folder, rank).read_text(encoding="utf-8")))
        return found

    def _silent(self) -> dict[int, int]:
        """Exit codes of the ranks that ended badly by themselves and said nothing of it."""
        reports, codes = self._reports(), enumerate(self._codes())
        return {rank: code for rank, code in codes if code and rank not in reports and rank not in self._killed}

    def _from_outside(self) -> int | None:
        """The signal by which somebody ended a rank; None where the ranks have themselves to blame."""
        codes = list(self._silent().values())
        return -codes[0] if codes and all(-code in EXTERNAL_SIGNALS for code in codes) else None

    def _report(self) -> RankFailure:
        """The reason of the rank at fault, not of one that merely lost it."""
        reports = self._reports()
        silent = [f"rank {rank} of {self._ranks} {_ending(code)}" for rank, code in self._silent().items()]
        if silent:
            return RankFailure("error", "; ".join(silent) + "; the others were ended with it")
        named = sorted(reports.items(), key=lambda item: (item[1].peer_lost, item[0]))
        if not named:
            return RankFailure("error", f"the {self._ranks} ranks were ended")
        rank, report = named[0]
        return RankFailure(report.kind, f"rank {rank} of {self._ranks}: {report.reason}" if rank else report.reason)


def exit_by_signal(number: int) -> NoReturn:
    """End this process by a signal, so that whoever has started it sees what happened to a rank of it."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the signal was blocked


@contextlib.contextmanager
def _forwarding(stop: Callable[[], None]) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _report_path(folder: Path, rank: int) -> Path:
    return folder / f"report{rank}.json"


def _threads() -> tuple[str, int]:
    """Of the CPU that all ranks use together, and which variable says so: as many as that, or at most so many."""
    for name in (THREADS, MOST_THREADS):
        if given := os.environ.get(name):
            return name, int(given)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return MOST_THREADS, cores
