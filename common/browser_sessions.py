"""Sessions of browsers that have opened a one-time address of a home's dashboard.

A session is a random text in a cookie, and a file in the home that is named by the text's SHA-256. The file contains
the time at which the session began, and its time of change is that of the last use. A session ends if it is not used
for some time, at the latest some time after its beginning, and as soon as its file is removed. Only the account of the
home can read or write these files, and they do not contain the text of the cookie.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.atomic_write import atomic_write
from common.home import Home

_TOUCH_SECONDS = 60.0
"""A use is recorded at most once in this time."""
_MAX_CHARACTERS = 256
_BYTES = 32


@dataclass(frozen=True)
class SessionLimits:
    """When a session ends by itself.

    Attributes:
        idle_seconds: Seconds after its last use.
        total_seconds: Seconds after its beginning.
    """

    idle_seconds: float = 7 * 24 * 3600.0
    total_seconds: float = 30 * 24 * 3600.0


class BrowserSessions:
    """Begins, checks and ends the sessions of one home.

    Args:
        home: The home.
        limits: When a session ends by itself.
        clock: Returns the Unix time in seconds.
    """

    def __init__(self, home: Home, limits: SessionLimits | None = None, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits or SessionLimits()
        self._folder = home.dashboard_sessions
        self._clock = clock

    def begin(self) -> str:
        """Begin a session; return the value of its cookie.

        Raises:
            OSError: The home cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in self._folder.iterdir():
            if not file.name.startswith(".") and not self._lasts(file):  # a hidden file is being written
                file.unlink(missing_ok=True)
        cookie = secrets.token_urlsafe(_BYTES)
        file, now = self._file(cookie), self._clock()
        atomic_write(file, f"{now:.3f}\n", private=True)
        os.utime(file, (now, now))
        return cookie

    def accepts(self, cookie: str, *, use: bool = True) -> bool:
        """Return whether the session of a cookie lasts.

        Args:
            cookie: Value of the cookie.
            use: Whether this is a use of the session, as opposed to a mere check.
        """
        if not cookie or len(cookie) > _MAX_CHARACTERS or not cookie.isascii():
            return False
        file = self._file(cookie)
        if not self._lasts(file):
            return False
        now = self._clock()
        if use:
            with contextlib.suppress(OSError):
                if now - file.stat().st_mtime > _TOUCH_SECONDS:
                    os.utime(file, (now, now))
        return True

    def end(self, cookie: str) -> None:
        """End the session of a cookie. Nothing changes if there is none.

        Raises:
            OSError: The home cannot be written.
        """
        self._file(cookie).unlink(missing_ok=True)

    def end_all(self) -> None:
        """End every session of the home.

        Raises:
            OSError: The home cannot be written.
        """
        with contextlib.suppress(FileNotFoundError):
            for file in self._folder.iterdir():
                file.unlink(missing_ok=True)

    def _lasts(self, file: Path) -> bool:
        try:
            used, began = file.stat().st_mtime, float(file.read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such session, or not one of these files
            return False
        now = self._clock()
        return now - used <= self.limits.idle_seconds and now - began <= self.limits.total_seconds

    def _file(self, cookie: str) -> Path:
        return self._folder / hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
