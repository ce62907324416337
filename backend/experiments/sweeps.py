"""The experiments of a sweep side by side: the fields in which their specs differ, and their results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.comparisons import run_data, statistics
from backend.comparisons.tasks import tasks_of
from backend.db import chunked
from backend.db.models import Experiment, ExperimentRun, Run
from backend.errors import not_found
from backend.experiments import serializers
from common.plain_data import leaves
from core.catalog import METRICS
from core.protocol.sweeps import SettingResult, Sweep, SweepField, SweepList, SweepSetting, SweepSummary

_MAX_SETTINGS = 1000
_MAX_LISTED = 200
_OF_ONE = frozenset(("name", "notes", "tags", "priority", "webhook", "resources"))
"""Fields that have no effect on the results."""
_MISSING = object()


def sweeps(session: Session) -> SweepList:
    """Return the newest sweeps."""
    created = func.min(Experiment.created_at).label("created")
    query = (
        select(Experiment.sweep, func.count().label("experiments"), created)
        .where(Experiment.sweep != "")
        .group_by(Experiment.sweep)
        .order_by(created.desc(), Experiment.sweep)
        .limit(_MAX_LISTED)
    )
    return SweepList(
        items=[
            SweepSummary(name=row.sweep, experiments=row.experiments, created_at=row.created)
            for row in session.execute(query)
        ]
    )


def sweep(session: Session, name: str) -> Sweep:
    """Return a sweep with its fields and results.

    Raises:
        ApiError: 404 if no experiment belongs to such a sweep.
    """
    of_sweep = Experiment.sweep == name
    total = session.scalars(select(func.count()).select_from(Experiment).where(of_sweep)).one() if name else 0
    if not total:
        raise not_found("sweep", name)
    experiments = list(session.scalars(select(Experiment).where(of_sweep).order_by(Experiment.id).limit(_MAX_SETTINGS)))
    tasks = tasks_of(experiments)
    headline = METRICS[experiments[0].headline]
    fields, values = varied_fields([item.spec for item in experiments])
    summaries = {item.id: item for item in serializers.experiment_summaries(session, experiments)}
    results = _results(session, experiments, headline.name)
    notes = []
    if len(tasks) > 1:
        notes.append("The experiments are of several tasks; results of other tasks than the first are left out.")
    if any(item.decides and item.spec["seeds"].get("race") for item in experiments):
        notes.append(
            "The settings race: a method gets no more seeds in an experiment once it is surely better in another one, "
            "so n differs."
        )
    if total > len(experiments):
        notes.append(f"The first {len(experiments):,} of {total:,} experiments are shown.")
    return Sweep(
        name=name,
        dataset=experiments[0].spec["dataset"]["name"],
        metric=headline.name,
        title=headline.title,
        unit=headline.unit,
        better=headline.better,
        fields=fields,
        settings=[
            SweepSetting(
                experiment_id=item.id,
                name=item.name,
                state=summaries[item.id].state,
                archived=item.archived_at is not None,
                counts=summaries[item.id].counts,
                values=own,
                results=results[item.id],
            )
            for item, own in zip(experiments, values, strict=True)
        ],
        total=total,
        notes=notes,
    )


def varied_fields(specs: Sequence[Mapping[str, Any]]) -> tuple[list[SweepField], list[dict[str, Any]]]:
    """Return the fields in which specs differ, and the values of these fields in each spec.

    If the name of a method, a network or another entry of the catalog varies, the entry is one field, whose values are
    the labels or names, because entries with other names have other parameters.
    """
    flat = [dict(_fields(spec)) for spec in specs]
    differing = [path for path in _paths(flat) if len({_text(item.get(path, _MISSING)) for item in flat}) > 1]
    entries = {path.removesuffix(".name") for path in differing if path.endswith(".name")}
    # The outermost entry: a varied teacher's own entries are part of it.
    outer = {entry for entry in entries if not any(entry.startswith(f"{other}.") for other in entries)}
    columns: dict[str, list[Any]] = {}
    for path in differing:
        entry = next((item for item in outer if path.startswith(f"{item}.")), None)
        if entry is None:
            columns[path] = [item.get(path, _MISSING) for item in flat]
        elif entry not in columns:
            columns[entry] = _entry_values([_at(spec, entry) for spec in specs])
    values = [
        {path: column[index] for path, column in columns.items() if column[index] is not _MISSING}
        for index in range(len(specs))
    ]
    fields = []
    for path, column in columns.items():
        distinct = {_text(value): value for value in column if value is not _MISSING}
        fields.append(SweepField(path=path, values=list(distinct.values())))
    return fields, values


def _paths(flat: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from dict.fromkeys(path for item in flat for path in item)


def _fields(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each field of a spec that has an effect on the results, with its value."""
    for path, value in leaves({name: part for name, part in spec.items() if name not in _OF_ONE}):
        if not (path.startswith("methods.") and path.endswith(".label")):
            yield path, value


def _at(spec: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(spec, Mapping):
            spec = spec.get(part, _MISSING)
        elif isinstance(spec, list | tuple) and part.isdecimal() and int(part) < len(spec):
            spec = spec[int(part)]
        else:
            return _MISSING
    return spec


def _entry_values(entries: Sequence[Any]) -> list[Any]:
    """Return the label or the name of each entry, with its parameters where two entries have the same."""
    names = [item.get("label") or item["name"] if isinstance(item, Mapping) else item for item in entries]
    contents: dict[Any, set[str]] = {}
    for name, item in zip(names, entries, strict=True):
        contents.setdefault(name, set()).add(_text(item))
    return [
        f"{name} {json.dumps(item.get('params', {}), sort_keys=True)}"
        if len(contents[name]) > 1 and isinstance(item, Mapping)
        else name
        for name, item in zip(names, entries, strict=True)
    ]


def _text(value: Any) -> str:
    return "" if value is _MISSING else json.dumps(value, sort_keys=True, default=str)


@dataclass(frozen=True)
class _Student:
    run_id: str
    label: str
    seed: int
    succeeded: bool


def _results(session: Session, experiments: Sequence[Experiment], headline: str) -> dict[str, list[SettingResult]]:
    """Return the results of each experiment's methods after the last epoch, by the experiment's id."""
    students: dict[str, list[_Student]] = {item.id: [] for item in experiments}
    for chunk in chunked(students):
        query = (
            select(ExperimentRun.experiment_id, Run.id, ExperimentRun.label, Run.seed, Run.state)
            .join(Run, Run.id == ExperimentRun.run_id)
            .where(ExperimentRun.experiment_id.in_(chunk), Run.role == "student")
            .order_by(ExperimentRun.experiment_id, ExperimentRun.position)
        )
        for key, run_id, label, seed, state in session.execute(query):
            students[key].append(_Student(run_id, label, seed, state == "succeeded"))
    succeeded = [student.run_id for runs in students.values() for student in runs if student.succeeded]
    points = run_data.latest(session, succeeded, [headline])
    values = {
        run_id: found[headline].value
        for run_id, found in points.items()
        if headline in found and math.isfinite(found[headline].value)
    }
    results = {}
    for item in experiments:
        by_label: dict[str, list[_Student]] = {choice["label"]: [] for choice in item.spec["methods"]}
        for student in students[item.id]:
            by_label.setdefault(student.label, []).append(student)
        results[item.id] = [_result(label, runs, values) for label, runs in by_label.items()]
    return results


def _result(label: str, runs: Sequence[_Student], values: Mapping[str, float]) -> SettingResult:
    by_seed = {run.seed: values[run.run_id] for run in runs if run.run_id in values}
    summary = statistics.summarize(list(by_seed.values()))
    return SettingResult(label=label, planned=len(runs), n=summary.n, mean=summary.mean, sd=summary.sd, values=by_seed)
