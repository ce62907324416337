"""Experiments whose seeds are added until they are decided, with runs that end as a test says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from backend.comparisons import sequential
from backend.db import Database, models
from backend.experiments import planning
from backend.experiments.seed_planner import SeedPlanner
from backend.settings import Settings
from core.protocol.sequential import Sequential
from core.specs import parse_sweep
from core.specs.sweep import expand
from tests.backend import rows

UNTIL = {"until": "decided", "difference": 1.0, "most": 10}
METHODS = ["kd", {"name": "dkd", "label": "clear"}, {"name": "dkd", "label": "noisy", "params": {"beta": 2.0}}]
Value = Callable[[str, int], float | None]


def noise(label: str, seed: int, size: float = 0.2) -> float:
    return random.Random(f"{label} {seed}").gauss(0, size)


def clear_and_noisy(label: str, seed: int) -> float:
    """Return accuracies of which one method is clearly better, and of another nothing can be told."""
    return {"kd": 80.0, "clear": 90.0, "noisy": 80.0}[label] + noise(label, seed, 5.0 if label == "noisy" else 0.2)


class Campaign:
    """An experiment that grows, whose runs end as a test says."""

    def __init__(self, database: Database, settings: Settings, experiment_id: str = "", **changes: Any) -> None:
        self.database = database
        self.nudges = 0
        self.planner = SeedPlanner(database, settings, self._nudge)
        self.id = experiment_id or rows.experiment(database, **{"seeds": UNTIL, "methods": METHODS} | changes)
        self.teacher = self.runs()["teacher", 0]
        with database.read() as session:
            trained = session.get_one(models.Run, self.teacher).state == "succeeded"
        if not trained:
            rows.succeed(database, self.teacher, [90.0])

    def _nudge(self) -> None:
        self.nudges += 1

    def runs(self) -> dict[tuple[str, int], str]:
        return rows.run_ids(self.database, self.id)

    def unfinished(self) -> dict[tuple[str, int], str]:
        with self.database.read() as session:
            states = {row.id: row.state for row in session.execute(select(models.Run.id, models.Run.state))}
        return {key: run for key, run in self.runs().items() if states[run] not in ("succeeded", "failed", "cancelled")}

    def finish(self, value: Value) -> None:
        """Let every unfinished student succeed with a value, or fail if it is None."""
        for (label, seed), run_id in self.unfinished().items():
            if (result := value(label, seed)) is None:
                rows.change(self.database, run_id, state="failed", reason="the loss is NaN")
            else:
                rows.succeed(self.database, run_id, [result - 5, result])

    def grow(self, value: Value, limit: int = 30) -> None:
        """Finish runs and add seeds until nothing is left to do."""
        for _ in range(limit):
            self.finish(value)
            if not self.planner.run_once() or not self.unfinished():
                return
        raise AssertionError("it does not end")

    def seeds(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for label, seed in sorted(self.runs()):
            found.setdefault(label, []).append(seed)
        return found

    def report(self) -> Sequential:
        with self.database.read() as session:
            return sequential.report(session, session.get_one(models.Experiment, self.id))

    def verdicts(self) -> dict[str, str]:
        return {item.label: item.verdict for item in self.report().comparisons}

    @property
    def is_open(self) -> bool | None:
        with self.database.read() as session:
            return session.get_one(models.Experiment, self.id).seeds_open

    @property
    def name(self) -> str:
        with self.database.read() as session:
            return session.get_one(models.Experiment, self.id).name


def sweep(database: Database, settings: Settings, grid: dict[str, Any], **changes: Any) -> list[Campaign]:
    """Create the experiments of a sweep."""
    base = {name: value for name, value in rows.SPEC.items() if name != "name"}
    parsed = parse_sweep({"name": "race", "experiment": base | {"seeds": UNTIL} | changes, "grid": grid})
    with database.write() as session:
        specs = [("", spec) for spec in expand(parsed)]
        created = planning.create(session.connection(), specs, submitted_by="", sweep=parsed.name)
    return [Campaign(database, settings, experiment.id) for experiment in created]
