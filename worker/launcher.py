"""Starts one training, and kills every process of the training that still runs after it has ended.

The worker runs this file by its path (``python -I -S launcher.py``), so that it starts in milliseconds. It imports only
the standard library and ``common.parent_death``, which imports only the standard library too. The launcher is the
training's parent process, and ends shortly after the training::

    worker ──stdin (control)──► launcher ──fork, exec──► training ──► child processes
           ◄─stdout (status)──

* The worker holds the other end of stdin. If the launcher reads ``t``, it asks the training to end (SIGTERM). If it
  reads ``k``, it kills all processes of the training. It does the same at the end of the file, which means that the
  worker has ended for any reason. The launcher must not itself be killed when the worker ends (PR_SET_PDEATHSIG =
  SIGKILL), since it has to kill the other processes. It requests SIGHUP instead, in case another process has inherited
  the pipe.
* The launcher is a child subreaper: the children of a process that dies become the launcher's children, even if they
  have their own session. When the launcher has no more children, no process of the training runs.
* The training gets SIGKILL when the launcher dies (PR_SET_PDEATHSIG). The launcher sets this between fork and exec. It
  has only one thread, so that a fork is safe and the end of the thread is the end of the process.

macOS has no prctl. There, only the pipe and the search for child processes are available, and the worker finds the
remaining processes by the mark in their environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

if __name__ == "__main__":  # without site-packages, the folder that contains ``common`` is not on the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common.parent_death import CANNOT_START, die_with_parent, prctl

PR_SET_CHILD_SUBREAPER = 36
TERMINATE = b"t"
KILL = b"k"

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# Python ignores SIGPIPE and SIGXFSZ; the training expects the default handlers.
_DEFAULTED = (*_HANDLED, signal.SIGPIPE, signal.SIGXFSZ)


class Launcher:
    """One training, from its start until none of its processes runs."""

    def __init__(self, command: list[str], stdout: str) -> None:
        self._command = command
        self._stdout = stdout
        self._child = 0
        self._status: int | None = None
        self._wake, self._wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Start the training, wait for its end, and kill its remaining processes.

        Returns:
            The training's wait status; 0 if it is unknown.
        """
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)
        self._start()
        self._wait()
        self._kill_all()
        return self._status or 0

    def _start(self) -> None:
        launcher = os.getpid()
        # Signals are blocked until the child has the default handlers; a SIGTERM before that would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        self._child = os.fork()
        if self._child == 0:
            self._exec_training(launcher)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def _exec_training(self, launcher: int) -> None:
        """Replace the child process with the training. Does not return."""
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

    def _wait(self) -> None:
        """Wait until the training has ended, or until the worker has ended or has requested to kill it."""
        while True:
            ready, _, _ = select.select([0, self._wake], [], [])
            if 0 in ready:
                command = os.read(0, 64)
                if not command or KILL in command:
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
        """Reap every child that has ended. Return whether any child still runs."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                self._status = status

    def _kill_all(self) -> None:
        # Repeated, since a process may fork while another process is being killed.
        while self._reap():
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def descendants() -> list[int]:
    """Return the process ids of all descendants of this process, nearest first."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    pids = list(children.get(os.getpid(), ()))
    for pid in pids:
        pids.extend(children.get(pid, ()))
    return pids


def _processes() -> list[tuple[int, int]]:
    """Return the process id and parent id of every process."""
    if sys.platform != "linux":
        import subprocess

        lines = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return [(int(pid), int(parent)) for pid, parent in (line.split() for line in lines.splitlines())]
    processes = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The command's name may contain spaces and parentheses; the fields follow its last parenthesis.
                processes.append((int(name), int(file.read().rpartition(b")")[2].split()[1])))
    return processes


def main(arguments: list[str]) -> int:
    """Run ``launcher.py PARENT STDOUT COMMAND…``.

    Args:
        arguments: The worker's process id, the training's output file, and the training's command.

    Returns:
        Exit status of the training; 128 plus the signal's number if a signal ended it.
    """
    parent, stdout, *command = arguments
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if not die_with_parent(int(parent), signal.SIGHUP):
        return CANNOT_START
    status = Launcher(command, stdout).run()
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):  # the worker has ended
        os.write(1, json.dumps({"code": code}).encode())
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
