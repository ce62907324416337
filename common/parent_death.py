"""Ties a service to the process that starts it: when that dies, however it dies, the service is killed.

A file of its own that imports only the standard library, run by its path (``python -I -S leash.py PARENT COMMAND…``),
so that it costs milliseconds. It becomes the service: the tie (PR_SET_PDEATHSIG) outlives exec. Set here and not by a
function run between fork and exec, which is unsafe in a process that has threads. Where prctl does not exist (macOS)
a service outlives a parent that was killed by force; every other end of the parent stops it in the ordinary way.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main(arguments: list[str]) -> int:
    """Become the command. Returns only where it cannot be started."""
    parent, *command = arguments
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        return CANNOT_START
    # What a service writes, and whatever it starts, is its account's alone.
    os.umask(0o077)
    # Ignored by Python, or by whoever started it in the background; the service expects the defaults.
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
