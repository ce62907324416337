"""Which host a request is addressed to, and whether the page that sent it belongs to that host.

The API and the dashboard ask the same two questions. A website can point a name of its own at 127.0.0.1, so the Host
header has to be on a list. Another program on the same machine can serve pages under the same name at another port, so
a page's Origin has to equal the Host in its scheme, name and port, not in its name alone.
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
    """A host and port, both known."""

    host: str
    port: int


@lru_cache(1024)
def address(authority: str, scheme: str = "http") -> Address | None:
    """The address in a Host header (``example.org:8000``, ``[::1]``), or None if it is malformed.

    Args:
        scheme: of the request; gives the port if the header has none.
    """
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets that do not close, a port that is no number
        return None
    if not host or "@" in authority or parts.path or parts.query or parts.fragment or authority != authority.strip():
        return None
    return Address(host.lower().rstrip("."), port if port is not None else _PORTS.get(scheme, 0))


@lru_cache(1024)
def _origin(text: str) -> tuple[str, Address] | None:
    scheme, separator, authority = text.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return None  # "null" too: sandboxed frames and files
    found = address(authority, scheme.lower())
    return (scheme.lower(), found) if found else None


def host_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether a host name is on the list. ``*`` allows any name, ``*.lab.example`` any below ``lab.example``."""
    for pattern in allowed:
        name = pattern.strip().lower().rstrip(".")
        if name == "*" or host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def origin_allowed(origin: str, authority: str, scheme: str, allowed: Collection[str] = ()) -> bool:
    """Whether a page of this origin may send this request.

    Args:
        origin: the Origin header; empty if there is none, which is allowed: browsers send one with every request that
            could change something, and other programs send none.
        authority: the Host header.
        scheme: of the request as it arrives here: http, https, ws or wss.
        allowed: more origins, as ``https://lab.example`` where a proxy terminates TLS in front of this server.
    """
    if not origin:
        return True
    page = _origin(origin)
    if page is None:
        return False
    own = _HTTP.get(scheme, scheme)
    return page == (own, address(authority, own)) or any(page == _origin(item.rstrip("/")) for item in allowed)
