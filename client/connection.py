"""One HTTP connection to a backend: address, token, retries, and replies read into typed models."""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from client.errors import (
    ApiError,
    BackendSilent,
    BackendUnreachable,
    ClientSettingsError,
    InsecureConnection,
    NotABackend,
)
from common.home import Home
from common.http_clients import HttpSettingsError, open_client, proxy_for
from common.token_files import read_token
from core.protocol.public import ProblemDetails
from core.specs import SpecError
from core.specs.problems import problems_of

_log = logging.getLogger(__name__)

API = "/api/v1"
DEFAULT_URL = "http://127.0.0.1:8000"

# Together under a second where nothing listens at all, so that a person who forgot `dkd up` is told at once.
_BACKOFF_SECONDS = (0.2, 0.5)
_LONGEST_WAIT = 5.0
_UPLOAD_SECONDS = 600.0
_TITLE_LENGTH = 100
_LOOKED_AT = 20_000
_PASSING = frozenset({502, 503, 504})

Reply = TypeVar("Reply", bound=BaseModel)
Body = TypeVar("Body", bound=BaseModel)
Query = Mapping[str, str | int | float | Sequence[str] | Sequence[int] | None]


def part(text: str) -> str:
    """A name as one part of a path: slashes, spaces and question marks are escaped."""
    return quote(text, safe="")


def body_of(kind: type[Body], **fields: Any) -> Body:
    """What a request sends. Raises SpecError with every field that the backend would refuse."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def find_url(given: str | None) -> str:
    """The backend's address: as given, else DKD_API_URL, else that of the stack on this home, else the default.

    Raises ClientSettingsError where it is not an http or https address.
    """
    return usable_url(given or os.environ.get("DKD_API_URL") or _first_line(Home.find().api_url) or DEFAULT_URL)


def usable_url(url: str) -> str:
    """The address without slashes at its end. Raises ClientSettingsError where it is not an http or https address."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientSettingsError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientSettingsError(f"{url!r} is not an address; it begins with http:// or https://")
    if parsed.port is not None and not 0 < parsed.port < 65_536:
        raise ClientSettingsError(f"{url!r} is not an address: its port is not from 1 to 65535")
    return url.rstrip("/")


def find_token(given: str | None, url: str, *, variable: str, local: Path) -> str | None:
    """The bearer token: as given, else of the environment, else the file that a stack on this home has made.

    The local file is only read for a backend on this machine: its token means nothing elsewhere, and must not leak.

    Args:
        variable: name of the environment variable; with ``_FILE`` behind it, of the one that names a file.
        local: the home's token file.

    Raises:
        ClientSettingsError: the file that is named holds no token, or a token cannot be one.
    """
    if token := given or os.environ.get(variable):
        return _sendable(token, "the token that was given" if given else variable)
    if named := os.environ.get(f"{variable}_FILE"):
        token = _token_in(Path(named))
        if not token:
            raise ClientSettingsError(f"{variable}_FILE names {named}, which holds no readable token")
        return _sendable(token, f"{variable}_FILE")
    return _token_in(local) if is_loopback(url) else None


def _token_in(file: Path) -> str | None:
    """The token in a file, which is made private where other accounts could read it; None where there is none."""
    try:
        found = read_token(file)
    except OSError:
        return None
    if found.warning:
        _log.warning(found.warning)
    return found.token or None


def _sendable(token: str, source: str) -> str:
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientSettingsError(f"{source} holds a character that no token has")
    return token


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """Sends requests and reads the replies. Safe to use from several threads.

    Args:
        url: of the backend, without ``/api/v1``.
        timeout: seconds for each of connect, read and write.
        transport: another way to send, for tests.

    Raises:
        ClientSettingsError: the environment names a proxy or certificates for this address that cannot be used.
    """

    def __init__(
        self, url: str, token: str | None, *, timeout: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url
        headers = {"Accept": "application/json, application/problem+json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._http = open_client(url, base_url=url, headers=headers, timeout=timeout, transport=transport)
            self._proxy = None if transport else proxy_for(url)
        except HttpSettingsError as error:
            raise ClientSettingsError(str(error)) from None

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        reply: type[Reply],
        *,
        body: BaseModel | Mapping[str, Any] | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """Send one request and read its reply.

        Args:
            body: sent as JSON.
            repeatable: whether sending it twice does no more than once; only then is it tried again after a lost
                connection or a 502, 503 or 504.

        Raises:
            ApiError: the backend refused it.
            BackendUnreachable: nothing usable answered.
        """
        response = self._request(method, path, body=body, query=query, headers=headers, repeatable=repeatable)
        return self._read(response, reply)

    def _read(self, response: httpx.Response, reply: type[Reply]) -> Reply:
        try:
            return reply.model_validate_json(response.content)
        except ValidationError as error:
            self._refuse_page(response)
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            what = f"{where}: {first['msg']}" if where else first["msg"]
            asked = f"{response.request.method} {response.request.url.path}"
            raise NotABackend(self.url, f"its reply to {asked} is no {reply.__name__}: {what}") from None

    def _refuse_page(self, response: httpx.Response) -> None:
        """Raises NotABackend for a page that is meant for a browser; the backend sends none."""
        if "html" in response.headers.get("Content-Type", ""):
            raise NotABackend(self.url, _page(response))

    def text(self, path: str, *, query: Query | None = None) -> str:
        """What a GET answers, as text: CSV, Markdown, LaTeX. Tried again as ``send`` does."""
        headers = {"Accept": "text/*, application/x-tex, application/json, application/problem+json"}
        response = self._request("GET", path, body=None, query=query, headers=headers, repeatable=True)
        self._refuse_page(response)
        return response.text

    def call(self, method: str, path: str) -> None:
        """Send a request without a body whose reply says nothing. It is not repeated."""
        self._request(method, path, body=None, query=None, headers=None, repeatable=False)

    def send_blocks(
        self, method: str, path: str, reply: type[Reply], *, blocks: Iterator[bytes], size: int, query: Query
    ) -> Reply:
        """Send a body of that size as it comes, once, and read the reply."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        params = {key: str(value) for key, value in query.items()}
        # The backend checks the whole file before it answers.
        timeout = httpx.Timeout(self._http.timeout.connect, read=_UPLOAD_SECONDS)
        try:
            response = self._http.request(method, path, content=blocks, params=params, headers=headers, timeout=timeout)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise self._refusal(response)
        return self._read(response, reply)

    @contextmanager
    def blocks(
        self, path: str, *, headers: Mapping[str, str]
    ) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """The status of a GET, its headers, and its body as it comes: the file's own bytes, which ranges count."""
        try:
            with self._http.stream("GET", path, headers={**headers, "Accept-Encoding": "identity"}) as response:
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                if "html" in response.headers.get("Content-Type", ""):
                    response.read()
                    self._refuse_page(response)
                yield response.status_code, response.headers, response.iter_bytes()
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def post(self, path: str, body: BaseModel) -> None:
        """Send a request whose reply says nothing. It is not repeated."""
        self._request("POST", path, body=body, query=None, headers=None, repeatable=False)

    def status(self, path: str) -> int | None:
        """The status of a GET, tried once; None where nothing answers."""
        try:
            return self._http.get(path).status_code
        except httpx.HTTPError:
            return None

    @contextmanager
    def lines(self, path: str, *, headers: Mapping[str, str], silence: float) -> Iterator[Iterator[str]]:
        """The lines of a reply as they come; BackendUnreachable after ``silence`` seconds without one."""
        timeout = httpx.Timeout(self._http.timeout.connect, read=silence)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                if "html" in response.headers.get("Content-Type", ""):
                    response.read()
                    self._refuse_page(response)
                yield response.iter_lines()
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | Mapping[str, Any] | None,
        query: Query | None,
        headers: Mapping[str, str] | None,
        repeatable: bool,
    ) -> httpx.Response:
        sent = dict(headers or {})
        content: str | None = None
        if isinstance(body, BaseModel):
            content = body.model_dump_json()
        elif body is not None:
            content = _json(body)
        if content is not None:
            sent["Content-Type"] = "application/json"
        request = self._http.build_request(
            method,
            path,
            content=content,
            params=httpx.QueryParams({key: _plain(value) for key, value in (query or {}).items() if value is not None}),
            headers=sent,
        )
        waits = iter(_BACKOFF_SECONDS if repeatable else ())
        while True:
            try:
                response = self._http.send(request)
            except httpx.RequestError as error:
                # One that has let the whole time go by would let it go by again.
                wait = None if isinstance(error, httpx.ReadTimeout) else next(waits, None)
                if wait is None:
                    raise self._unreachable(error) from error
            else:
                if response.is_success:
                    return response
                wait = next(waits, None) if response.status_code in _PASSING else None
                if wait is None:
                    raise self._refusal(response)
                wait = max(wait, _retry_after(response))
            # Spread, so that many clients of a backend that comes back do not all return at one instant.
            time.sleep(wait * random.uniform(0.8, 1.2))

    def _refusal(self, response: httpx.Response) -> ApiError | NotABackend:
        try:
            problem = ProblemDetails.model_validate_json(response.content)
        except ValidationError:
            if response.status_code in _PASSING:  # a proxy in front answers in words of its own
                problem = ProblemDetails(
                    title=response.reason_phrase or "not available",
                    status=response.status_code,
                    detail=f"the backend at {self.url} is not available now (status {response.status_code})",
                )
            else:
                return NotABackend(self.url, _page(response))
        return ApiError(response.status_code, problem)

    def _unreachable(self, error: httpx.RequestError) -> BackendUnreachable:
        """What a person is told of a request without an answer, and of which kind it is."""
        through = f"; through the proxy {self._proxy}" if self._proxy else ""
        if (secure := _tls_error(error)) is not None:
            return InsecureConnection(self.url, _tls_reason(secure) + through)
        if isinstance(error, httpx.DecodingError | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return NotABackend(self.url, f"its answer cannot be read: {_one_line(error)}")
        if isinstance(error, httpx.ConnectTimeout):
            return BackendUnreachable(self.url, f"no connection in time{through}")
        if isinstance(error, httpx.TimeoutException):
            return BackendSilent(self.url, f"no answer in time{through}")
        text = _one_line(error)
        if isinstance(error, httpx.ConnectError):
            text = "connection refused" if "refused" in text.lower() else text.partition("] ")[2] or text
        return BackendUnreachable(self.url, text + through)


def _json(body: Mapping[str, Any]) -> str:
    import json

    try:
        return json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ClientSettingsError(f"the request cannot be written as JSON: {error}") from None


def _plain(value: str | int | float | Sequence[str] | Sequence[int]) -> str | list[str]:
    return str(value) if isinstance(value, str | int | float) else [str(item) for item in value]


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(max(float(response.headers.get("Retry-After", 0)), 0.0), _LONGEST_WAIT)
    except ValueError:  # the header may also be a date
        return 0.0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    seen: list[BaseException] = []
    while error is not None and error not in seen and not isinstance(error, ssl.SSLError):
        seen.append(error)
        error = error.__cause__ or error.__context__
    return error if isinstance(error, ssl.SSLError) else None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return "it does not speak TLS; its address may begin with http://"
    return _one_line(error)


def _page(response: httpx.Response) -> str:
    """What answered in place of the backend: its status, and the title of a page."""
    said = f"status {response.status_code}"
    if response.is_redirect:
        said += f", which sends on to {response.headers.get('Location', '')[:_TITLE_LENGTH]}"
    if "html" in response.headers.get("Content-Type", ""):
        title = re.search(r"<title[^>]*>([^<]+)", response.text[:_LOOKED_AT], re.IGNORECASE)
        said += f", a page titled {' '.join(title[1].split())[:_TITLE_LENGTH]!r}" if title else ", a page for a browser"
    return said


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip().split("\n", 1)[0].strip() or None
    except (OSError, UnicodeDecodeError):
        return None
