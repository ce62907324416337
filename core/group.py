"""Several trainings in one process: the group process, to which a worker hands runs that share teacher, data and views.

Each run is a member: a thread that calls ``run_training`` as a process would. The members compute one at a time, see
``core.turns``, and on a GPU each on a stream of its own, so that the GPU computes for several of them although the host
serves them in turn.

The worker sends a socket for each run. Over it come the training's arguments, as a line of JSON, and later ``stop`` to
end it with a checkpoint. Its end without ``stop`` means that nobody waits for the run any more; it ends at its next
turn. The last line goes the other way: the exit status that the training would have had as a process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch

from core.events import MACHINE_EXIT
from core.settings import TrainingSettings
from core.specs import SpecError
from core.train.interruption import Interruption, TrainOptions
from core.train.process_state import ProcessState
from core.train.run import run_training
from core.training_command import ExitStatus, TrainingRequest, add_arguments, exit_status
from core.turns import Member, TurnEnded, Turns

DROP_SECONDS = 60.0
"""How long a member that nobody waits for may keep the turn. One that hangs keeps it from all others, and the process
ends with it; the others continue elsewhere from their checkpoints."""
_POLL_SECONDS = 1.0
_MOST_BYTES = 1 << 20
STOP = "stop"


def make_turns() -> Turns:
    """Return the turns of a group of trainings in this process, in whose present state each of them begins."""
    if torch.cuda.is_available():
        # Before this, there are no generators that a member could have for itself.
        torch.cuda.init()  # type: ignore[no-untyped-call]
    initial = ProcessState.now()
    return Turns(ProcessState.now, initial.copy, _finish_device_work)


class GroupRun:
    """One run of a group.

    Args:
        request: The run.
        settings: What trainings take from the environment.
        turns: The turns of the group.
        on_end: Called in the run's thread when it has ended.

    Attributes:
        status: Its exit status; None while it trains, and if it was dropped.
    """

    def __init__(
        self,
        request: TrainingRequest,
        settings: TrainingSettings,
        turns: Turns,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._request, self._settings, self._turns, self._on_end = request, settings, turns, on_end
        self._ended = False
        self._interruption = Interruption()
        self._dropped_at: float | None = None
        self._member: Member | None = None
        self.status: ExitStatus | None = None
        self._thread = threading.Thread(target=self._run, name=f"run {request.out}", daemon=True)

    def start(self) -> None:
        """Begin. Does not wait."""
        self._thread.start()

    def stop(self) -> None:
        """Ask for an end with a checkpoint. Does not wait."""
        self._interruption.ask()

    def drop(self) -> None:
        """End the run at its next turn, without a checkpoint. Does not wait."""
        if self._dropped_at is None:
            self._dropped_at = time.monotonic()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended

    @property
    def hangs(self) -> bool:
        """Whether it was dropped, and keeps the turn for too long. One that waits for its turn does not hang."""
        if self._dropped_at is None or self._member is None or self.ended or not self._member.has_turn:
            return False
        return time.monotonic() - max(self._dropped_at, self._member.began) > DROP_SECONDS

    def _run(self) -> None:
        try:
            self._take_turns()
        finally:
            self._ended = True
            self._on_end()

    def _take_turns(self) -> None:
        with self._turns.member() as member:
            self._member = member
            member.on_turn = self._on_turn
            try:
                self.status = self._train(member)
            except TurnEnded:
                pass
            except BaseException:  # noqa: BLE001 (also SystemExit: it is this run's, and the others go on)
                self.status = ExitStatus(1, traceback.format_exc())
            finally:
                if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                    gc.collect()  # the cycles of networks and closures hold memory of the device
                    torch.cuda.empty_cache()

    def _train(self, member: Member) -> ExitStatus:
        options = TrainOptions(
            self._settings.checkpoint_seconds,
            stop_requested=self._interruption.requested,
            interruption=self._interruption,
        )
        member.on_turn()
        with own_stream():
            arguments = self._request.arguments()
            return exit_status(lambda: run_training(options=options, settings=self._settings, **arguments))

    def _on_turn(self) -> None:
        if self._dropped_at is not None:
            raise TurnEnded
        self._interruption.check()


@contextlib.contextmanager
def own_stream() -> Iterator[None]:
    """A block in which the calling thread computes on a CUDA stream of its own, finished at the end."""
    if not torch.cuda.is_available():
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        try:
            yield
        finally:
            # What other members use may be freed after this.
            stream.synchronize()


def serve(control: int, settings: TrainingSettings) -> int:
    """Train the runs that come over a socket, until it is closed and no run is left.

    Args:
        control: File descriptor of the socket. Each message on it has the descriptor of a run's socket.
        settings: What trainings take from the environment.

    Returns:
        The exit code of the process.
    """
    group = _Group(socket.socket(fileno=control), settings)
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.signal(number, lambda *_: group.stop())
            handlers.callback(signal.signal, number, previous)
        return group.serve()


class _Group:
    """The runs of the process by their sockets. Only the main thread calls the methods."""

    def __init__(self, control: socket.socket, settings: TrainingSettings) -> None:
        self._control, self._settings = control, settings
        self._turns = make_turns()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._wake, self._wake_write = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._open = True
        self._runs: dict[socket.socket, GroupRun | None] = {}  # None until the arguments have come
        self._received: dict[socket.socket, bytes] = {}

    def serve(self) -> int:
        while self._open or self._runs:
            for key, _ in self._selector.select(_POLL_SECONDS):
                if key.fileobj is self._control:
                    self._accept()
                elif key.fileobj is self._wake:
                    self._wake.recv(4096)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._receive(key.fileobj)
            for connection, run in list(self._runs.items()):
                if run and run.ended:
                    self._close(connection, run.status)
                elif run and run.hangs:
                    sys.stderr.write("a run that was given up does not end, and with it the group process ends\n")
                    sys.stderr.flush()
                    os._exit(MACHINE_EXIT)
        return 0

    def stop(self) -> None:
        """Ask all runs to end with a checkpoint. A signal handler calls this."""
        for run in self._runs.values():
            if run:
                run.stop()

    def _accept(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        if not data:
            self._open = False
            self._selector.unregister(self._control)
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            self._selector.register(connection, selectors.EVENT_READ)
            self._runs[connection], self._received[connection] = None, b""

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65_536)
        except OSError:
            data = b""
        run = self._runs[connection]
        if not data:
            if run is None:
                self._close(connection, None)
            else:
                run.drop()
                self._selector.unregister(connection)
            return
        self._received[connection] += data
        if len(self._received[connection]) > _MOST_BYTES:
            self._close(connection, ExitStatus(2, "the arguments of a run are too long"))
            return
        *lines, self._received[connection] = self._received[connection].split(b"\n")
        for line in lines:
            if line.decode() == STOP:
                if run:
                    run.stop()
            elif run is None:
                run = self._start(connection, json.loads(line))

    def _start(self, connection: socket.socket, arguments: list[str]) -> GroupRun | None:
        parser = _Parser()
        add_arguments(parser)
        try:
            request = TrainingRequest.read(parser.parse_args(arguments))
        except (SpecError, _ArgumentError) as error:
            self._close(connection, ExitStatus(2, str(error)))
            return None
        run = self._runs[connection] = GroupRun(
            request, self._settings, self._turns, lambda: self._wake_write.send(b"e")
        )
        run.start()
        return run

    def _close(self, connection: socket.socket, status: ExitStatus | None) -> None:
        """Say how a run ended, and forget it."""
        del self._runs[connection], self._received[connection]
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        with connection, contextlib.suppress(OSError):
            if status is not None:
                connection.sendall(json.dumps({"code": status.code, "text": status.text}).encode() + b"\n")


class _ArgumentError(Exception):
    """The arguments of a run cannot be used."""


class _Parser(argparse.ArgumentParser):
    """A parser that never ends the process; ``exit_on_error`` does not cover every error."""

    def error(self, message: str) -> NoReturn:
        raise _ArgumentError(message)


def _finish_device_work() -> None:
    """Wait until the device has computed what the calling thread asked of it."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().synchronize()
