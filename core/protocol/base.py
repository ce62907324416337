"""Bases of everything that travels over HTTP, and the shapes that every resource uses."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

RunState = Literal["waiting", "queued", "paused", "running", "cancelling", "succeeded", "failed", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Message(BaseModel):
    """Base of every message. Unknown fields are ignored, so that an older client reads a newer backend."""

    # NaN and infinities would be null in JSON, which the client refuses for a number. Databases of older versions may
    # contain them.
    model_config = ConfigDict(frozen=True, protected_namespaces=(), ser_json_inf_nan="strings")


class RequestBody(BaseModel):
    """Base of request bodies. Unknown fields are refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProblemField(Message):
    """A refused field, with its path, such as ``methods.1.params.alpha``."""

    path: str
    message: str


class ProblemDetails(Message):
    """An error after RFC 9457, sent as ``application/problem+json``."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ProblemField] = Field(default_factory=list, description="For status 422: every refused field.")


class Page(Message):
    """Part of a list. ``next_cursor`` is opaque, and null on the last page."""

    next_cursor: str | None = None
    total: int | None = Field(None, description="Number of items on all pages; null unless it was requested.")
