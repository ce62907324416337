"""Collect a record from the folders that ``python -m core run`` has written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.result_pages.record import Curve, Record, RecordedExperiment, RecordedRun, RecordError
from core.events import JOURNAL_NAME, Failed, Finished, Metrics, Started, read_journal
from core.events import Record as JournalRecord
from core.specs import ExperimentSpec, PlannedRun, read_experiment
from core.standalone import CHOICE_NAME, SPEC_NAME
from core.tuning.choice import Choice
from core.tuning.trials import with_settings

# The name of a machine, and texts that may contain its paths, are not published.
_NOT_RECORDED = frozenset({"host", "diff", "packages"})
_PACKAGES = frozenset({"numpy", "optuna", "scipy", "timm", "torch", "torchvision"})
"""Packages whose versions are recorded, of all that were installed."""
_CHANGES_DIGITS = 12


def collect(
    folders: Sequence[Path],
    name: str,
    *,
    title: str = "",
    question: str = "",
    notes: Sequence[str] = (),
    spec: Path | None = None,
) -> Record:
    """Return the record of experiments.

    Args:
        folders: Folders of ``python -m core run --out``: of an experiment, or of a sweep.
        name: Name of the record.
        title: Title of its page; by default its name.
        question: What the trainings were to answer.
        notes: Sentences that a reader has to know.
        spec: The spec of the only folder, if that is of a version that did not keep the spec in it.

    Raises:
        RecordError: The name is no file name, a folder has no spec, or no run has ended.
        SpecError: A spec cannot be read.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise RecordError(f"--name {name}: use lower-case letters, digits and hyphens")
    found = list(_experiments(folders, spec))
    environments: list[dict[str, str]] = []
    curves: dict[str, Curve] = {}
    experiments = [
        _experiment(index, given, folder, environments, curves) for index, (given, folder) in enumerate(found, 1)
    ]
    if not any(item.runs for item in experiments):
        raise RecordError(f"{', '.join(map(str, folders))}: no run has ended")
    return Record(name, title or name, question, list(notes), experiments, environments, curves)


def _experiments(folders: Sequence[Path], spec: Path | None) -> Iterable[tuple[ExperimentSpec, Path]]:
    for folder in folders:
        own = spec or folder / SPEC_NAME
        if own.exists():
            yield read_experiment(own), folder
            continue
        inner = sorted(folder.glob(f"*/{SPEC_NAME}"))
        if not inner:
            raise RecordError(f"{folder} has no {SPEC_NAME}; name the spec with --spec")
        yield from ((read_experiment(path), path.parent) for path in inner)


def _experiment(
    index: int, spec: ExperimentSpec, folder: Path, environments: list[dict[str, str]], curves: dict[str, Curve]
) -> RecordedExperiment:
    choice = None
    if spec.tune:
        frozen = folder / CHOICE_NAME
        if not frozen.exists():
            raise RecordError(f"{spec.name}: its settings have not been chosen yet")
        choice = json.loads(frozen.read_text(encoding="utf-8"))
        spec = with_settings(spec, Choice.from_json(choice).settings)
    by_fingerprint = {
        json.loads(path.read_text(encoding="utf-8")): path.parent for path in sorted(folder.glob("*/fingerprint.json"))
    }
    runs = []
    for planned in planned_runs(spec):
        place = by_fingerprint.get(planned.spec.fingerprint())
        if place is None:
            continue
        records = list(read_journal(place / JOURNAL_NAME))
        run = _run(planned, records, f"{index}-{place.name}.json", environments)
        if run is not None:
            runs.append(run)
            curves[run.curve] = _curve(event for event in _events(records) if isinstance(event, Metrics))
    return RecordedExperiment(spec.model_dump(mode="json"), choice, runs)


def planned_runs(spec: ExperimentSpec) -> list[PlannedRun]:
    """Return all runs that the experiment may have; also those of later seeds, if seeds are added by looks."""
    plan = list(spec.plan())
    if spec.until_decided:
        known = {(run.label, run.spec.seed) for run in plan}
        later = spec.student_runs(spec.until_decided.seeds(spec.until_decided.most))
        plan += [run for run in later if (run.label, run.spec.seed) not in known]
    return plan


def _events(records: Sequence[JournalRecord]) -> list[Any]:
    return [record.event for record in records]


def _run(
    planned: PlannedRun, records: Sequence[JournalRecord], curve: str, environments: list[dict[str, str]]
) -> RecordedRun | None:
    """Return a run that has ended; None for one that has not."""
    events = _events(records)
    last = events[-1] if events else None
    starts = [event for event in events if isinstance(event, Started)]
    if not isinstance(last, Finished | Failed):
        return None
    environment = _environment(starts[-1].environment) if starts else {}
    if environment not in environments:
        environments.append(environment)
    return RecordedRun(
        label=planned.label,
        seed=planned.spec.seed,
        role=planned.spec.role,
        state="succeeded" if isinstance(last, Finished) else "failed",
        reason=last.reason if isinstance(last, Failed) else "",
        fingerprint=planned.spec.fingerprint(),
        curve=curve,
        weights=last.sha256 if isinstance(last, Finished) else "",
        ended=f"{datetime.fromtimestamp(records[-1].time, UTC):%Y-%m-%d}",
        epochs=starts[-1].total_epochs if starts else 0,
        train_size=starts[-1].train_size if starts else 0,
        test_size=starts[-1].test_size if starts else 0,
        parameters=starts[-1].parameters if starts else 0,
        device=starts[-1].device if starts else "",
        environment=environments.index(environment),
    )


def _environment(given: dict[str, str]) -> dict[str, str]:
    """Return what of an environment is published: versions, settings for speed, the processor, and the code."""
    kept = {name: value for name, value in sorted(given.items()) if name not in _NOT_RECORDED}
    versions = [line for line in given.get("packages", "").splitlines() if line.partition("==")[0] in _PACKAGES]
    if versions:
        kept["packages"] = ", ".join(versions)
    if given.get("diff"):
        digest = hashlib.sha256(given["diff"].encode()).hexdigest()
        kept["uncommitted changes"] = f"SHA-256 {digest[:_CHANGES_DIGITS]}"
    return kept


def _curve(points: Iterable[Metrics]) -> Curve:
    """Return the metrics after each epoch; those between two epochs are left out."""
    by_step: dict[int, tuple[float, float, dict[str, float]]] = {}
    for point in points:
        if point.epoch != round(point.epoch):
            continue
        _, _, values = by_step.get(point.step, (0.0, 0.0, {}))
        # A resumed attempt repeats what it took from its checkpoint; the last report of a step counts.
        by_step[point.step] = (point.epoch, point.elapsed, values | point.values)
    steps = sorted(by_step)
    names = sorted({name for _, _, values in by_step.values() for name in values})
    curve = Curve(
        steps,
        [by_step[step][0] for step in steps],
        [by_step[step][1] for step in steps],
        {name: [by_step[step][2].get(name) for step in steps] for name in names},
    )
    # With the numbers that the file has: a page made now is the page that is made from the file.
    return Curve.from_json(curve.to_json())
