"""The group processes of a worker: runs that may train together share a process, in which each is a member.

For the worker's supervision a member is a training like any other: the launcher starts ``group_member.py`` for it,
which ends when the run does, stops on SIGTERM and can be killed. So this module decides only what the launcher starts.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from core.protocol.worker import Claim
from worker.training_process import Files, ProcessExit, ProcessSpawner, TrainingProcess

log = structlog.get_logger()

MEMBER = Path(__file__).with_name("group_member.py")
_TRAIN = "train"


def group_command(training_command: Sequence[str]) -> tuple[str, ...]:
    """Return the command of a group process: that of a training, with ``group`` in the place of ``train``.

    Raises:
        ValueError: The command does not end with ``train``.
    """
    if training_command[-1] != _TRAIN:
        raise ValueError(f"DKD_GROUP_RUNS needs a DKD_TRAINING_COMMAND that ends with {_TRAIN}")
    return (*training_command[:-1], "group")


class GroupMember:
    """A run of a group process.

    Args:
        process: What stands for the run.
        leave: Gives its place in the group back; returns the processes of a group that ended with it.
    """

    def __init__(self, process: TrainingProcess, leave: Callable[[], set[int]]) -> None:
        self._process, self._leave = process, leave
        self._left = False
        self._pids_of_group: set[int] = set()

    @property
    def seen_pids(self) -> set[int]:
        """Ids of the run's processes, and of those of the group if it ended with the run."""
        return self._process.seen_pids | self._pids_of_group

    def poll(self) -> ProcessExit | None:
        """Return the run's exit status; None while it trains."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self._process.terminate()

    def kill(self) -> set[int]:
        """Give the run up if it still trains, and end the group with its last run."""
        surviving = self._process.kill()
        if not self._left:
            self._left = True
            self._pids_of_group = self._leave()
        return surviving


class _Group:
    """A group process. The lock of ``TrainingGroups`` is held by whoever uses it."""

    def __init__(self, process: TrainingProcess, control: socket.socket, output: Path) -> None:
        self.process, self.control, self.output = process, control, output
        self.members = 0

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def add(self) -> socket.socket:
        """Hand the process a new run's socket; return the other end."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self.control, [b"+"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        self.members += 1
        return ours


class TrainingGroups:
    """Starts group processes and finds the one for a run. Thread-safe.

    Args:
        command: The command of a group process.
        spawner: Starts it.
    """

    def __init__(self, command: Sequence[str], spawner: ProcessSpawner) -> None:
        self._command, self._spawner = tuple(command), spawner
        self._lock = threading.Lock()
        self._groups: dict[tuple[str, tuple[int, ...]], _Group] = {}

    def start(
        self,
        claim: Claim,
        gpus: tuple[int, ...],
        arguments: Sequence[str],
        environment: Mapping[str, str],
        files: Files,
    ) -> GroupMember | None:
        """Start a run in the group process of its kind, which is started if there is none.

        Args:
            claim: The run.
            gpus: Its GPUs, counted from 0.
            arguments: The arguments of the training.
            environment: The environment of trainings on these GPUs.
            files: Where the output of the run goes.

        Returns:
            None if the run has to train alone: on several GPUs, or because the backend names no group.

        Raises:
            OSError: A process cannot be started.
        """
        if not claim.group or claim.gpus > 1:
            return None
        group, connection = self._join((claim.group, gpus), environment)
        with connection:
            try:
                process = self._spawner.start(
                    [sys.executable, "-I", "-S", str(MEMBER), str(connection.fileno()), *arguments],
                    environment=environment,
                    files=files,
                    descriptors=(connection.fileno(),),
                )
            except BaseException:
                self._leave(group)
                raise
        return GroupMember(process, lambda: self._leave(group))

    def _join(self, key: tuple[str, tuple[int, ...]], environment: Mapping[str, str]) -> tuple[_Group, socket.socket]:
        """Return the group of a key, and the socket of a new run of it."""
        with self._lock:
            group = self._groups.get(key)
            if group is not None and not group.ended:
                with suppress(OSError):  # it has just ended
                    return group, group.add()
            group = self._groups[key] = self._start(environment)
            log.info("group process started", group=key[0], gpus=key[1])
            return group, group.add()

    def _leave(self, group: _Group) -> set[int]:
        """Give a place back. The process ends with its last run, since an idle one would keep memory of the GPU.

        Returns:
            Ids of the processes of the group, if they have ended.
        """
        with self._lock:
            group.members -= 1
            if group.members:
                return set()
            for key in [key for key, other in self._groups.items() if other is group]:
                del self._groups[key]
        group.control.close()
        if surviving := group.process.kill():
            log.error("processes of a group could not be killed", pids=sorted(surviving))
        if lines := group.output.read_text(encoding="utf-8", errors="replace").strip():
            log.warning("output of a group process", text=lines[-2000:])
        group.output.unlink(missing_ok=True)
        return group.process.seen_pids

    def _start(self, environment: Mapping[str, str]) -> _Group:
        ours, theirs = socket.socketpair()
        with theirs, tempfile.NamedTemporaryFile(prefix="dkd-group-", delete=False) as file:
            output = Path(file.name)
            process = self._spawner.start(
                [*self._command, "--control", str(theirs.fileno())],
                environment=environment,
                files=Files(output, output),
                descriptors=(theirs.fileno(),),
            )
        return _Group(process, ours, output)
