"""One-time addresses of a home's dashboard.

Every account of a machine can reach a port on 127.0.0.1, so the port alone must not give access. An account that can
write to the home can make a ticket: a file in it, named by the ticket's SHA-256. When a ticket is used, the dashboard
removes the file, which succeeds once, and begins a session of the browser (``common.browser_sessions``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

from common.home import Home

PREFIX = "open/"
"""Path prefix of one-time addresses below the dashboard's root: ``open/TICKET/compare?experiment=…``."""
TICKET_SECONDS = 24 * 3600.0
_TICKET_BYTES = 32


class OneTimeAddresses:
    """Issues and redeems tickets for the dashboard of one home."""

    def __init__(self, home: Home) -> None:
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
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
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

    def _file(self, ticket: str) -> Path:
        return self._tickets / hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()
