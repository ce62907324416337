"""Choosing ports on the loopback address."""

from __future__ import annotations

import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
# Next to the wished one a person still recognises it; beyond, any will do.
_NEARBY = 50


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose(wished: int, avoid: Collection[int] = ()) -> int:
    """The wished port where it is free, else one shortly above it, else any free one.

    Another program may take it before it is used; who uses it must be ready to choose again.
    """
    for near in range(wished, min(wished + _NEARBY, 65_535) + 1):
        if near not in avoid and is_free(near):
            return near
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
