"""Access to a home's dashboard: a one-time address, which gives the browser that opens it a cookie.

Every account of a machine can reach a port on 127.0.0.1, so the port alone must not give access. An account that can
write to the home can make a ticket: a file in it, named by the ticket's SHA-256. When a ticket is used, the dashboard
removes the file, which succeeds once, and gives the browser a cookie that is signed with a key in the home. The key
outlives the dashboard's process, so that cookies stay valid after a restart; removing the key's file ends all cookies.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from common.atomic_write import atomic_path
from common.home import Home

PREFIX = "open/"
"""Path prefix of one-time addresses below the dashboard's root: ``open/TICKET/compare?experiment=…``."""
TICKET_SECONDS = 24 * 3600.0
COOKIE_SECONDS = 30 * 24 * 3600
_KEY_BYTES = 32
_MAX_CHARACTERS = 256


class DashboardAccess:
    """Issues and checks tickets and cookies for the dashboard of one home."""

    def __init__(self, home: Home) -> None:
        self._key_file = home.dashboard_key
        self._tickets = home.dashboard_tickets

    def address(self, url: str, page: str = "") -> str:
        """Return a new one-time address.

        Args:
            url: Address of the dashboard.
            page: Page with its query, such as ``compare?experiment=…``, to which the browser is redirected.

        Raises:
            OSError: The home cannot be written.
        """
        return f"{url.rstrip('/')}/{PREFIX}{self.issue()}/{page}"

    def issue(self) -> str:
        """Return a new ticket, which can be used once within a day.

        Raises:
            OSError: The home cannot be written.
        """
        self._tickets.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in self._tickets.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > TICKET_SECONDS:
                    file.unlink()
        self._key(make=True)
        ticket = secrets.token_urlsafe(_KEY_BYTES)
        os.close(os.open(self._file(ticket), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Use up a ticket; return whether it was valid."""
        file = self._file(ticket)
        try:
            valid = time.time() - file.stat().st_mtime <= TICKET_SECONDS
            file.unlink()  # of two requests with one ticket at the same time, one succeeds
        except OSError:
            return False
        return valid

    def cookie(self) -> str:
        """Return the value of a new cookie.

        Raises:
            OSError: The home cannot be written.
        """
        content = f"{int(time.time()) + COOKIE_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{content}.{_signature(self._key(make=True), content)}"

    def accepts_cookie(self, cookie: str) -> bool:
        """Return whether a cookie's value was made with this home's key and has not expired."""
        if len(cookie) > _MAX_CHARACTERS or not cookie.isascii():
            return False
        content, _, signature = cookie.rpartition(".")
        until, _, _ = content.partition(".")
        key = self._key(make=False)
        if not key or not hmac.compare_digest(_signature(key, content), signature):
            return False
        return until.isdigit() and int(until) > time.time()

    def _file(self, ticket: str) -> Path:
        return self._tickets / hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()

    def _key(self, *, make: bool) -> bytes:
        """Return the home's key; empty if there is none and ``make`` is False."""
        with contextlib.suppress(FileNotFoundError):
            return self._key_file.read_bytes()
        if not make:
            return b""
        self._key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # If two processes make a key at the same time, both use the key of the first.
        with (
            contextlib.suppress(FileExistsError),
            atomic_path(self._key_file, private=True, replace=False) as partial,
        ):
            partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
        return self._key_file.read_bytes()


def _signature(key: bytes, content: str) -> str:
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()
