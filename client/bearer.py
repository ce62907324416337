"""The bearer token of a connection, which is read again when the backend refuses it or announces its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator

import httpx

from client.errors import ClientSettingsError
from core.protocol.access import EXPIRY_HEADER, TokenEnd

_log = logging.getLogger(__name__)

_REREAD_SECONDS = 30.0
"""An earlier text of a rotated token is replaced by the new one at most this long after its file was written."""
_WARN_SECONDS = 24 * 3600.0


class BearerAuth(httpx.Auth):
    """Adds the token to every request.

    A node whose token is rotated gets the new text in its token file. This class reads the file again as soon as a
    response announces that the text in use is an earlier one, and at the latest when the backend refuses it: the
    request is then sent once more, so that a rotation interrupts nothing. The announced end of a token is logged once a
    day.

    Args:
        read: Returns the token; None if none is configured.
        clock: Returns the time in seconds.

    Attributes:
        end: The end of the token that the newest response announced; None without an announcement.

    Raises:
        ClientSettingsError: The token cannot be read.
    """

    def __init__(self, read: Callable[[], str | None], clock: Callable[[], float] = time.monotonic) -> None:
        self.end: TokenEnd | None = None
        self._read = read
        self._clock = clock
        self._token = read()
        self._read_at = clock()
        self._warned_at: float | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request with the token, and once more if the token has a new text."""
        token = self._token
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401:
            # The body of an upload is read while it is sent, and cannot be sent again.
            if self._renew(token) and isinstance(request.stream, httpx.ByteStream):
                request.headers["Authorization"] = f"Bearer {self._token}"
                yield request
        elif response.is_success:
            self._observe(response.headers.get(EXPIRY_HEADER), token)

    def _observe(self, header: str | None, token: str | None) -> None:
        self.end = TokenEnd.parse(header) if header else None
        if self.end is None:
            return
        now = self._clock()
        if self.end.replaced and now - self._read_at >= _REREAD_SECONDS and self._renew(token):
            return
        if self._warned_at is None or now - self._warned_at >= _WARN_SECONDS:
            self._warned_at = now
            _log.warning(self.end.sentence())

    def _renew(self, refused: str | None) -> bool:
        """Read the token again; return whether it differs from the one that was sent."""
        self._read_at = self._clock()
        try:
            self._token = self._read() or self._token
        except ClientSettingsError:  # its file is being replaced, or has been removed
            return False
        return self._token != refused
