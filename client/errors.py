"""What can go wrong between a caller and the backend. The text of each is one sentence for a person."""

from __future__ import annotations

from core.protocol.public import ProblemDetails


class ApiError(Exception):
    """The backend refused a request.

    Attributes:
        status: HTTP status.
        problem: what it said; for 422 with the path of every refused field.
    """

    def __init__(self, status: int, problem: ProblemDetails) -> None:
        self.status = status
        self.problem = problem
        text = problem.detail or problem.title
        if problem.errors:
            text = "; ".join(f"{item.path}: {item.message}" if item.path else item.message for item in problem.errors)
        super().__init__(" ".join(text.split()) or f"the backend answered with status {status}")


class BackendUnreachable(Exception):  # noqa: N818 (a state of the world more than a fault of the caller)
    """Nothing usable answers at the backend's address; its subclasses say in which way.

    Attributes:
        url: the address that was tried.
        reason: what happened, in a few words.
        hint: what a person may do.
    """

    sentence = "no backend answers at {url} ({reason})"
    hint = "start one with `dkd up`, or name another in DKD_API_URL"

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(self.sentence.replace("{url}", url).replace("{reason}", reason))


class BackendSilent(BackendUnreachable):
    """A connection was made, and no answer came in time. Whether the request was carried out is not known."""

    sentence = "the backend at {url} does not answer ({reason})"
    hint = "it may be busy, or wait for its disk or database: try again, and look into its log"


class NotABackend(BackendUnreachable):
    """Something answers at the address, but it does not speak this interface: another program, or another version."""

    sentence = "what answers at {url} is no DKD Lab backend of this version ({reason})"
    hint = "look at the address in DKD_API_URL, and at what stands in front of the backend"


class InsecureConnection(BackendUnreachable):
    """TLS could not be agreed on: a certificate that is not trusted, or a side that does not speak TLS."""

    sentence = "no secure connection to {url} ({reason})"
    hint = "SSL_CERT_FILE names a file of certificates to trust instead; DKD_API_URL the address"


class ClientSettingsError(ValueError):
    """An address, a token file or a proxy that cannot be used, found before any request."""
