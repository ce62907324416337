"""Chooses free ports on the loopback address."""

from __future__ import annotations

import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
# A person recognises a port near the preferred one. If none of these is free, any free port is chosen.
_NEARBY = 50


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this option too: with it, a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose(preferred: int, avoid: Collection[int] = ()) -> int:
    """Return the preferred port if it is free, else one shortly above it, else any free one.

    Another program may take the port before the caller uses it, so the caller must be ready to choose again.

    Args:
        preferred: The port to try first.
        avoid: Ports that must not be returned.
    """
    for port in range(preferred, min(preferred + _NEARBY, 65_535) + 1):
        if port not in avoid and is_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        free_port: int = probe.getsockname()[1]
        return free_port
