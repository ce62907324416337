"""Start the processes (ranks) of one training, and end all of them when one fails. Free of torch.

All ranks run the same command line; variables in their environment tell each which one it is. They die with this
process, however it dies. SIGTERM is sent to rank 0 alone, which makes all of them stop at the same step. Rank 0 writes
the journal; if the training fails, the reason is appended here, because only this process sees all ranks.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from common.atomic_write import atomic_write
from common.parent_death import die_with_parent
from common.processors import thread_share
from core.events import EXTERNAL_SIGNALS, JOURNAL_NAME, MACHINE_EXIT, MOST_THREADS, THREADS, Failed, Journal
from core.settings import TrainingSettings

_RANK, _RANKS, _FOLDER, _PARENT = "DKD_RANK", "DKD_RANKS", "DKD_RANKS_DIR", "DKD_RANKS_PARENT"
# All ranks are on this machine: gloo would look them up by its host name, which not every machine can resolve.
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
_POLL_SECONDS = 0.05
_REPORT_SECONDS = 10.0
"""How long the other ranks get to end by themselves and report after one has ended: often another one is at fault."""

_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
"""The variable of the OpenMP standard, GNU's and LLVM's. 10,000 checks took 0.3 ms on an AMD EPYC."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads sleep soon while they wait for each other; to be called before torch is imported.

    By default they spin for milliseconds. Next to other work, a thread that spins takes the core from the thread that
    it waits for: a training of 6 s on two idle cores took 93 s next to two busy processes. A thread that sleeps at once
    makes steps a third slower on idle cores, because waking it takes longer than what it waits for. The order of sums
    does not change.

    Variables that are already set stay. If ``OMP_WAIT_POLICY`` is one of them, none is added: GNU's runtime would
    follow its own variable and ignore the standard's.

    Args:
        environment: The environment to change.
    """
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in _WAITING.items():
            environment.setdefault(name, value)


@contextlib.contextmanager
def collection_after_start() -> Iterator[Callable[[], None]]:
    """A block at whose beginning Python does not search for cyclic garbage: the start of a training's process.

    What is imported and prepared stays until the end, and makes half a million objects. Seven searches of them took
    0.7 s of a start of 3.9 s.

    Yields:
        A function that ends the start: from now on, garbage is collected among what is made later.
    """
    if not gc.isenabled():
        yield lambda: None
        return

    def begin() -> None:
        gc.freeze()
        gc.enable()

    gc.disable()
    try:
        yield begin
    finally:
        gc.unfreeze()
        gc.enable()


@dataclass(frozen=True)
class RankInfo:
    """Which process of a training this is.

    Attributes:
        rank: Counted from 0.
        world_size: The number of processes.
        folder: A folder for the communication of the ranks; it is removed when they have ended.
    """

    rank: int
    world_size: int
    folder: Path

    @property
    def scratch(self) -> Path:
        """The folder for what a rank other than the first writes, which nothing reads."""
        return self.folder / f"rank{self.rank}"


@dataclass(frozen=True)
class RankFailure:
    """Why a rank could not continue.

    Attributes:
        kind: As in ``core.events.Failed``.
        reason: For people.
        peer_lost: Whether the rank only noticed that another one was gone.
    """

    kind: Literal["spec", "nan", "oom", "error"]
    reason: str
    peer_lost: bool = False

    def write(self, info: RankInfo) -> None:
        """Write the failure where the process that started the ranks looks for it."""
        atomic_write(_failure_path(info.folder, info.rank), json.dumps(vars(self)))


def rank_from_env(environment: Mapping[str, str] = os.environ) -> RankInfo | None:
    """Return which rank this process is, and make it die with the process that started it.

    Args:
        environment: The environment that ``launch`` made.

    Returns:
        The rank; None if ``launch`` did not start this process.
    """
    if _RANK not in environment:
        return None
    if not die_with_parent(int(environment[_PARENT])):
        os._exit(1)
    return RankInfo(int(environment[_RANK]), int(environment[_RANKS]), Path(environment[_FOLDER]))


def launch(
    ranks: int,
    arguments: Sequence[str],
    out: Path,
    settings: TrainingSettings,
    on_stop: Callable[[], object] = lambda: None,
) -> int:
    """Run ``python -m core ARGUMENTS`` in several processes, and wait for their end.

    Args:
        ranks: The number of processes.
        arguments: The command line.
        out: The training's folder, with the journal.
        settings: The CPU threads that all ranks may use together.
        on_stop: Called when this process receives SIGTERM or SIGINT, before the ranks are stopped.

    Returns:
        0; 1 if the training failed; MACHINE_EXIT; or -N if signal N ended a rank from outside, which, as for a
        training of one process, is not a failure of the run.
    """
    with tempfile.TemporaryDirectory(prefix="dkd-ranks-") as folder:
        group = _Group(Path(folder), ranks, out)

        def stop() -> None:
            on_stop()
            group.stop()

        with _forwarding(stop):
            group.start(arguments, settings)
            try:
                return group.wait()
            finally:
                group.kill()


class _Group:
    def __init__(self, folder: Path, ranks: int, out: Path) -> None:
        self._folder, self._ranks, self._out = folder, ranks, out
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stop_requested = False
        self._killed: set[int] = set()

    def start(self, arguments: Sequence[str], settings: TrainingSettings) -> None:
        variable, threads = _threads_per_rank(settings, self._ranks)
        for rank in range(self._ranks):
            variables: dict[str, object] = {
                _RANK: rank,
                _RANKS: self._ranks,
                _FOLDER: self._folder,
                _PARENT: os.getpid(),
                variable: threads,
            }
            environment = _LOOPBACK | os.environ | {name: str(value) for name, value in variables.items()}
            command = [sys.executable, "-m", "core", *arguments]
            self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        if self._stop_requested:
            self.stop()

    def stop(self) -> None:
        self._stop_requested = True
        if self._processes:
            self._processes[0].send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end of all ranks. Returns the exit code."""
        while not any(self._codes()) and self._codes()[0] is None:
            time.sleep(_POLL_SECONDS)
        deadline = time.monotonic() + _REPORT_SECONDS
        while None in self._codes() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self.kill()
        first = self._codes()[0]
        # Rank 0 ends last if the training ends well; if it is stopped early, the others may lose it.
        if first == 0:
            return 0
        if first == -signal.SIGTERM and self._stop_requested:  # before rank 0 could handle the signal
            return 128 + signal.SIGTERM
        if MACHINE_EXIT in self._codes():
            return MACHINE_EXIT
        failure, external_signal = self._failure(), self._external_signal()
        with Journal(self._out / JOURNAL_NAME) as journal:
            journal.log(failure.reason, "error")
            if external_signal is None:
                journal.append(Failed(kind=failure.kind, reason=failure.reason))
            journal.sync()
        return 1 if external_signal is None else -external_signal

    def kill(self) -> None:
        for rank, process in enumerate(self._processes):
            if process.poll() is None:
                self._killed.add(rank)
                process.kill()
            process.wait()

    def _codes(self) -> list[int | None]:
        return [process.poll() for process in self._processes]

    def _reported(self) -> dict[int, RankFailure]:
        failures: dict[int, RankFailure] = {}
        for rank in range(self._ranks):
            with contextlib.suppress(FileNotFoundError):
                text = _failure_path(self._folder, rank).read_text(encoding="utf-8")
                failures[rank] = RankFailure(**json.loads(text))
        return failures

    def _unreported(self) -> dict[int, int]:
        """Return the exit codes of the ranks that ended badly by themselves without a report."""
        reported, codes = self._reported(), enumerate(self._codes())
        return {rank: code for rank, code in codes if code and rank not in reported and rank not in self._killed}

    def _external_signal(self) -> int | None:
        """Return the signal by which another program ended a rank; None if a rank itself is at fault."""
        codes = list(self._unreported().values())
        return -codes[0] if codes and all(-code in EXTERNAL_SIGNALS for code in codes) else None

    def _failure(self) -> RankFailure:
        """Return the failure of the rank at fault, and not of one that only lost it."""
        reported = self._reported()
        unreported = [f"rank {rank} of {self._ranks} {_ending(code)}" for rank, code in self._unreported().items()]
        if unreported:
            return RankFailure("error", "; ".join(unreported) + "; the others were ended with it")
        by_fault = sorted(reported.items(), key=lambda item: (item[1].peer_lost, item[0]))
        if not by_fault:
            return RankFailure("error", f"the {self._ranks} ranks were ended")
        rank, failure = by_fault[0]
        return RankFailure(failure.kind, f"rank {rank} of {self._ranks}: {failure.reason}" if rank else failure.reason)


def exit_by_signal(number: int) -> NoReturn:
    """End this process by a signal, so that the program that started it sees what happened to one of the ranks."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # reached if the signal is blocked


@contextlib.contextmanager
def _forwarding(stop: Callable[[], None]) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _failure_path(folder: Path, rank: int) -> Path:
    return folder / f"report{rank}.json"


def _threads_per_rank(settings: TrainingSettings, ranks: int) -> tuple[str, int]:
    """Return the variable that gives a rank its CPU threads, and their number: the ranks share those of a training."""
    if settings.threads is not None:
        return THREADS, max(1, settings.threads // ranks)
    if settings.max_threads is not None:
        return MOST_THREADS, max(1, settings.max_threads // ranks)
    return MOST_THREADS, thread_share(ranks)
