"""HTTP clients that read from the environment only the proxy and the certificates that their address needs.

httpx makes a transport for every proxy in the environment, and fails if any of them cannot be used. Here the proxy is
chosen after the address is known.
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
    """The environment names a proxy or a certificate file that cannot be used."""


@dataclass(frozen=True)
class Proxy:
    """A proxy for the requests to an address.

    Attributes:
        url: Its address with credentials.
        variable: Environment variable that names it.
    """

    url: str
    variable: str

    def __str__(self) -> str:
        """Return the address without credentials."""
        parsed = httpx.URL(self.url)
        port = f":{parsed.port}" if parsed.port else ""
        return f"{parsed.scheme}://{parsed.host}{port} ({self.variable})"


def open_client(url: str, **options: Any) -> httpx.Client:
    """Open a client for requests to one host.

    Args:
        url: Address of the host.
        options: Arguments of ``httpx.Client``. If ``transport`` is given, no proxy is used.

    Raises:
        HttpSettingsError: The environment names a proxy, or for https a certificate file, that cannot be used.
    """
    if "transport" in options and options["transport"] is None:
        del options["transport"]
    proxy = None if "transport" in options else proxy_for(url)
    secure = url.startswith("https:") or (proxy is not None and proxy.url.startswith("https:"))
    # Loading the certificates takes longer than a request to this machine, and without TLS they are not needed.
    context = _certificates() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(proxy=proxy.url if proxy else None, trust_env=False, verify=context, **options)


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for an address; None for the loopback and for hosts in NO_PROXY.

    Raises:
        HttpSettingsError: The environment names a proxy that cannot be used.
    """
    parsed = httpx.URL(url)
    proxies = getproxies()
    configured = proxies.get(parsed.scheme) or proxies.get("all")
    port = parsed.port or _PORTS.get(parsed.scheme, 0)
    if not configured or _is_loopback(parsed.host) or _is_excepted(parsed.host, port, proxies.get("no", "")):
        return None
    variable = _variable(parsed.scheme, configured)
    advice = f"correct {variable}, or name {parsed.host} in NO_PROXY to reach it without a proxy"
    try:
        address = httpx.URL(configured if "://" in configured else f"http://{configured}")
    except httpx.InvalidURL as error:
        raise HttpSettingsError(f"{variable} is not a valid proxy address ({error}); {advice}") from None
    if not address.host or address.scheme not in _SCHEMES:
        problem = f"has the unsupported scheme {address.scheme!r}" if address.host else "has no host"
        supported = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise HttpSettingsError(f"{variable} {problem}; supported are {supported}; {advice}")
    if address.scheme.startswith("socks") and find_spec("socksio") is None:
        raise HttpSettingsError(
            f"{variable} names a SOCKS proxy, which needs a package that is not installed: pip install 'httpx[socks]'; "
            f"or name {parsed.host} in NO_PROXY to reach it without a proxy"
        )
    return Proxy(str(address), variable)


def _variable(scheme: str, value: str) -> str:
    names = [name for kind in (scheme, "all") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    return next((name for name in names if os.environ.get(name) == value), "the system's proxy setting")


def is_loopback_url(url: str) -> bool:
    """Return whether the host of an address is this machine."""
    return _is_loopback(httpx.URL(url).host)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Return whether a NO_PROXY list names the host, a parent domain or its network, each with or without a port."""
    address = _address(host)
    for entry in filter(None, re.split(r"[,\s]+", no_proxy.lower())):
        name = entry.partition("://")[2] or entry
        if name == "*":
            return True
        if address:
            try:
                # The address may have been given in its IPv6 form.
                if address in ipaddress.ip_network(name.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass
        name, _, entry_port = name.rpartition(":") if re.search(r"[^:]:\d+$|\]:\d+$", name) else (name, "", "")
        name = name.strip("[]").removeprefix("*").lstrip(".").rstrip(".")
        if entry_port and int(entry_port) != port:
            continue
        if name and (host == name or (not address and host.endswith(f".{name}"))):
            return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _certificates() -> ssl.SSLContext:
    # httpx uses the first of the two that is set.
    variable = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError too: a file without certificates
        if variable is None:
            raise
        reason = "no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise HttpSettingsError(f"{variable} names {os.environ[variable]}: {reason}") from None
