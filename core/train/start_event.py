"""The first event of a training: the device, the versions and the settings it trains with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from core.events import RANKS_KEY, Started
from core.provenance import provenance
from core.tasks.classification import models
from core.train.engine import Engine


def start_event(engine: Engine, images: Mapping[str, str]) -> Started:
    """Describe an attempt that is about to train its first step.

    Args:
        engine: The training.
        images: The identity of the images, see ``core.train.weights_metadata.resumed_image_identity``.
    """
    job, device = engine.job, engine.dataset.device
    return Started(
        total_steps=engine.total_steps,
        total_epochs=job.spec.training.epochs,
        start_step=engine.progress.step,
        train_size=len(engine.dataset.train),
        test_size=len(engine.dataset.test),
        parameters=models.count_parameters(engine.model),
        device=f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu",
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "processor": _processor(),
        }
        | engine.plan.environment()
        | _teacher_logits(engine)
        | {RANKS_KEY: str(job.ranks.size)}
        | dict(images)
        | provenance(),
    )


def _teacher_logits(engine: Engine) -> dict[str, str]:
    """Record whether the teacher's logits are rounded.

    Whether they were read from the disk does not matter: the numbers are the same with a full cache or an empty one.
    """
    if engine.teacher is None:
        return {}
    if not engine.job.spec.training.speed.reuse_teacher:
        return {"teacher_logits": "live"}
    return {"teacher_logits": "kept" if engine.job.ranks.size == 1 else "rounded, not kept"}


def _processor() -> str:
    """Return the name of the CPU from Linux, or else the one that Python reports, and the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine()) + f", {os.cpu_count()} cores"
