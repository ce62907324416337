"""The worker's settings: ``DKD_…`` in the environment."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from common.home import Home
from common.object_store import parse_artifacts
from common.service_settings import ServiceSettings
from core.protocol.worker import WorkerName
from core.specs import WorkerLabel


def _home() -> Path:
    return Home.find().path


def _processors() -> int:
    if sys.platform == "linux":  # less than the machine has, in a container or under taskset
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerSettings(ServiceSettings):
    """Read once, when the worker starts.

    The address and the token of the backend (DKD_API_URL, DKD_WORKER_TOKEN, DKD_WORKER_TOKEN_FILE, else what the
    stack on this home has written) are read by the client each time it connects, since a stack that is started
    together with its worker writes them later.
    """

    model_config = SettingsConfigDict(env_prefix="DKD_", frozen=True, extra="ignore")

    api_url: str | None = Field(None, description="The backend's address.")
    home: Path = Field(default_factory=_home, description="Folder of the embedded stack; ids of workers lie in it.")
    artifacts: Path | str | None = Field(
        None, description="The artifact store: a folder, or s3://bucket/prefix; artifacts in the home otherwise."
    )
    scratch: Path | None = Field(
        None, description="Where to train while the artifact store is no folder; scratch in the home otherwise."
    )
    broker_url: str = Field("filesystem://", description="Of Celery's broker.")
    broker_folder: Path | None = Field(None, description="For filesystem://; broker in the home otherwise.")
    worker_name: WorkerName = Field(default_factory=socket.gethostname)
    slots: int | None = Field(
        None, ge=1, le=1024, description="Trainings at one time; otherwise runs_per_gpu on each GPU, or cpu_slots."
    )
    cpu_slots: int = Field(1, ge=1, le=1024, description="Trainings at one time on a machine without GPUs.")
    runs_per_gpu: int = Field(1, ge=1, le=64, description="Trainings that share a GPU.")
    share_gpus: bool = Field(False, description="Use a GPU also while somebody else's process computes on it.")
    labels: Annotated[tuple[WorkerLabel, ...], NoDecode] = Field(
        (), max_length=32, description="What runs may ask for in resources.labels."
    )
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a training; processors / slots otherwise, and one for a small one."
    )
    grace_seconds: float = Field(30.0, gt=0, description="For a training to write a checkpoint, before it is killed.")
    margin_seconds: float = Field(10.0, gt=0, description="Between a training's end and the end of its lease.")
    linger_seconds: float = Field(20.0, gt=0, description="For a process to go after it said that it has finished.")
    gpu_seconds: float = Field(15.0, ge=0, description="For the driver to free a GPU's memory once a training is gone.")
    report_seconds: float | None = Field(
        None, gt=0, description="For the last reports of a worker that leaves; 5, or 30 with a store that is no folder."
    )
    store_seconds: float = Field(
        600.0, gt=0, description="To put a trained run's files into a store that is no folder, before it is given up."
    )
    heartbeat_file: Path | None = Field(None, description="Touched while the worker lives, for health checks.")
    training_command: tuple[str, ...] = Field(
        (sys.executable, "-m", "core", "train"), min_length=1, description="What trains; a JSON list."
    )

    plugins: Annotated[tuple[str, ...], NoDecode] = Field((), description="Modules that add entries to the catalog.")

    @field_validator("plugins", "labels", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("artifacts", mode="before")
    @classmethod
    def _store(cls, value: Any) -> Path | str | None:
        return None if value is None else parse_artifacts(value)

    @property
    def artifact_url(self) -> str | None:
        """The artifact store's address; None where it is a folder."""
        return self.artifacts if isinstance(self.artifacts, str) else None

    @property
    def artifact_root(self) -> Path:
        """The folder that trainings write to: the artifact store itself, where that is a folder."""
        if isinstance(self.artifacts, str):
            return (self.scratch or Home(self.home).scratch).absolute()
        return (self.artifacts or Home(self.home).artifacts).absolute()

    @property
    def report_limit(self) -> float:
        """Seconds; a last checkpoint has to be in the store before it can be reported."""
        return self.report_seconds or (30.0 if self.artifact_url else 5.0)

    @property
    def broker(self) -> Path:
        return (self.broker_folder or Home(self.home).broker).absolute()

    def slots_on(self, gpus: int) -> int:
        """Trainings at one time on a machine with so many GPUs to use."""
        return self.slots or (gpus * self.runs_per_gpu if gpus else self.cpu_slots)

    def threads_share(self, slots: int) -> int:
        """CPU threads that one training may use where so many run at one time."""
        return max(1, _processors() // slots)
