"""Converts failed requests to errors with a readable reason."""

from __future__ import annotations

import re
import ssl

import httpx
from pydantic import ValidationError

from client.errors import ApiError, BackendSilent, BackendUnreachable, InsecureConnection, NotABackend
from core.protocol.public import ProblemDetails

UNAVAILABLE = frozenset({502, 503, 504})
"""Statuses of a backend that is being restarted, or of a proxy in front of it."""

TOO_MANY_REQUESTS = 429
"""Status of a request that was not carried out, because there are too many."""

_TITLE_LENGTH = 100
_INSPECTED_CHARACTERS = 20_000


def error_of_response(response: httpx.Response, url: str) -> ApiError | NotABackend:
    """Return the error for a response whose status is not a success.

    Args:
        response: The response, already read.
        url: The backend's address.
    """
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        if response.status_code not in UNAVAILABLE:
            return NotABackend(url, describe_page(response))
        # A proxy in front of the backend has its own error pages.
        problem = ProblemDetails(
            title=response.reason_phrase or "not available",
            status=response.status_code,
            detail=f"the backend at {url} is not available now (status {response.status_code})",
        )
    return ApiError(response.status_code, problem, retry_after(response))


def retry_after(response: httpx.Response) -> float:
    """Return the seconds after which the server asks to repeat a request; 0 if it does not say."""
    try:
        return max(float(response.headers.get("Retry-After", 0)), 0.0)
    except ValueError:  # the header may also be a date
        return 0.0


def error_of_request(error: httpx.RequestError, url: str, proxy: object | None) -> BackendUnreachable:
    """Return the error for a request that got no usable response.

    Args:
        error: The exception that httpx raised.
        url: The backend's address.
        proxy: The proxy of the request, without credentials; None if the request used no proxy.
    """
    through = f"; through the proxy {proxy}" if proxy else ""
    if (tls_error := _tls_error(error)) is not None:
        return InsecureConnection(url, _tls_reason(tls_error) + through)
    if isinstance(error, httpx.DecodingError | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return NotABackend(url, f"its response cannot be read: {_one_line(error)}")
    if isinstance(error, httpx.ConnectTimeout):
        return BackendUnreachable(url, f"no connection in time{through}")
    if isinstance(error, httpx.TimeoutException):
        return BackendSilent(url, f"no response in time{through}")
    text = _one_line(error)
    if isinstance(error, httpx.ConnectError):
        text = "connection refused" if "refused" in text.lower() else text.partition("] ")[2] or text
    return BackendUnreachable(url, text + through)


def refuse_html(response: httpx.Response, url: str) -> None:
    """Check that a response, already read, is not a page for a browser; the backend sends none.

    Raises:
        NotABackend: The response is such a page.
    """
    if "html" in response.headers.get("Content-Type", ""):
        raise NotABackend(url, describe_page(response))


def describe_page(response: httpx.Response) -> str:
    """Describe a response that is not from a backend: its status, a redirect's target, the title of a page."""
    text = f"status {response.status_code}"
    if response.is_redirect:
        text += f", a redirect to {response.headers.get('Location', '')[:_TITLE_LENGTH]}"
    if "html" in response.headers.get("Content-Type", ""):
        title = re.search(r"<title[^>]*>([^<]+)", response.text[:_INSPECTED_CHARACTERS], re.IGNORECASE)
        text += f", a page titled {' '.join(title[1].split())[:_TITLE_LENGTH]!r}" if title else ", a page for a browser"
    return text


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    visited: list[BaseException] = []
    while error is not None and error not in visited and not isinstance(error, ssl.SSLError):
        visited.append(error)
        error = error.__cause__ or error.__context__
    return error if isinstance(error, ssl.SSLError) else None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return "it does not speak TLS; its address may begin with http://"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
