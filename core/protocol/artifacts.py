"""Files: what runs leave behind, and teachers' weights that people upload."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.protocol.base import Message, RunState
from core.protocol.public import LogLine, MetricsReply, RunProgress

UPLOAD = "upload:"
"""What ``teacher.weights.source`` begins with for an uploaded file; behind it its name or SHA-256."""


UPLOAD_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What uploaded weights may be called."""


class Artifact(Message):
    """A file of a run."""

    id: str = Field(description="What a download names it by.")
    attempt: int
    name: str = Field(description="Within the attempt's folder, as weights.safetensors.")
    size: int = Field(description="Bytes.")


class ArtifactList(Message):
    run_id: str
    items: list[Artifact] = Field(description="The newest attempt first.")


class Upload(Message):
    """Uploaded weights. A spec names them as `teacher: {weights: "upload:NAME"}`."""

    sha256: str
    name: str
    size: int = Field(description="Bytes.")
    tensors: int
    parameters: int = Field(description="Numbers in all tensors.")
    submitted_by: str
    created_at: datetime


class UploadList(Message):
    items: list[Upload]
    max_bytes: int = Field(description="A larger file is refused.")


class RunUpdates(Message):
    """What has happened to a run since a cursor: what the stream of its events sends, for what cannot read one."""

    run_id: str
    cursor: str = Field(description="Ask again with it for what comes next.")
    state: RunState
    progress: RunProgress
    metrics: MetricsReply
    lines: list[LogLine]
    ended: bool = Field(description="The run has ended and everything is said.")
