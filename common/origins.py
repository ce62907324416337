"""Checks of the Host and Origin headers, for the API and the dashboard.

A website can point its own name at 127.0.0.1, so the Host header has to be on a list. Another program on the same
machine can serve pages under the same name at another port, so a page's Origin has to equal the Host in scheme, name
and port, not only in its name. Starlette's TrustedHostMiddleware does not check the origin
(docs/adr/0079-own-host-checks-and-locks.md).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_HTTP = {"ws": "http", "wss": "https"}


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int


@lru_cache(1024)
def address(authority: str, scheme: str = "http") -> Address | None:
    """Return the address in a Host header (``example.org:8000``, ``[::1]``); None if it is malformed.

    Args:
        authority: The header's value.
        scheme: Scheme of the request, which gives the port if the header has none.
    """
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:  # unbalanced brackets, or a port that is not a number
        return None
    if not host or "@" in authority or parts.path or parts.query or parts.fragment or authority != authority.strip():
        return None
    return Address(host.lower().rstrip("."), port if port is not None else _PORTS.get(scheme, 0))


@lru_cache(1024)
def _origin(text: str) -> tuple[str, Address] | None:
    scheme, separator, authority = text.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return None  # "null" too: sandboxed frames and files
    parsed = address(authority, scheme.lower())
    return (scheme.lower(), parsed) if parsed else None


def host_allowed(host: str, allowed: Collection[str]) -> bool:
    """Return whether a host is on a list; ``*`` matches any name, ``*.lab.example`` any name below ``lab.example``."""
    for pattern in allowed:
        name = pattern.strip().lower().rstrip(".")
        if name == "*" or host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def origin_allowed(origin: str, authority: str, scheme: str, allowed: Collection[str] = ()) -> bool:
    """Return whether a page of an origin may send a request.

    Args:
        origin: The Origin header. A request without one is allowed: browsers send it with every request that could
            change something, and other programs do not send it.
        authority: The Host header.
        scheme: Scheme of the request as it arrives here: http, https, ws or wss.
        allowed: Further origins, such as ``https://lab.example`` if a proxy terminates TLS in front of this server.
    """
    if not origin:
        return True
    page = _origin(origin)
    if page is None:
        return False
    http_scheme = _HTTP.get(scheme, scheme)
    return page == (http_scheme, address(authority, http_scheme)) or any(
        page == _origin(item.rstrip("/")) for item in allowed
    )
