"""The worker's settings, read from ``DKD_…`` variables of the environment."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from common.home import Home
from common.object_store import parse_artifacts
from common.processors import default_cpu_slots, thread_share
from common.service_settings import Seconds, ServiceSettings
from core.protocol.worker import WorkerLabel, WorkerName
from worker.training_groups import group_command


def _home() -> Path:
    return Home.find().path


class WorkerSettings(ServiceSettings):
    """Settings that are read once, when the worker starts.

    The backend's address and token are not among them: the client reads them each time it connects, from DKD_API_URL,
    DKD_WORKER_TOKEN and DKD_WORKER_TOKEN_FILE or from the stack's files in the home. A stack that starts together with
    its worker writes these files after the worker has started.
    """

    model_config = SettingsConfigDict(env_prefix="DKD_", frozen=True, extra="ignore")

    api_url: str | None = Field(None, description="The backend's address.")
    home: Path = Field(
        default_factory=_home, description="Folder of the embedded stack, which also contains the workers' ids."
    )
    artifacts: Path | str | None = Field(
        None, description="The artifact store: a folder or s3://bucket/prefix; by default artifacts in the home."
    )
    scratch: Path | None = Field(
        None, description="Folder for trainings if the artifact store is not a folder; by default scratch in the home."
    )
    broker_url: str = Field("filesystem://", description="Address of Celery's broker.")
    broker_folder: Path | None = Field(
        None, description="Folder of the filesystem:// broker; by default broker in the home."
    )
    worker_name: WorkerName = Field(
        default_factory=socket.gethostname, description="Name of the worker; by default the host name."
    )
    slots: int | None = Field(
        None, ge=1, le=1024, description="Concurrent trainings; by default runs_per_gpu on each GPU, or cpu_slots."
    )
    cpu_slots: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Concurrent trainings on a machine without GPUs; by default one per processor, on more than eight "
        "processors fewer.",
    )
    runs_per_gpu: int = Field(1, ge=1, le=64, description="Trainings that share a GPU.")
    share_gpus: bool = Field(False, description="Use a GPU even if somebody else's process computes on it.")
    group_runs: Literal["off", "auto", "on"] = Field(
        "off",
        description="Train runs with the same data and teacher in one process. auto: on GPUs that several trainings "
        "share without MPS; on: always.",
    )
    mps: Literal["off", "auto", "start"] = Field(
        "auto",
        description="NVIDIA's MPS for trainings that share a GPU. auto: if its daemon runs; start: start a daemon.",
    )
    mps_thread_percentage: int | None = Field(
        None, ge=1, le=100, description="With MPS: share of a GPU's multiprocessors that a training may use, %."
    )
    mps_memory_gb: float | None = Field(
        None, gt=0, le=1e6, description="With MPS: memory of a GPU that a training may use, in GiB."
    )
    labels: Annotated[tuple[WorkerLabel, ...], NoDecode] = Field(
        (), max_length=32, description="Labels that runs can require in resources.labels."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto: the GPUs if there are any; cpu: no GPU; gpu: refuse to start without one."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a training; by default by its work, at most processors / slots."
    )
    grace_seconds: Seconds = Field(
        30.0, gt=0, description="Time for a training to write a checkpoint before it is killed."
    )
    margin_seconds: Seconds = Field(10.0, gt=0, description="Time between a training's end and the end of its lease.")
    linger_seconds: Seconds = Field(
        20.0, gt=0, description="Time for a process to end after its training has reported its end."
    )
    gpu_seconds: Seconds = Field(
        15.0, description="Time for the driver to free a GPU's memory after a training has ended."
    )
    report_seconds: Seconds | None = Field(
        None,
        gt=0,
        description="Time for the last reports of a worker that shuts down; by default 5, or 30 if the artifact store "
        "is not a folder.",
    )
    store_seconds: Seconds = Field(
        600.0, gt=0, description="Time to upload a trained run's files to an artifact store that is not a folder."
    )
    heartbeat_file: Path | None = Field(
        None, description="File that is touched while the worker is alive, for health checks."
    )
    training_command: tuple[str, ...] = Field(
        (sys.executable, "-m", "core", "train"), min_length=1, description="The training command, a JSON list."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _check_group_command(self) -> Self:
        if self.group_runs != "off":
            group_command(self.training_command)
        return self

    @field_validator("artifacts", mode="before")
    @classmethod
    def _store(cls, value: Any) -> Path | str | None:
        return None if value is None else parse_artifacts(value)

    @property
    def artifact_url(self) -> str | None:
        """The artifact store's address; None if the store is a folder."""
        return self.artifacts if isinstance(self.artifacts, str) else None

    @property
    def artifact_root(self) -> Path:
        """The folder to which trainings write: the artifact store itself if it is a folder."""
        if isinstance(self.artifacts, str):
            return (self.scratch or Home(self.home).scratch).absolute()
        return (self.artifacts or Home(self.home).artifacts).absolute()

    @property
    def report_limit(self) -> float:
        """Seconds for the last reports. The default is longer if the last checkpoint must be uploaded first."""
        return self.report_seconds or (30.0 if self.artifact_url else 5.0)

    @property
    def broker(self) -> Path:
        """Folder of the filesystem:// broker."""
        return (self.broker_folder or Home(self.home).broker).absolute()

    def slots_on(self, gpus: int) -> int:
        """Return the number of concurrent trainings on a machine with ``gpus`` usable GPUs."""
        return self.slots or (gpus * self.runs_per_gpu if gpus else self.cpu_slots or default_cpu_slots())

    def threads_share(self, slots: int) -> int:
        """Return the number of CPU threads that one of ``slots`` concurrent trainings may use."""
        return thread_share(slots)
