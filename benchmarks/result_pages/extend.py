"""Add the trainings of a later sitting to a record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.result_pages.record import Record, RecordedExperiment, RecordedRun, RecordError

_SEEDS = "seeds"


def extended(record: Record, later: Record) -> Record:
    """Return a record with the runs of a later one of the same name.

    An experiment of the later record continues the one with the same spec apart from its seeds, or is added. If both
    have a run, the earlier one stays. Texts of the later record replace those of the earlier one if there are any.

    Args:
        record: The record so far.
        later: What was collected since.

    Raises:
        RecordError: A teacher has other weights than before, so that its students would not be comparable.
    """
    environments = list(record.environments)
    curves = dict(record.curves)
    experiments = list(record.experiments)
    for added in later.experiments:
        index = next((at for at, known in enumerate(experiments) if _same(known, added)), len(experiments))
        known = experiments[index] if index < len(experiments) else replace(added, runs=[])
        runs = {(run.label, run.seed): run for run in known.runs}
        for run in added.runs:
            before = runs.get((run.label, run.seed))
            if before is None:
                moved = _moved(run, index, later, environments)
                runs[run.label, run.seed] = moved
                curves[moved.curve] = later.curves[run.curve]
            elif run.role == "teacher" and run.weights != before.weights:
                weights = f"the weights {run.weights[:16]}… and had {before.weights[:16]}… before"
                raise RecordError(
                    f"{added.spec['name']}: {run.label} has {weights}; students of different teachers cannot be added "
                    "to each other"
                )
        seeds = sorted({*known.spec[_SEEDS], *added.spec[_SEEDS]})
        order = [label for label, _ in runs]
        ordered = sorted(runs.values(), key=lambda run: (run.role != "teacher", run.seed, order.index(run.label)))
        experiments[index : index + 1] = [RecordedExperiment(known.spec | {_SEEDS: seeds}, known.choice, ordered)]
    return Record(
        record.name,
        later.title if later.title != later.name else record.title,
        later.question or record.question,
        later.notes or record.notes,
        experiments,
        environments,
        curves,
    )


def _same(one: RecordedExperiment, other: RecordedExperiment) -> bool:
    def rest(item: RecordedExperiment) -> dict[str, Any]:
        return {name: value for name, value in item.spec.items() if name != _SEEDS}

    return rest(one) == rest(other) and one.choice == other.choice and isinstance(one.spec[_SEEDS], list)


def _moved(run: RecordedRun, index: int, later: Record, environments: list[dict[str, str]]) -> RecordedRun:
    """Return a run as the record contains it: its environment and the name of its curve are of this record."""
    environment = later.environments[run.environment]
    if environment not in environments:
        environments.append(environment)
    _, _, name = run.curve.partition("-")
    return replace(run, environment=environments.index(environment), curve=f"{index + 1}-{name}")
