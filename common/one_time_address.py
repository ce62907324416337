"""The way into a home's dashboard: a one-time address, which becomes a cookie of the browser that opens it.

Every account of a machine reaches a port on 127.0.0.1, so the port alone must open nothing. Whoever can read the home
can make a ticket: a file in it, named by the ticket's SHA-256. The dashboard takes the file away when the ticket is
shown, which succeeds once, and gives the browser a cookie that is signed with a key in the home. The key outlives the
dashboard's process, so that browsers stay known when it is started again; removing the key's file ends every cookie.
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
"""Of one-time addresses, below the dashboard's root: ``open/TICKET/compare?experiment=…``."""
TICKET_SECONDS = 24 * 3600.0
COOKIE_SECONDS = 30 * 24 * 3600
_KEY_BYTES = 32
_MOST_CHARACTERS = 256


class DashboardAccess:
    """Makes and takes tickets and cookies for the dashboard of one home."""

    def __init__(self, home: Home) -> None:
        self._key_file = home.dashboard_key
        self._tickets = home.dashboard_tickets

    def address(self, url: str, page: str = "") -> str:
        """A fresh one-time address.

        Args:
            url: of the dashboard.
            page: with its query, as ``compare?experiment=…``; it is where the browser is led.

        Raises:
            OSError: the home cannot be written.
        """
        return f"{url.rstrip('/')}/{PREFIX}{self.issue()}/{page}"

    def issue(self) -> str:
        """A fresh ticket, usable once within a day. Raises OSError if the home cannot be written."""
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
        """Whether the ticket is known and fresh. It is used up by this."""
        file = self._file(ticket)
        try:
            fresh = time.time() - file.stat().st_mtime <= TICKET_SECONDS
            file.unlink()  # of two that show one ticket at the same time, one succeeds
        except OSError:
            return False
        return fresh

    def cookie(self) -> str:
        """The value of a fresh cookie. Raises OSError if the home cannot be written."""
        said = f"{int(time.time()) + COOKIE_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{said}.{_signature(self._key(make=True), said)}"

    def accepts_cookie(self, cookie: str) -> bool:
        """Whether a cookie's value was made with this home's key and has not expired."""
        if len(cookie) > _MOST_CHARACTERS or not cookie.isascii():
            return False
        said, _, signature = cookie.rpartition(".")
        until, _, _ = said.partition(".")
        key = self._key(make=False)
        if not key or not hmac.compare_digest(_signature(key, said), signature):
            return False
        return until.isdigit() and int(until) > time.time()

    def _file(self, ticket: str) -> Path:
        return self._tickets / hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()

    def _key(self, *, make: bool) -> bytes:
        """The home's key; empty if there is none and none is made."""
        with contextlib.suppress(FileNotFoundError):
            return self._key_file.read_bytes()
        if not make:
            return b""
        self._key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Of two processes that make a key, both use the first one's.
        with (
            contextlib.suppress(FileExistsError),
            atomic_path(self._key_file, private=True, replace=False) as partial,
        ):
            partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
        return self._key_file.read_bytes()


def _signature(key: bytes, said: str) -> str:
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()
