"""What can go wrong between a caller and the backend. The text of each is one sentence for a person."""

from __future__ import annotations

from core.wire.public import ProblemDetails


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
    """Nothing usable answers at the backend's address.

    Attributes:
        url: the address that was tried.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"no backend answers at {url} ({reason})")


class NotABackend(BackendUnreachable):
    """Something answers at the address, but it does not speak this interface: another program, or another version."""


class ClientSettingsError(ValueError):
    """An address or a token file that cannot be used, found before any request."""
