"""Errors of requests to the backend. The text of each error is one sentence for people."""

from __future__ import annotations

from core.protocol.public import ProblemDetails


class ApiError(Exception):
    """The backend refused a request.

    Attributes:
        status: The HTTP status.
        problem: The problem details that the backend sent; for status 422 they contain the path of every refused field.
        retry_after: Seconds after which the backend asks to repeat the request; 0 if it does not say.
    """

    def __init__(self, status: int, problem: ProblemDetails, retry_after: float = 0.0) -> None:
        self.status = status
        self.problem = problem
        self.retry_after = retry_after
        text = problem.detail or problem.title
        if problem.errors:
            text = "; ".join(f"{item.path}: {item.message}" if item.path else item.message for item in problem.errors)
        super().__init__(" ".join(text.split()) or f"the backend responded with status {status}")


class BackendUnreachable(Exception):  # noqa: N818 (a condition of the network, not a mistake of the caller)
    """The backend's address gives no usable response. Subclasses distinguish the cases.

    Attributes:
        url: The address that was tried.
        reason: The cause, in a few words.
        hint: How a person can solve the problem.
    """

    sentence = "no backend answers at {url} ({reason})"
    hint = "start one with `dkd up`, or set DKD_API_URL to another address"

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(self.sentence.replace("{url}", url).replace("{reason}", reason))


class BackendSilent(BackendUnreachable):
    """A connection was opened, but no response came in time. It is unknown whether the request was carried out."""

    sentence = "the backend at {url} does not answer ({reason})"
    hint = "it may be busy, or wait for its disk or database: try again, and look into its log"


class NotABackend(BackendUnreachable):
    """Another program, or another version of the backend, serves the address."""

    sentence = "the server at {url} is not a DKD Lab backend of this version ({reason})"
    hint = "check the address in DKD_API_URL, and any proxy in front of the backend"


class InsecureConnection(BackendUnreachable):
    """The TLS handshake failed: a certificate that is not trusted, or a peer that does not speak TLS."""

    sentence = "no secure connection to {url} ({reason})"
    hint = "check the address in DKD_API_URL; SSL_CERT_FILE can name a file of certificates to trust"


class ClientSettingsError(ValueError):
    """An address, a token file or a proxy cannot be used. The error is raised before any request is sent."""
