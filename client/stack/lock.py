"""Allows one stack per home, by a file lock, which the kernel releases in every case when the holder's process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError


class LockHolder(BaseModel):
    """The stack that runs on a home.

    Attributes:
        pid: Process id of the stack.
        api_url: Address of the backend; empty while the stack starts.
        dashboard_url: Address of the dashboard; empty without a dashboard.
    """

    pid: int
    api_url: str = ""
    dashboard_url: str = ""


class HomeBusyError(Exception):
    """Another stack runs on this home."""

    def __init__(self, home: Path, holder: LockHolder | None) -> None:
        self.home = home
        self.holder = holder
        state = "is being started already"
        if holder and holder.api_url:
            dashboard = f", dashboard {holder.dashboard_url}" if holder.dashboard_url else ""
            state = f"already runs at {holder.api_url}{dashboard}"
        process = f" (process {holder.pid})" if holder else ""
        super().__init__(f"a stack on {home} {state}{process}; use it, stop it with Ctrl-C, or choose another --home")


class HomeLock:
    """Locks a home from ``acquire`` to ``release``. The lock file also contains the addresses of the stack."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "stack.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Create the home if it does not exist, and lock it.

        Raises:
            HomeBusyError: Another stack holds the lock.
            OSError: The home or the lock file cannot be created.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HomeBusyError(self.home, self.holder()) from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.publish()

    def publish(self, api_url: str = "", dashboard_url: str = "") -> None:
        """Write the addresses of the stack to the lock file, for others that try to lock the home."""
        if self._descriptor is None:
            return
        text = LockHolder(pid=os.getpid(), api_url=api_url, dashboard_url=dashboard_url).model_dump_json()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        """Release the lock. The file is kept: without it, two holders could lock two files of the same name."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> LockHolder | None:
        """Return the stack that the lock file names; None if it names none."""
        try:
            return LockHolder.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return None
