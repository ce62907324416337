"""Checks of the backend with its clock and tokens, of the broker, and of the ports of a stack."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from client.address import find_url
from client.client import Client
from client.doctor.runner import Finding
from client.errors import ApiError, BackendUnreachable, ClientSettingsError
from client.stack import ports
from client.stack.lock import HomeLock
from common.home import Home
from common.http_clients import HttpSettingsError, open_client

_REQUEST_SECONDS = 5.0
# Only the backend's clock measures leases; a wrong clock of this machine falsifies times in lists and the validity of
# one-time addresses.
MAX_CLOCK_SECONDS = 30.0
STACK_PORTS = {"backend": 8000, "dashboard": 8501}


def check_backend() -> Iterator[Finding]:
    """Check that the backend responds and accepts requests, and compare its clock with this machine's."""
    try:
        url = find_url(None)
        with open_client(url, base_url=url, timeout=_REQUEST_SECONDS) as http:
            response = http.get("/readyz")
    except (ClientSettingsError, HttpSettingsError) as error:
        action = "correct the variable that the message names"
        yield Finding(check="backend", status="error", message=_without_password(str(error)), action=action)
        return
    except httpx.HTTPError as error:
        yield _no_backend(url, error)
        return
    shown = address_text(url)
    if response.status_code == 200:
        yield Finding(check="backend", status="ok", message=f"{shown} accepts requests")
    elif response.status_code == 503:
        action = "look into the backend's log: its database may be unavailable, or have the schema of another version"
        yield Finding(check="backend", status="error", message=f"{shown} is not ready", action=action)
    else:
        message = f"{shown} responds with status {response.status_code} to /readyz"
        action = "check DKD_API_URL: the server there may be another program"
        yield Finding(check="backend", status="error", message=message, action=action)
        return
    yield clock_finding(response.headers.get("Date"), datetime.now(UTC))


def clock_finding(date: str | None, now: datetime) -> Finding:
    """Compare the backend's Date header with this machine's clock."""
    try:
        backend_time = parsedate_to_datetime(date or "")
    except ValueError:
        return Finding(check="clock", status="ok", message="not compared: the backend's response has no date")
    offset = (now - backend_time).total_seconds()
    if abs(offset) > MAX_CLOCK_SECONDS:
        message = f"this machine's clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the backend's"
        action = "synchronise both clocks (NTP): times in lists and logs are wrong by this much"
        return Finding(check="clock", status="warning", message=message, action=action)
    return Finding(check="clock", status="ok", message="agrees with the backend's")


def check_tokens() -> Iterator[Finding]:
    """Check the token files of this home, and whether the backend accepts the client's token."""
    home = Home.find()
    present = 0
    for path in (home.admin_token, home.worker_token):
        finding = token_file_finding(path)
        if finding:
            yield finding
        present += path.exists()
    yield from _accepted_finding(present)


def token_file_finding(path: Path) -> Finding | None:
    """Return the problem of a token file; None if there is no problem or no file. The token is not read."""
    try:
        details = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        return Finding(check="tokens", status="error", message=message, action="run as the account that owns the home")
    if not stat.S_ISREG(details.st_mode) or not details.st_size:
        message = f"{path} contains no token"
        action = "delete it and run `python -m backend bootstrap`, which writes a new one"
        return Finding(check="tokens", status="error", message=message, action=action)
    if details.st_mode & 0o077:
        message = f"{path} has mode {stat.S_IMODE(details.st_mode):04o}: other accounts can read it"
        action = f"chmod 600 {path}, and revoke the token if other people use this machine"
        return Finding(check="tokens", status="warning", message=message, action=action)
    return None


def _accepted_finding(files: int) -> Iterator[Finding]:
    stored = f"{files} token file(s) in {Home.find().path / 'tokens'}"
    try:
        with Client(timeout=_REQUEST_SECONDS) as client:
            client.catalog()
    except ApiError as error:
        if error.status not in (401, 403):
            message = f"the backend could not check the token: status {error.status}"
            yield Finding(check="tokens", status="warning", message=message, action="look into the backend's log")
            return
        message = "the backend does not accept the client's token"
        action = "set DKD_API_TOKEN or DKD_API_TOKEN_FILE to a token of this backend (`dkd token create` makes one)"
        yield Finding(check="tokens", status="error", message=message, action=action)
    except ClientSettingsError as error:
        message = _without_password(str(error))
        yield Finding(
            check="tokens", status="error", message=message, action="correct the variable that the message names"
        )
    except BackendUnreachable:
        yield Finding(check="tokens", status="ok", message=f"{stored}; not tried, since no backend answers")
    else:
        yield Finding(check="tokens", status="ok", message="the backend accepts the client's token")


def check_broker() -> Iterator[Finding]:
    """Check that the broker can be reached: Redis by a PING, a folder by write access."""
    url = os.environ.get("DKD_BROKER_URL", "filesystem://")
    scheme = url.partition("://")[0]
    if scheme == "filesystem":
        yield _folder_finding(Path(os.environ.get("DKD_BROKER_FOLDER") or Home.find().broker).absolute())
    elif scheme in ("redis", "rediss"):
        yield _redis_finding(url)
    else:
        action = "use redis://, or filesystem:// on one machine"
        message = f"brokers of the kind {scheme!r} are not checked"
        yield Finding(check="broker", status="warning", message=message, action=action)


def _folder_finding(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        message = f"the broker's folder {folder} cannot be written"
        action = "give this account the right to write there, or set DKD_BROKER_FOLDER to another folder"
        return Finding(check="broker", status="error", message=message, action=action)
    return Finding(check="broker", status="ok", message=f"the folder {folder}")


def _redis_finding(url: str) -> Finding:
    shown = address_text(url)
    if find_spec("redis") is None:
        action = "pip install 'dkd-lab[train]', or [serve] on the backend's machine"
        message = f"{shown} needs the package redis, which is not installed"
        return Finding(check="broker", status="error", message=message, action=action)
    import redis

    try:
        # Protocol 2 needs no handshake beyond AUTH, so that the check also works with a server without HELLO.
        options = {"socket_connect_timeout": _REQUEST_SECONDS, "socket_timeout": _REQUEST_SECONDS, "protocol": 2}
        with redis.Redis.from_url(url, **options) as server:
            server.ping()
    except redis.AuthenticationError:
        action = "correct user and password in DKD_BROKER_URL"
        return Finding(check="broker", status="error", message=f"{shown} refuses the password", action=action)
    except (redis.RedisError, OSError, ValueError) as error:
        message = f"{shown} cannot be reached ({type(error).__name__})"
        action = "check DKD_BROKER_URL, the network, and that Redis runs; without it workers claim runs later"
        return Finding(check="broker", status="error", message=message, action=action)
    return Finding(check="broker", status="ok", message=f"{shown} responds")


def check_ports() -> Iterator[Finding]:
    """Check that the ports of a stack are free, or used by the stack of this home."""
    holder = HomeLock(Home.find().path).holder()
    stack_ports = {urlsplit(url).port for url in (holder.api_url, holder.dashboard_url) if url} if holder else set()
    free = []
    for name, port in STACK_PORTS.items():
        # A free port is reported first, because the lock file of a stack that was killed still names its ports.
        if ports.is_free(port):
            free.append(f"{port} ({name})")
        elif port in stack_ports:
            yield Finding(check="ports", status="ok", message=f"{port} is used by the {name} of the stack on this home")
        else:
            action = f"`dkd up` uses the next free port; {_port_option(name)} selects another"
            message = f"{port} ({name}) is used by another program"
            yield Finding(check="ports", status="warning", message=message, action=action)
    if free:
        yield Finding(check="ports", status="ok", message=f"{', '.join(free)} free")


def address_text(url: str) -> str:
    """Return an address without user, password, path and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the configured address"
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _no_backend(url: str, error: httpx.HTTPError) -> Finding:
    text = f"no backend answers at {address_text(url)} ({type(error).__name__})"
    if os.environ.get("DKD_API_URL"):
        action = "check DKD_API_URL and the network, and that the backend runs there"
        return Finding(check="backend", status="error", message=text, action=action)
    return Finding(check="backend", status="ok", message=f"{text}; `dkd up` starts one")


def _without_password(message: str) -> str:
    """Return a message of this program without the user and password of an address that it quotes."""
    return re.sub(r"//[^/@\s']*@", "//", message)


def _port_option(name: str) -> str:
    return "--port" if name == "backend" else "--dashboard-port"
