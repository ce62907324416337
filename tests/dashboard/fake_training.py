"""A run of the fake backend, whose epochs produce plausible metrics."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core.catalog import METHODS
from core.catalog.datasets import headline_of
from core.protocol.public import AttemptInfo, LogLine, RunState
from core.specs import ExperimentSpec
from core.specs.experiment import PlannedRun

STEPS_AN_EPOCH = 15
SECONDS_AN_EPOCH = 0.4
_EFFECTS = {"dkd": 0.01, "dkd_align (sample)": 0.35, "dkd_align (log)": -0.6}
"""Percentage points that a method adds to the final accuracy; other methods have an arbitrary effect."""


@dataclass
class FakeRun:
    """A run: its plan, its state and its reports."""

    id: str
    plan: PlannedRun
    experiment: ExperimentSpec
    experiment_id: str
    created: datetime
    teacher: str | None = None
    state: RunState = "queued"
    reason: str = ""
    attempts: list[AttemptInfo] = field(default_factory=list)
    points: list[tuple[str, int, float, float, float]] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)
    done: int = 0
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def headline(self) -> str:
        return headline_of(self.plan.spec.dataset.name)

    @property
    def epochs(self) -> int:
        return self.plan.spec.training.epochs


def train_epoch(run: FakeRun) -> str:
    """Add the metrics of the current epoch, and return its log line."""
    method, seed, epoch = run.plan.spec.method, run.plan.spec.seed, run.done
    noise = random.Random(f"{run.plan.label} {seed} {epoch}")
    better = _EFFECTS.get(run.plan.label) or 0.2 + random.Random(run.plan.label).uniform(-1.2, 1.2)
    top = 98.4 if run.plan.spec.role == "teacher" else 96.2 + better + random.Random(seed).gauss(0, 0.25)
    share = 1 - math.exp(-epoch / 4)
    accuracy = 10 + (top - 10) * share + noise.gauss(0, 0.35) * (1.2 - share)
    loss = 2.3 * math.exp(-epoch / 5) + 0.06 + abs(noise.gauss(0, 0.01))
    values = {
        run.headline: min(accuracy, 100.0),
        "train/top1": min(accuracy + 1.1, 100.0),
        "test/loss": loss + 0.05,
        "train/ce": loss,
        "lr": 0.05 * (1 + math.cos(math.pi * epoch / run.epochs)) / 2,
        "speed/images_per_second": 9000 + noise.gauss(0, 150),
    }
    total = loss
    if method.name.startswith("dkd"):
        tckd, nckd = 0.8 * math.exp(-epoch / 6) + 0.02, 1.6 * math.exp(-epoch / 9) + 0.05
        total += tckd + nckd
        rise = 0.065 * math.exp(-((epoch - 5) ** 2) / 30) + 0.018
        values |= {
            "train/tckd": tckd,
            "train/nckd": nckd,
            "grad/similarity": rise * (1 + better / 3) + noise.gauss(0, 0.002),
            "grad/tckd_norm": tckd / 3,
            "grad/nckd_norm": nckd / 4,
            "fidelity/agreement": min(accuracy + 0.8, 100.0),
        }
    if method.name == "dkd_align":
        values |= {
            "train/align": 0.3 * math.exp(-epoch / 8),
            "grad/align_share": 10 * math.exp(-epoch / 20),
            "grad/align_cosine": -0.75 - 0.2 * share,
        }
    terms = {f"train/{term}" for term in METHODS[method.name].terms} if method.name in METHODS else set()
    values |= {name: 0.9 * math.exp(-epoch / 8) + 0.1 for name in sorted(terms - set(values))}
    for term, share in method.shares.items():
        values |= {f"train/weight_{term}": 2 + epoch / 10, f"grad/share_{term}": 100 * share}
    values["train/loss"] = total
    step = epoch * STEPS_AN_EPOCH
    for name, value in values.items():
        run.points.append((name, step, float(epoch), epoch * SECONDS_AN_EPOCH, value))
    # The fake trains faster than its clock: the start moves back, so that durations are plausible.
    run.started = datetime.now(UTC) - timedelta(seconds=epoch * SECONDS_AN_EPOCH)
    run.attempts[-1] = run.attempts[-1].model_copy(update={"started_at": run.started})
    return f"epoch {epoch}/{run.epochs}: test accuracy {values[run.headline]:.2f} %, loss {total:.4f}"
