"""Files: artifacts of runs, and uploaded weights of teachers."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.protocol.base import Message, RunState
from core.protocol.metrics import LogLine, MetricsReply
from core.protocol.people import DEFAULT_PROJECT
from core.protocol.runs import RunProgress

UPLOAD = "upload:"
"""Prefix of ``teacher.weights.source`` for an uploaded file; its name or its SHA-256 follows."""


UPLOAD_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Names that uploaded weights may have."""


class Artifact(Message):
    """A file of a run."""

    id: str = Field(description="Id for the download.")
    attempt: int
    name: str = Field(description="Path in the attempt's folder, such as weights.safetensors.")
    size: int = Field(description="Bytes.")


class ArtifactList(Message):
    run_id: str
    items: list[Artifact] = Field(description="Files of the newest attempt first.")


class Upload(Message):
    """Uploaded weights. A spec names them as `teacher: {weights: "upload:NAME"}`."""

    sha256: str
    name: str
    size: int = Field(description="Bytes.")
    tensors: int
    parameters: int = Field(description="Number of values in all tensors.")
    submitted_by: str
    project: str = Field(DEFAULT_PROJECT, description="Name of its project.")
    created_at: datetime


class UploadList(Message):
    items: list[Upload]
    max_bytes: int = Field(description="Maximum size; a larger file is refused.")


class RunUpdates(Message):
    """Events of a run since a cursor: the content of its event stream, for clients that cannot read a stream."""

    run_id: str
    cursor: str = Field(description="Pass it in the next request to get the events that follow.")
    state: RunState
    progress: RunProgress
    metrics: MetricsReply
    lines: list[LogLine]
    ended: bool = Field(description="The run has ended, and no more events follow.")
