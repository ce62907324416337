"""The first event of a training: the device, the versions and the settings it trains with."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from core.events import IMAGES_KEY, RANKS_KEY, Record, Started
from core.provenance import provenance
from core.train.engine import Engine


def start_event(engine: Engine, images: Mapping[str, str]) -> Started:
    """Describe an attempt that is about to train its first step.

    Args:
        engine: The training.
        images: The identity of the data, see ``resumed_data_identity``.
    """
    job, device = engine.job, engine.task.device
    return Started(
        total_steps=engine.clock.calendar.total_steps,
        total_epochs=job.spec.training.epochs,
        start_step=engine.progress.step,
        train_size=engine.task.train_size,
        test_size=engine.task.test_size,
        parameters=sum(parameter.numel() for parameter in engine.network.parameters()),
        device=f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu",
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "processor": _processor(),
        }
        | engine.plan.environment()
        | _own_parameters(engine)
        | _teacher_logits(engine)
        | {RANKS_KEY: str(job.ranks.size)}
        | dict(images)
        | provenance(),
    )


def resumed_data_identity(earlier: Iterable[Record], identity: Mapping[str, str]) -> dict[str, str]:
    """Return the identity of all data that a run has seen; a run that saw two sets has an identity of its own.

    Args:
        earlier: The journal of the attempts so far.
        identity: That of the data of this attempt.
    """
    started = (record.event.environment for record in earlier if isinstance(record.event, Started))
    seen = {environment[IMAGES_KEY] for environment in started if IMAGES_KEY in environment} | {identity[IMAGES_KEY]}
    if len(seen) == 1:
        return dict(identity)
    return {**identity, IMAGES_KEY: hashlib.sha256(" ".join(sorted(seen)).encode()).hexdigest()[:16]}


def _own_parameters(engine: Engine) -> dict[str, str]:
    """Record the number of parameters that the method trains and does not leave in the network, if there are any."""
    left = {id(parameter) for parameter in engine.network.parameters()}
    own = (parameter for parameter in engine.objective.parameters() if parameter.requires_grad)
    count = sum(parameter.numel() for parameter in own if id(parameter) not in left)
    return {"method_parameters": str(count)} if count else {}


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
