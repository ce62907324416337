"""One stack a home: a lock that the kernel lets go of when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError


class Holder(BaseModel):
    """Who runs on a home.

    Attributes:
        api_url: empty while it is still starting.
        dashboard_url: empty without a dashboard.
    """

    pid: int
    api_url: str = ""
    dashboard_url: str = ""


class HomeBusyError(Exception):
    """Another stack runs on this home."""

    def __init__(self, home: Path, holder: Holder | None) -> None:
        self.home = home
        self.holder = holder
        where = "is being started already"
        if holder and holder.api_url:
            dashboard = f", dashboard {holder.dashboard_url}" if holder.dashboard_url else ""
            where = f"already runs at {holder.api_url}{dashboard}"
        process = f" (process {holder.pid})" if holder else ""
        super().__init__(f"a stack on {home} {where}{process}; use it, stop it with Ctrl-C, or give another --home")


class HomeLock:
    """Holds a home from ``take`` to ``release``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "stack.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the home where it is not there, and hold it. Raises HomeBusyError, or OSError where that fails."""
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
        """Write down where the stack answers, for whoever comes second."""
        if self._descriptor is None:
            return
        text = Holder(pid=os.getpid(), api_url=api_url, dashboard_url=dashboard_url).model_dump_json()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: removing it would let two holders lock two files of one name."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> Holder | None:
        """Who says that it runs on the home; None if nobody does."""
        try:
            return Holder.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return None
