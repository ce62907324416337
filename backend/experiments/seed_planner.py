"""Adds runs to experiments: those with chosen settings after the trials, and seeds until comparisons are decided.

What an experiment needs next follows from its runs alone, so a pass may be repeated, interrupted or made by several
replicas at once: each decides from one snapshot, and writes only if the experiment's runs are still in the same states.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import Exists, exists, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.comparisons import sequential
from backend.db import Database
from backend.db.models import Experiment, ExperimentRun, Run
from backend.experiments import planning, tuning
from backend.settings import Settings
from core.protocol.public import TERMINAL
from core.specs import ExperimentSpec, parse_stored_experiment
from core.tuning.choice import ChoiceError
from core.tuning.trials import with_settings

_log = structlog.get_logger(__name__)

_States = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class _Step:
    """What an experiment needs next.

    Attributes:
        spec: Its spec, with the settings that were chosen.
        wanted: Label and seed of the runs to add; empty if no more are to be added.
        states: Ids and states of its students' runs in the snapshot from which this follows.
        choice: The settings that were chosen, or why none could be; None if there is nothing to choose, or they were
            chosen before.
    """

    spec: ExperimentSpec
    wanted: frozenset[tuple[str, int]]
    states: _States
    choice: dict[str, Any] | None = None


class SeedPlanner:
    """Makes a pass every few seconds.

    Args:
        database: The database.
        settings: The backend's settings.
        added: Called after runs were added, outside the transaction.
    """

    def __init__(self, database: Database, settings: Settings, added: Callable[[], None]) -> None:
        self._database = database
        self._settings = settings
        self._added = added
        self._unreadable: set[str] = set()

    def run_once(self) -> int:
        """Make one pass, and return the number of experiments that got seeds, or will get no more."""
        changed = 0
        with self._database.read() as session:
            idle = list(
                session.scalars(
                    select(Experiment.id).where(Experiment.seeds_open.is_(True), ~_has_unfinished_student())
                )
            )
        for experiment_id in idle:
            with self._database.read() as session:
                step = self._next_step(session, experiment_id)
            if step is None:
                continue
            with self._database.write() as session:
                changed += _take(session, experiment_id, step)
        if changed:
            self._added()
        return changed

    def _next_step(self, session: Session, experiment_id: str) -> _Step | None:
        """Return the next seeds of an experiment; None if it cannot be read, is deleted or has an unfinished run."""
        experiment = session.get(Experiment, experiment_id)
        if experiment is None:
            return None
        states = _states(session, experiment_id)
        try:
            spec = parse_stored_experiment(experiment.spec)
        except ValidationError as error:  # such as an entry of a plugin that is no longer loaded
            if experiment_id not in self._unreadable:
                self._unreadable.add(experiment_id)
                _log.error(
                    "no seed is added: the stored spec cannot be read", experiment=experiment_id, error=str(error)
                )
            return None
        if spec.tune:
            return _choice_of(session, experiment, spec, states)
        found = sequential.evidence(session, experiment)
        return None if found.unfinished else _Step(spec, frozenset(found.wanted()), states)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Make a pass every ``reconcile_seconds`` until ``stop`` is set. A pass that fails is logged."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self.run_once)
            except SQLAlchemyError as error:
                _log.error("seeds cannot be added", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._settings.reconcile_seconds)


def _choice_of(session: Session, experiment: Experiment, spec: ExperimentSpec, states: _States) -> _Step | None:
    """Return the choice of an experiment's settings; None if one of its trials has not ended."""
    if any(state not in TERMINAL for _, state in states):
        return None
    try:
        choice = tuning.choose(session, experiment, spec)
    except ChoiceError as error:
        return _Step(spec, frozenset(), states, {"error": str(error)})
    return _Step(with_settings(spec, choice.settings), frozenset(), states, choice.as_json())


def _take(session: Session, experiment_id: str, step: _Step) -> bool:
    """Add the runs of a step, or close the experiment; return False if it has changed since.

    Runs are locked before their experiment, as a retry and a deletion do.
    """
    if step.choice is not None:
        return _freeze(session, experiment_id, step, step.choice)
    planned = [
        run
        for run in step.spec.student_runs(sorted({seed for _, seed in step.wanted}))
        if (run.label, run.spec.seed) in step.wanted
    ]
    teachers = planning.lock_teachers(session, planned)
    is_open = (Experiment.id == experiment_id) & Experiment.seeds_open.is_(True)
    experiment = session.scalars(select(Experiment).where(is_open).with_for_update()).one_or_none()
    if experiment is None or _states(session, experiment_id) != step.states:
        return False
    if not planned or teachers is None:
        experiment.seeds_open = False
        return True
    planning.add_students(session, experiment_id, step.spec, planned, teachers, _place(session, experiment))
    return True


def _freeze(session: Session, experiment_id: str, step: _Step, choice: dict[str, Any]) -> bool:
    """Store a choice of settings with the experiment, and add the runs with them; return False if it has changed since.

    If none could be chosen, the experiment ends; a trial that is retried opens it again.
    """
    is_open = (Experiment.id == experiment_id) & Experiment.seeds_open.is_(True)
    experiment = session.scalars(select(Experiment).where(is_open).with_for_update()).one_or_none()
    if experiment is None or _states(session, experiment_id) != step.states:
        return False
    experiment.choice = choice
    if "error" in choice:
        experiment.seeds_open = False
        return True
    experiment.spec = step.spec.model_dump(mode="json")
    experiment.seeds_open = True if step.spec.until_decided else None
    planning.add_chosen(session, experiment_id, step.spec, _place(session, experiment))
    return True


def _place(session: Session, experiment: Experiment) -> planning.PlaceInQueue:
    """Return where an experiment's later runs are queued: with the highest priority of its students."""
    linked = ExperimentRun.experiment_id == experiment.id
    priorities = select(func.max(Run.priority)).join(ExperimentRun, ExperimentRun.run_id == Run.id)
    priority = session.scalar(priorities.where(linked, Run.role == "student")) or 0
    return planning.PlaceInQueue(experiment.submitted_by, experiment.project, priority)


def _states(session: Session, experiment_id: str) -> _States:
    query = select(Run.id, Run.state).join(ExperimentRun, ExperimentRun.run_id == Run.id)
    rows = session.execute(query.where(ExperimentRun.experiment_id == experiment_id, Run.role == "student"))
    return frozenset((row.id, row.state) for row in rows)


def _has_unfinished_student() -> Exists:
    linked = (ExperimentRun.experiment_id == Experiment.id) & (Run.id == ExperimentRun.run_id)
    return exists().where(linked, Run.role == "student", Run.state.not_in(TERMINAL)).correlate(Experiment)
