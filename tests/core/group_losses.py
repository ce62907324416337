"""The losses of ``tests.core.group_plugin``."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import torch

from core.catalog.methods import KDParams
from core.distill.logits.kd import softened_divergence
from core.distill.rows import Rows
from core.distill.terms import LossTerms, compose, label_term
from tests.core.group_plugin import FaultParams, count_step


def noise_loss(batch: Rows, params: KDParams, epoch: int | None) -> LossTerms:
    """Return KD with a random weight."""
    del epoch
    weight = float(torch.rand(()))
    return compose(
        batch, {}, {"ce": (1.0, label_term(batch)), "kd": (weight, softened_divergence(batch, params.temperature))}
    )


def fault_loss(batch: Rows, params: FaultParams, epoch: int | None) -> LossTerms:
    """Return cross-entropy, or what goes wrong."""
    del epoch
    labels = label_term(batch)
    if count_step() != params.step:
        return compose(batch, {}, {"ce": (1.0, labels)})
    if params.kind == "raise":
        raise RuntimeError("the method has a fault")
    if params.kind == "exit":
        raise SystemExit(3)
    if params.kind == "hang":
        Path(params.mark).touch()
        threading.Event().wait()
    return compose(
        batch, {}, {"ce": (1.0, replace(labels, value=labels.value * math.nan, direction=labels.direction * math.nan))}
    )
