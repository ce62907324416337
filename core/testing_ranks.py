"""Two processes that compute as the two ranks of a training, for the tests of the contract.

They stay until the tests end, because each takes seconds to import torch.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast


def run_two_ranks(function: Callable[..., object], *arguments: object) -> None:
    """Call ``function(rank, *arguments)`` in two processes at once, with rank 0 and rank 1, and wait for both.

    Args:
        function: A function of a module, whose arguments can be pickled.
        arguments: What follows the rank.

    Raises:
        AssertionError: A rank failed, with its traceback. Both processes are then ended, because the other one may wait
            for it.
    """
    pair = _started()
    for rank, (_, connection) in enumerate(pair):
        connection.send((function, (rank, *arguments)))
    waiting = [connection for _, connection in pair]
    while waiting:
        for ready in wait(waiting):
            connection = cast(Connection, ready)
            try:
                failure = connection.recv()
            except EOFError:
                failure = "the process of a rank ended"
            if failure:
                _end(pair)
                raise AssertionError(failure)
            waiting.remove(connection)


_Pair = list[tuple[SpawnProcess, Connection]]
_pairs: list[_Pair] = []


def _started() -> _Pair:
    if not _pairs:
        _pairs.append([_start() for _ in range(2)])
    return _pairs[0]


def _start() -> tuple[SpawnProcess, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _end(pair: _Pair) -> None:
    _pairs.clear()
    for process, connection in pair:
        process.kill()
        process.join()
        connection.close()


def _serve(connection: Any) -> None:
    """Compute what is asked for until the other end is closed."""
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            function(*arguments)
            connection.send(None)
        except BaseException:  # noqa: BLE001 (raised in the process that asked)
            connection.send(traceback.format_exc())
