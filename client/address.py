"""The backend's address and token, from arguments, the environment or the home of a local stack."""

from __future__ import annotations

import ipaddress
import logging
import os
from pathlib import Path

import httpx

from client.errors import ClientSettingsError
from common.home import Home
from common.token_files import read_token

_log = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8000"


def find_url(url: str | None) -> str:
    """Return the backend's address, from the first of these sources that gives one.

    The sources are ``url``, the environment variable DKD_API_URL, the file that the stack running on this home has
    written, and ``DEFAULT_URL``.

    Args:
        url: The address that the caller gives; None to use the other sources.

    Raises:
        ClientSettingsError: The address is not an http or https address.
    """
    return normalize_url(url or os.environ.get("DKD_API_URL") or _first_line(Home.find().api_url) or DEFAULT_URL)


def normalize_url(url: str) -> str:
    """Return the address without trailing slashes.

    Raises:
        ClientSettingsError: The address is not an http or https address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientSettingsError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientSettingsError(f"{url!r} is not an address: it must begin with http:// or https://")
    if parsed.port is not None and not 0 < parsed.port < 65_536:
        raise ClientSettingsError(f"{url!r} is not an address: its port is not from 1 to 65535")
    return url.rstrip("/")


def find_token(token: str | None, url: str, *, variable: str, local: Path, home: Home | None = None) -> str | None:
    """Return the bearer token: ``token``, else the environment's, else a session's, else that of this home's stack.

    The local file is read only for a backend on this machine, because another backend must not receive its token. The
    session is that of ``dkd login`` at this very address.

    Args:
        token: The token passed by the caller.
        url: The backend's address.
        variable: Name of the environment variable that contains a token. The variable of this name with the suffix
            ``_FILE`` contains the path of a token file.
        local: The home's token file.
        home: The home that contains sessions; None for programs that never use one.

    Returns:
        The token, or None if none is configured.

    Raises:
        ClientSettingsError: The configured file contains no token, or the token contains invalid characters.
    """
    if value := token or os.environ.get(variable):
        return _validated(value, "the token that was passed" if token else variable)
    if path := os.environ.get(f"{variable}_FILE"):
        value = _read_token(Path(path))
        if not value:
            raise ClientSettingsError(f"{variable}_FILE names {path}, which contains no readable token")
        return _validated(value, f"{variable}_FILE")
    if home is not None and (value := _read_token(home.session(url))):
        return _validated(value, "the session of `dkd login`")
    return _read_token(local) if is_loopback(url) else None


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_token(path: Path) -> str | None:
    """Return the token in a file; None if it has no token. A file that other accounts can read is made private."""
    try:
        file = read_token(path)
    except OSError:
        return None
    if file.warning:
        _log.warning(file.warning)
    return file.token or None


def _validated(token: str, source: str) -> str:
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientSettingsError(f"{source} contains a character that no token has")
    return token


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip().split("\n", 1)[0].strip() or None
    except (OSError, UnicodeDecodeError):
        return None
