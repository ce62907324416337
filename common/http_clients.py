"""HTTP clients that take a proxy and certificates from the environment where the address in question needs them.

httpx makes a transport for every proxy in the environment, wanted or not, and fails with an exception of its own where
one of them is of a kind that cannot be used. Here the proxy is looked for once the address is known.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.request import getproxies

import httpx

_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}


class HttpSettingsError(ValueError):
    """A proxy or a certificate file that the environment names and that cannot be used."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that requests to some address go through.

    Attributes:
        url: its address, credentials included.
        variable: which variable names it.
    """

    url: str
    variable: str

    def __str__(self) -> str:
        """Without credentials."""
        parsed = httpx.URL(self.url)
        port = f":{parsed.port}" if parsed.port else ""
        return f"{parsed.scheme}://{parsed.host}{port} ({self.variable})"


def open_client(url: str, **options: Any) -> httpx.Client:
    """A client for requests to one host.

    Args:
        url: of the host.
        options: of ``httpx.Client``. With a ``transport`` of its own it asks no proxy.

    Raises:
        HttpSettingsError: the environment names a proxy for this address that cannot be used, or, for https, a file of
            certificates.
    """
    if "transport" in options and options["transport"] is None:
        del options["transport"]
    proxy = None if "transport" in options else proxy_for(url)
    secure = url.startswith("https:") or (proxy is not None and proxy.url.startswith("https:"))
    # Loading the certificates takes longer than a request on this machine, and without TLS they are not looked at.
    context = _certificates() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(proxy=proxy.url if proxy else None, trust_env=False, verify=context, **options)


def proxy_for(url: str) -> Proxy | None:
    """The proxy that requests to this address go through; None for the loopback and for what NO_PROXY names.

    Raises HttpSettingsError where there is one that cannot be used.
    """
    parsed = httpx.URL(url)
    found = getproxies()
    given = found.get(parsed.scheme) or found.get("all")
    port = parsed.port or _PORTS.get(parsed.scheme, 0)
    if not given or _is_loopback(parsed.host) or _excepted(parsed.host, port, found.get("no", "")):
        return None
    variable = _variable(parsed.scheme, given)
    way_on = f"correct {variable}, or name {parsed.host} in NO_PROXY to reach it without a proxy"
    try:
        address = httpx.URL(given if "://" in given else f"http://{given}")
    except httpx.InvalidURL as error:
        raise HttpSettingsError(f"{variable} is no proxy's address ({error}); {way_on}") from None
    if not address.host or address.scheme not in _SCHEMES:
        kind = f"a proxy of the kind {address.scheme!r}" if address.host else "no host"
        usable = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise HttpSettingsError(f"{variable} names {kind}, and {usable} can be used; {way_on}")
    if address.scheme.startswith("socks") and find_spec("socksio") is None:
        raise HttpSettingsError(
            f"{variable} names a SOCKS proxy, which needs a package that is not installed: pip install 'httpx[socks]'; "
            f"or name {parsed.host} in NO_PROXY to reach it without a proxy"
        )
    return Proxy(str(address), variable)


def _variable(scheme: str, value: str) -> str:
    names = [name for kind in (scheme, "all") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    return next((name for name in names if os.environ.get(name) == value), "the system's proxy setting")


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _excepted(host: str, port: int, listed: str) -> bool:
    """Whether a list as of NO_PROXY names the host: itself, a domain above it, a network, each with or without port."""
    address = _address(host)
    for entry in filter(None, re.split(r"[,\s]+", listed.lower())):
        name = entry.partition("://")[2] or entry
        if name == "*":
            return True
        if address:
            try:
                # The IPv6 form of an address on this list of networks counts too.
                if address in ipaddress.ip_network(name.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass
        name, _, wanted = name.rpartition(":") if re.search(r"[^:]:\d+$|\]:\d+$", name) else (name, "", "")
        name = name.strip("[]").removeprefix("*").lstrip(".").rstrip(".")
        if wanted and int(wanted) != port:
            continue
        if name and (host == name or (not address and host.endswith(f".{name}"))):
            return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _certificates() -> ssl.SSLContext:
    # httpx takes the first of the two that is set.
    named = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError too: a file without certificates
        if named is None:
            raise
        reason = "no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise HttpSettingsError(f"{named} names {os.environ[named]}: {reason}") from None
