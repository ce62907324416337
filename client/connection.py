"""HTTP requests to one backend, with its address, token and retries; responses are parsed into typed models."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import BaseModel, ValidationError

from client.bearer import BearerAuth
from client.errors import ClientSettingsError, NotABackend
from client.failures import (
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    describe_page,
    error_of_request,
    error_of_response,
    refuse_html,
    retry_after,
)
from common.http_clients import HttpSettingsError, open_client, proxy_for
from core.protocol.access import TokenEnd
from core.specs import SpecError
from core.specs.problems import problems_of

API = "/api/v1"

# Less than a second in total, so that a person who has not started a backend gets the error at once.
_BACKOFF_SECONDS = (0.2, 0.5)
_MAX_RETRY_AFTER_SECONDS = 5.0
_UPLOAD_SECONDS = 600.0

Reply = TypeVar("Reply", bound=BaseModel)
Body = TypeVar("Body", bound=BaseModel)
Query = Mapping[str, str | int | float | Sequence[str] | Sequence[int] | None]


def path_segment(text: str) -> str:
    """Escape a name so that it is one segment of a path, even if it contains slashes, spaces or question marks."""
    return quote(text, safe="")


def build_body(kind: type[Body], **fields: Any) -> Body:
    """Build a request body.

    Raises:
        SpecError: The backend would refuse the body; the error names every invalid field.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


class Connection:
    """Sends requests to a backend and parses its responses. Safe to use from several threads.

    Every method that sends a request raises ApiError if the backend refuses it, and BackendUnreachable if it gets no
    usable response.

    Args:
        url: The backend's address, without ``/api/v1``.
        read_token: Returns the bearer token, if any. Called again if the token is refused or has been replaced.
        timeout: Time limit of connecting, of reading and of writing, in seconds each.
        patient: Whether to wait and to repeat a request that the backend refuses because there are too many.
        project: Name of the only project that the requests see; None for all that the token permits.
        forwarded_for: Address of the client for which a server in between sends the requests.
        transport: Replaces the network in tests.

    Raises:
        ClientSettingsError: The token cannot be read, or the environment names a proxy or certificates for this address
            that cannot be used.
    """

    def __init__(
        self,
        url: str,
        read_token: Callable[[], str | None],
        *,
        timeout: float,
        patient: bool = True,
        project: str | None = None,
        forwarded_for: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._patient = patient
        self._auth = BearerAuth(read_token)
        headers = {"Accept": "application/json, application/problem+json"}
        if project is not None:
            headers["X-DKD-Project"] = project
        if forwarded_for is not None:
            headers["X-Forwarded-For"] = forwarded_for
        try:
            self._http = open_client(
                url, base_url=url, headers=headers, timeout=timeout, transport=transport, auth=self._auth
            )
            self._proxy = None if transport else proxy_for(url)
        except HttpSettingsError as error:
            raise ClientSettingsError(str(error)) from None

    @property
    def token_end(self) -> TokenEnd | None:
        """The end of the token that the newest response announced; None if the token does not end soon."""
        return self._auth.end

    def close(self) -> None:
        """Close the pooled connections."""
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
        idempotent: bool = False,
    ) -> Reply:
        """Send one request and parse its response.

        Args:
            method: The HTTP method.
            path: The path with ``/api/v1``.
            reply: Type of the returned model.
            body: The body, which is sent as JSON.
            query: Query parameters; parameters that are None are not sent.
            headers: Further request headers.
            idempotent: Whether the request may be sent twice. If so, it is repeated after a lost connection or a status
                502, 503 or 504. After a status 429, with which nothing was done, every request is repeated.
        """
        response = self._request(method, path, body=body, query=query, headers=headers, idempotent=idempotent)
        return self._parse(response, reply)

    def get_text(self, path: str, *, query: Query | None = None, page: str = "") -> str:
        """Return the text (CSV, Markdown, LaTeX) of a GET request, which is repeated like an idempotent ``send``.

        Args:
            path: Path of the request.
            query: Query parameters; parameters that are None are not sent.
            page: The id of an element of the page, if the text is a page of the backend; another page is refused.
        """
        headers = {"Accept": "text/*, application/x-tex, application/json, application/problem+json"}
        response = self._request("GET", path, body=None, query=query, headers=headers, idempotent=True)
        if not page or f'id="{page}"' not in response.text:
            refuse_html(response, self.url)
        return response.text

    def send_empty(self, method: str, path: str, *, body: BaseModel | None = None) -> None:
        """Send a request whose response has no content. It is repeated only after a status 429."""
        self._request(method, path, body=body, query=None, headers=None, idempotent=False)

    def upload(
        self, method: str, path: str, reply: type[Reply], *, blocks: Iterator[bytes], size: int, query: Query
    ) -> Reply:
        """Send a body of ``size`` bytes block by block, once, and parse the response."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        params = {key: str(value) for key, value in query.items()}
        # The backend checks the complete file before it responds.
        timeout = httpx.Timeout(self._http.timeout.connect, read=_UPLOAD_SECONDS)
        try:
            response = self._http.request(method, path, content=blocks, params=params, headers=headers, timeout=timeout)
        except httpx.RequestError as error:
            raise error_of_request(error, self.url, self._proxy) from error
        if not response.is_success:
            raise error_of_response(response, self.url)
        return self._parse(response, reply)

    @contextmanager
    def download(
        self, path: str, *, headers: Mapping[str, str]
    ) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """Stream a GET request: yield its status, its headers, and the bytes of the file, to which ranges refer."""
        with self._stream(path, headers={**headers, "Accept-Encoding": "identity"}) as response:
            yield response.status_code, response.headers, response.iter_bytes()

    @contextmanager
    def event_source(self, path: str, *, headers: Mapping[str, str], read_timeout: float) -> Iterator[EventSource]:
        """Open a stream of server-sent events.

        Args:
            path: The path with ``/api/v1``.
            headers: Further request headers.
            read_timeout: Maximum number of seconds without a line.

        Raises:
            BackendUnreachable: No line came for ``read_timeout`` seconds.
            NotABackend: The response is not an event stream.
        """
        timeout = httpx.Timeout(self._http.timeout.connect, read=read_timeout)
        with self._stream(path, headers=headers, timeout=timeout) as response:
            try:
                yield EventSource(response)
            except SSEError as error:
                raise NotABackend(self.url, f"{describe_page(response)}: {error}") from None

    def probe_status(self, path: str) -> int | None:
        """Return the status of one GET request; None if there is no response. Never raises."""
        try:
            return self._http.get(path).status_code
        except httpx.HTTPError:
            return None

    @contextmanager
    def _stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        delays = iter(_BACKOFF_SECONDS)
        try:
            while True:
                with self._http.stream("GET", path, **options) as response:
                    delay = self._delay(response, next(delays, None), idempotent=False)
                    if delay is None:
                        if not response.is_success:
                            response.read()
                            raise error_of_response(response, self.url)
                        if "html" in response.headers.get("Content-Type", ""):
                            response.read()
                            refuse_html(response, self.url)
                        yield response
                        return
                time.sleep(delay)
        except httpx.RequestError as error:
            raise error_of_request(error, self.url, self._proxy) from error

    def _delay(self, response: httpx.Response, backoff: float | None, *, idempotent: bool) -> float | None:
        """Return the seconds after which a refused request is repeated; None if it is not."""
        limited = self._patient and response.status_code == TOO_MANY_REQUESTS
        if backoff is None or not (limited or (idempotent and response.status_code in UNAVAILABLE)):
            return None
        # Jitter, so that the clients of a restarted backend do not all repeat their requests at the same moment. It
        # only adds to what the backend demands.
        return backoff * random.uniform(0.8, 1.2) + min(retry_after(response), _MAX_RETRY_AFTER_SECONDS)

    def _parse(self, response: httpx.Response, reply: type[Reply]) -> Reply:
        try:
            return reply.model_validate_json(response.content)
        except ValidationError as error:
            refuse_html(response, self.url)
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            message = f"{field}: {first['msg']}" if field else first["msg"]
            request = f"{response.request.method} {response.request.url.path}"
            raise NotABackend(
                self.url, f"its response to {request} is not a valid {reply.__name__}: {message}"
            ) from None

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | Mapping[str, Any] | None,
        query: Query | None,
        headers: Mapping[str, str] | None,
        idempotent: bool,
    ) -> httpx.Response:
        all_headers = dict(headers or {})
        content: str | None = None
        if isinstance(body, BaseModel):
            content = body.model_dump_json()
        elif body is not None:
            content = _to_json(body)
        if content is not None:
            all_headers["Content-Type"] = "application/json"
        params = {key: _query_value(value) for key, value in (query or {}).items() if value is not None}
        request = self._http.build_request(
            method, path, content=content, params=httpx.QueryParams(params), headers=all_headers
        )
        delays = iter(_BACKOFF_SECONDS)
        while True:
            try:
                response = self._http.send(request)
            except httpx.RequestError as error:
                # A request that has exceeded its read timeout would exceed it again.
                backoff = next(delays, None) if idempotent and not isinstance(error, httpx.ReadTimeout) else None
                if backoff is None:
                    raise error_of_request(error, self.url, self._proxy) from error
                time.sleep(backoff * random.uniform(0.8, 1.2))
            else:
                if response.is_success:
                    return response
                delay = self._delay(response, next(delays, None), idempotent=idempotent)
                if delay is None:
                    raise error_of_response(response, self.url)
                time.sleep(delay)


def _to_json(body: Mapping[str, Any]) -> str:
    try:
        return json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ClientSettingsError(f"the request cannot be written as JSON: {error}") from None


def _query_value(value: str | int | float | Sequence[str] | Sequence[int]) -> str | list[str]:
    return str(value) if isinstance(value, str | int | float) else [str(item) for item in value]
