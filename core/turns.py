"""Turns of the trainings that share a process: one of them computes at a time, and nothing that it leaves is shared.

Each training of a group has a thread of its own, so what torch and Python keep by thread (the gradient mode, autocast,
the current CUDA stream) is its own by construction. What they keep by process (random generators, the number of
threads) is taken away at the end of a turn and put back at the beginning of the next one, see ``State``.

A training alone has no turns: ``pass_turn`` does nothing, and ``shared`` calls its function.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")

TURN_SECONDS = 0.002
"""The shortest turn. A step that a GPU replays costs its host less, and a change of turns tens of microseconds."""

_current = threading.local()


class TurnEnded(BaseException):
    """A member of a group must end at once, without a checkpoint.

    It is not an Exception, so that nothing makes a failure of the training of it.
    """


class State(Protocol):
    """What a process keeps once although each of its trainings has its own."""

    def restore(self) -> None:
        """Put the state back."""


class Turns:
    """The turns of a group. Members take them round and round, in the order in which they came.

    Args:
        capture: Returns the present state of the process.
        initial: Returns the state in which a member begins.
        finish: Waits until what the calling thread has computed is there for the threads of others.
    """

    def __init__(
        self, capture: Callable[[], State], initial: Callable[[], State], finish: Callable[[], None] = lambda: None
    ) -> None:
        self._capture, self._initial, self._finish = capture, initial, finish
        self._lock = threading.Lock()
        self._computing: Member | None = None
        self._waiting: deque[Member] = deque()
        self._shared: dict[Hashable, _Shared] = {}

    @property
    def computing(self) -> Member | None:
        """The member whose turn it is."""
        return self._computing

    @contextmanager
    def member(self) -> Iterator[Member]:
        """A block in which the calling thread is a member of the group. It begins with the member's first turn."""
        member = Member(self)
        self._wait(member)
        _current.member = member
        try:
            self._initial().restore()
            yield member
        finally:
            _current.member = None
            with self._lock:
                for key in [key for key, shared in self._shared.items() if member in shared.users]:
                    self._drop(key, member)
                self._next()

    def pass_turn(self, member: Member) -> None:
        """Let every member that waits have a turn before the caller goes on."""
        with self._lock:
            if not self._waiting:
                return
            state = self._capture()
            self._waiting.append(member)
            self._next()
        member.gate.acquire()
        state.restore()

    def shared(self, key: Hashable, build: Callable[[], T], member: Member) -> T:
        """Return the value of a key, built by the first member that asks for it."""
        shared = self._shared.get(key)  # only the member whose turn it is comes here
        if shared is None:
            shared = _Shared(build())
            self._finish()
            with self._lock:
                self._shared[key] = shared
        shared.users.add(member)
        return cast(T, shared.value)

    def release(self, key: Hashable, member: Member) -> None:
        """Note that a member no longer uses a value; without users it is dropped."""
        with self._lock:
            if key in self._shared:
                self._drop(key, member)

    def _wait(self, member: Member) -> None:
        with self._lock:
            if self._computing is None:
                self._computing = member
                return
            self._waiting.append(member)
        member.gate.acquire()

    def _next(self) -> None:
        """Give the turn to the member that has waited longest. The caller holds the lock and has the turn."""
        self._computing = self._waiting.popleft() if self._waiting else None
        if self._computing is not None:
            self._computing.began = time.monotonic()
            self._computing.gate.release()

    def _drop(self, key: Hashable, member: Member) -> None:
        users = self._shared[key].users
        users.discard(member)
        if not users:
            del self._shared[key]


class Member:
    """A training of a group, as its thread and the thread that controls the group see it.

    Attributes:
        gate: A lock that is released to begin the member's turn.
        began: When its turn began.
        on_turn: Called at the beginning of a turn; it may raise to end what the member does.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.gate = threading.Lock()
        self.gate.acquire()
        self.began = time.monotonic()
        self.on_turn: Callable[[], None] = lambda: None

    @property
    def has_turn(self) -> bool:
        """Whether it is the one that computes."""
        return self._turns.computing is self

    def pass_turn(self) -> None:
        """Let the others have a turn, if this one was long enough."""
        if time.monotonic() - self.began >= TURN_SECONDS:
            self._turns.pass_turn(self)
        self.on_turn()

    def shared(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return what the members of the group have together under a key."""
        return self._turns.shared(key, build, self)

    def release(self, key: Hashable) -> None:
        """End the use of a key."""
        self._turns.release(key, self)


class _Shared:
    """A value, and the members that use it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.users: set[Member] = set()


def in_group() -> bool:
    """Whether the calling thread is a member of a group."""
    return _member() is not None


def pass_turn() -> None:
    """Let the other trainings of the process compute, if there are any. It may raise what ends this one."""
    if (member := _member()) is not None:
        member.pass_turn()


def shared(key: Hashable, build: Callable[[], T]) -> T:
    """Return a value that the trainings of the process have together; it must not be changed.

    It is kept until each that asked for it has ended or has called ``release``.

    Args:
        key: Everything that decides the value.
        build: Makes it. Called by the first training that asks, and by one that is alone.
    """
    member = _member()
    return build() if member is None else member.shared(key, build)


def release(key: Hashable) -> None:
    """End the use of a shared value before the end of the training."""
    if (member := _member()) is not None:
        member.release(key)


def _member() -> Member | None:
    return getattr(_current, "member", None)
