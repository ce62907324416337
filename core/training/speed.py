"""What is chosen for speed: a rule of the spec and the device alone, so that two runs of one spec choose alike."""

from __future__ import annotations

import os
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field

from core.spec import Speed

Precision = Literal["float32", "bfloat16", "float16"]


class Chosen(BaseModel):
    """How a run does its arithmetic. A resumed run goes on with what it began with.

    Attributes:
        precision: of the networks in training; weights, losses and evaluation are in float32.
        fused: whether the optimiser updates all parameters in one kernel.
        threads: of torch on the CPU.
        reasons: a phrase for each choice that has one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision = "float32"
    channels_last: bool = False
    fused: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    threads: int = Field(ge=1)
    reasons: dict[str, str] = Field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """A block in which networks compute in ``precision``."""
        return torch.autocast(device.type, self.dtype, enabled=self.precision != "float32")

    def environment(self) -> dict[str, str]:
        """As ``Started.environment`` keeps it: pairs of runs are compared by these."""
        switches = {name: getattr(self, name) for name in ("channels_last", "fused", "compile", "cuda_graphs")}
        words = {name: "on" if value else "off" for name, value in switches.items()}
        return {"precision": self.precision, **words, "threads": str(self.threads)}

    def sentence(self) -> str:
        """For the run's log."""
        parts = [
            f"{name} {value} ({self.reasons[name]})" if name in self.reasons else f"{name} {value}"
            for name, value in self.environment().items()
        ]
        return f"for speed: {', '.join(parts)}"

    def apply(self) -> Self:
        """Set what holds for the whole process."""
        torch.set_num_threads(self.threads)
        return self


def choose(speed: Speed, device: torch.device) -> Chosen:
    """What a spec's ``speed`` comes to on a device."""
    threads = int(os.environ.get("DKD_THREADS") or torch.get_num_threads())
    precision: Precision = "float32" if speed.precision == "auto" else speed.precision
    return Chosen(precision=precision, channels_last=speed.channels_last == "on", threads=threads)
