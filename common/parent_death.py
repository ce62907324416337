"""Ends a process when its parent dies, however the parent dies (``PR_SET_PDEATHSIG``).

``die_with_parent`` is called by a process that has just been started. Run as a program (``python -I -S
parent_death.py PARENT COMMAND…``), this file ties a command to its parent and then becomes the command, because the
setting outlives exec. It is a separate process, and not a function that runs between fork and exec, because such a
function is unsafe in a process that has threads. The file imports only the standard library, so that it starts in
milliseconds, and so that a program that is started without site-packages can load it.

On systems without prctl (macOS) a process outlives a parent that was killed by force. Every other end of the parent
stops it in the ordinary way.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> bool:
    """Have the kernel send this process a signal when its parent dies.

    Args:
        parent: The parent's process id.
        number: The signal.

    Returns:
        False if the parent has already died; the caller should then exit.
    """
    prctl(PR_SET_PDEATHSIG, number)
    return os.getppid() == parent  # otherwise it died before the line above


def prctl(option: int, value: int) -> None:
    """Call Linux's prctl; do nothing on other systems. A failure is ignored."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Become the command. Return only if it cannot be started."""
    parent, *command = arguments
    if not die_with_parent(int(parent)):
        return CANNOT_START
    # Files of the service, and of its children, are private to the account.
    os.umask(0o077)
    # Python, or a shell that started it in the background, ignores these signals; the service expects the defaults.
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
