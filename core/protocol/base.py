"""What every shape on the wire has in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

RunState = Literal["waiting", "queued", "paused", "running", "cancelling", "succeeded", "failed", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Message(BaseModel):
    """Base of every answer. Unknown fields are ignored, so that an older client reads a newer backend."""

    # A number that is none would be null in JSON, which a client of ours refuses where a number is due. Databases of
    # older versions may hold one.
    model_config = ConfigDict(frozen=True, protected_namespaces=(), ser_json_inf_nan="strings")


class RequestBody(BaseModel):
    """Base of what is sent to the backend: a field that it does not know is refused, not passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
