"""Stands for one run of a group process, so that the worker supervises it as a training with a process of its own.

The launcher runs this file by its path (``python -I -S group_member.py FD ARGUMENT…``) in the place of a training. It
imports only the standard library. It sends the arguments of the training over the socket FD, whose other end the group
process has, forwards SIGTERM as ``stop``, and ends with the exit status that the group process sends. If it is killed,
the socket closes, and the group process gives the run up.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys

MACHINE_EXIT = 75
"""As ``core.events.MACHINE_EXIT``, which this file cannot import."""
_PROBLEM = "the group process ended before the run did"


def main(arguments: list[str]) -> int:
    """Stand for a run until it has ended.

    Args:
        arguments: The file descriptor of the socket, then the arguments of the training.

    Returns:
        The exit status of the training.
    """
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    descriptor, *training = arguments
    with socket.socket(fileno=int(descriptor)) as group:
        try:
            group.sendall(json.dumps(training).encode() + b"\n")
            received = b""
            while not received.endswith(b"\n"):
                ready, _, _ = select.select([group.fileno(), wake], [], [])
                if wake in ready:
                    os.read(wake, 64)
                    group.sendall(b"stop\n")
                if group.fileno() in ready:
                    data = group.recv(65_536)
                    if not data:
                        raise ConnectionError
                    received += data
        except OSError:
            sys.stderr.write(f"{_PROBLEM}\n")
            return MACHINE_EXIT
    status = json.loads(received)
    if status["text"]:
        sys.stderr.write(f"{status['text']}\n")
    return int(status["code"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
