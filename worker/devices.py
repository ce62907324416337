"""The machine's devices, and a training's environment: GPUs, threads, cache. Does not import torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.events import GPUS_GIVEN, MOST_THREADS, THREADS
from worker.process_tree import WORKER_MARK

_SECRETS = (
    "DKD_WORKER_TOKEN",
    "DKD_WORKER_TOKEN_FILE",
    "DKD_API_TOKEN",
    "DKD_API_TOKEN_FILE",
    "DKD_DATABASE_URL",
    "DKD_BROKER_URL",  # may contain a password
    "DKD_SECRETS",
)
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class DeviceError(ValueError):
    """The settings require a device that this machine does not have."""


@dataclass(frozen=True)
class Devices:
    """The devices of one worker.

    Attributes:
        gpus: The GPUs as CUDA_VISIBLE_DEVICES names them; empty on a CPU worker.
    """

    gpus: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["cpu", "gpu"]:
        """Kind of the worker: ``gpu`` if it has a GPU, otherwise ``cpu``."""
        return "gpu" if self.gpus else "cpu"

    def environment(self, gpus: Sequence[int]) -> dict[str, str]:
        """Return the variables that restrict a training to these GPUs, counted from 0; without GPUs, to the CPU."""
        return {_VISIBLE: ",".join(self.gpus[gpu] for gpu in gpus), GPUS_GIVEN: str(len(gpus))}


def find_devices(requested: Literal["auto", "cpu", "gpu"], environment: Mapping[str, str] = os.environ) -> Devices:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names or, if it is not set, the GPUs that nvidia-smi lists.

    Args:
        requested: ``auto`` uses the GPUs if there are any; ``cpu`` uses no GPU; ``gpu`` requires a GPU.
        environment: Environment of this process.

    Raises:
        DeviceError: ``requested`` is ``gpu``, and there is no GPU.
    """
    gpus = () if requested == "cpu" else _gpus(environment.get(_VISIBLE))
    if requested == "gpu" and not gpus:
        raise DeviceError(
            "DKD_DEVICE is gpu, but there is no GPU: nvidia-smi lists none, or CUDA_VISIBLE_DEVICES is empty"
        )
    return Devices(gpus)


def training_environment(
    devices: Devices,
    gpus: Sequence[int],
    *,
    threads: int | None,
    share: int,
    worker_id: str,
    cache: Path,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return the complete environment of a training: the worker's without secrets, plus devices and threads.

    Args:
        devices: The worker's devices.
        gpus: GPUs of the training, counted from 0.
        threads: Number of CPU threads from the settings; None if the training chooses the number by its workload.
        share: Maximum number of CPU threads if ``threads`` is None.
        worker_id: Id of the worker. The worker finds its processes by it.
        cache: Cache folder, used if the environment does not set ``DKD_CACHE_DIR``.
        environment: Environment of this process.
    """
    inherited = {name: value for name, value in environment.items() if name not in _SECRETS}
    number = str(threads or share)
    return {
        "DKD_CACHE_DIR": str(cache),
        # With this order, CUDA numbers the GPUs as nvidia-smi and the driver's library do.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **inherited,
        **devices.environment(gpus),
        WORKER_MARK: worker_id,
        **{THREADS if threads else MOST_THREADS: number},
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "PYTHONUNBUFFERED": "1",
        # A crash in native code then writes its Python stack to stderr, which is included in the run's log.
        "PYTHONFAULTHANDLER": "1",
    }


def _gpus(visible: str | None) -> tuple[str, ...]:
    if visible is not None:
        names = tuple(name.strip() for name in visible.split(",") if name.strip())
        return () if "-1" in names else names
    try:
        output = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(number) for number, line in enumerate(output.splitlines()) if line.startswith("GPU "))
