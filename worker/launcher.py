"""Starts one training and makes sure that nothing of it is left behind.

A file of its own that imports only the standard library, and ``common.parent_death``, which does the same too:
it is run by its path (``python -I -S launcher.py``), so that it starts in milliseconds and stands between the worker
and the training, which it outlives by a moment::

    worker ──stdin (control)──► launcher ──fork, exec──► training ──► whatever that starts
           ◄─stdout (status)──

* The worker holds the other end of stdin. ``t`` asks the training to end (SIGTERM); ``k`` ends everything; the end of
  the file means that the worker is gone, however it died, and ends everything too. The launcher is not simply killed
  with the worker (PR_SET_PDEATHSIG = SIGKILL): it must live to end the others. It asks for SIGHUP instead, in case
  somebody else came to hold the pipe.
* The launcher is a child subreaper: what a dying parent leaves behind becomes the launcher's own child, also out of a
  session of its own. Where it has no child left, nothing is left.
* The training gets SIGKILL when the launcher dies (PR_SET_PDEATHSIG, set between fork and exec: the launcher has one
  thread, so a fork is safe and its end is the process's end).

Where prctl does not exist (macOS), the pipe and the walk over the children do what they can; the worker then finds
orphans by the mark in their environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

if __name__ == "__main__":  # without site-packages, the folder that holds ``common`` is not on the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common.parent_death import CANNOT_START, die_with_parent, prctl

PR_SET_CHILD_SUBREAPER = 36
TERMINATE = b"t"
KILL = b"k"

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# Python ignores these two; a program it starts expects the defaults.
_DEFAULTED = (*_HANDLED, signal.SIGPIPE, signal.SIGXFSZ)


class Launcher:
    """One training, from its start until nothing of it is left."""

    def __init__(self, command: list[str], stdout: str) -> None:
        self._command = command
        self._stdout = stdout
        self._child = 0
        self._status: int | None = None
        self._wake, self._wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Start it, follow it, end what is left. Returns the wait status, or None as 0 where it is not known."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)
        self._start()
        self._follow()
        self._end_all()
        return self._status or 0

    def _start(self) -> None:
        launcher = os.getpid()
        # Held back until the child has the default handlers, or a SIGTERM in between would be swallowed.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        self._child = os.fork()
        if self._child == 0:
            self._become(launcher)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def _become(self, launcher: int) -> None:
        """In the child: turn into the training. Does not return."""
        try:
            signal.set_wakeup_fd(-1)
            for number in _DEFAULTED:
                signal.signal(number, signal.SIG_DFL)
            if not die_with_parent(launcher):
                os._exit(CANNOT_START)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(self._stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            os.execvp(self._command[0], self._command)
        except OSError as error:
            os.write(2, f"cannot start {self._command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(CANNOT_START)

    def _follow(self) -> None:
        """Return when the training has ended, or when everything is to end."""
        while True:
            ready, _, _ = select.select([0, self._wake], [], [])
            if 0 in ready:
                order = os.read(0, 64)
                if not order or KILL in order:
                    return
                self._terminate()
            if self._wake in ready:
                numbers = os.read(self._wake, 4096)
                if signal.SIGHUP in numbers:
                    return
                if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                    self._terminate()
            self._reap()
            if self._status is not None:
                return

    def _terminate(self) -> None:
        if self._status is None:
            os.kill(self._child, signal.SIGTERM)

    def _reap(self) -> bool:
        """Take leave of every child that has ended. False where there is no child left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                self._status = status

    def _end_all(self) -> None:
        # Again and again: one may fork while another is being killed.
        while self._reap():
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def descendants() -> list[int]:
    """Process ids of everything below this process, nearest first."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _processes() -> list[tuple[int, int]]:
    """Every process with its parent."""
    if sys.platform != "linux":
        import subprocess

        lines = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return [(int(pid), int(parent)) for pid, parent in (line.split() for line in lines.splitlines())]
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The command's name may hold spaces and brackets; what follows its last bracket is well formed.
                found.append((int(name), int(file.read().rpartition(b")")[2].split()[1])))
    return found


def main(arguments: list[str]) -> int:
    """``launcher.py PARENT STDOUT COMMAND…``: the worker's process id, the training's output file, what to start."""
    parent, stdout, *command = arguments
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if not die_with_parent(int(parent), signal.SIGHUP):
        return CANNOT_START
    status = Launcher(command, stdout).run()
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(1, json.dumps({"code": code}).encode())
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
