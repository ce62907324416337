"""What a training gets of this machine: its device, its threads, its environment. Asks nothing of torch."""

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
    "DKD_BROKER_URL",  # has a password
    "DKD_SECRETS",
)
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class DeviceError(ValueError):
    """The settings ask for a device that this machine does not have."""


@dataclass(frozen=True)
class Devices:
    """The devices of one worker.

    Attributes:
        gpus: as CUDA_VISIBLE_DEVICES names them; empty on a CPU worker.
    """

    gpus: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["cpu", "gpu"]:
        return "gpu" if self.gpus else "cpu"

    def environment(self, gpus: Sequence[int]) -> dict[str, str]:
        """What binds a training to these of the GPUs, counted from 0, or keeps it from any."""
        return {_VISIBLE: ",".join(self.gpus[gpu] for gpu in gpus), GPUS_GIVEN: str(len(gpus))}


def find_devices(wanted: Literal["auto", "cpu", "gpu"], environment: Mapping[str, str] = os.environ) -> Devices:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or else those that nvidia-smi lists; none for ``cpu``.

    Raises DeviceError where ``gpu`` is wanted and there is none.
    """
    gpus = () if wanted == "cpu" else _gpus(environment.get(_VISIBLE))
    if wanted == "gpu" and not gpus:
        raise DeviceError(
            "DKD_DEVICE is gpu, but no GPU is found: nvidia-smi lists none, or CUDA_VISIBLE_DEVICES is empty"
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
    """The whole environment of a training: this worker's without its secrets, with its devices and threads.

    Args:
        threads: of the CPU that a training uses, as a person has set it; None: as it decides by its work.
        share: then, how many it may use at most.
        cache: for what trainings can make again, where the environment names no ``DKD_CACHE_DIR``.
    """
    own = {name: value for name, value in environment.items() if name not in _SECRETS}
    number = str(threads or share)
    return {
        "DKD_CACHE_DIR": str(cache),
        # Numbers of GPUs then mean the same to CUDA as to nvidia-smi and to the driver's own library.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **own,
        **devices.environment(gpus),
        WORKER_MARK: worker_id,
        **{THREADS if threads else MOST_THREADS: number},
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "PYTHONUNBUFFERED": "1",
        # A crash in native code then leaves its Python stack in stderr, and so on the run.
        "PYTHONFAULTHANDLER": "1",
    }


def _gpus(visible: str | None) -> tuple[str, ...]:
    if visible is not None:
        names = tuple(name.strip() for name in visible.split(",") if name.strip())
        return () if "-1" in names else names
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU "))
