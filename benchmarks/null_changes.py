"""How many changes without any effect a keep-if-better loop keeps: with one seed, with means, and with the referee.

A loop proposes changes one after the other, trains each, and keeps those that it takes for better. Here all changes
are null changes: what they change in a result is the noise of the seed alone, drawn from recorded trainings
(``results/seed-differences.json``): one method on scikit-learn's digits over 40 seeds. Every decision of the referee
is made by the project's own code, from rows in a database over the comparison to ``client.referee``.

    python -m benchmarks null_changes record DIR    # trains the pairs; resumes in DIR
    python -m benchmarks null_changes               # writes results/null-changes.md; resumes
    python -m benchmarks null_changes table         # writes it from the loops that have ended, without simulating
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from backend import comparisons
from backend.db import Database, migrate, models, now
from backend.experiments import planning
from backend.metrics import point_store
from benchmarks import machine
from client import referee
from common.atomic_write import atomic_write
from core.events import Metrics, Record
from core.specs import parse_experiment

RESULTS = Path(__file__).parent / "results"
RECORDED = RESULTS / "seed-differences.json"
TABLE = RESULTS / "null-changes.md"
OUTCOMES = RESULTS / "null-changes.json"
CHANGES = 200
SEEDS = 8
MORE_SEEDS = 4
MOST_SEEDS = 20
"""How a loop goes on that adds seeds until it likes the verdict."""
GAINS = (0.0, 1.0, 2.0)
"""True effects of the changes, in standard deviations of a difference of two trainings."""
RECORDED_SEEDS = 40
# The two temperatures differ in rounding alone.
RECORDED_SPEC: dict[str, Any] = {
    "name": "seed-differences",
    "dataset": "digits",
    "teacher": {"model": "resnet8", "training": {"epochs": 10, "optimizer": {"lr": 0.1}}},
    "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
    "methods": [
        {"name": "kd", "label": "baseline", "params": {"temperature": 4.0}},
        {"name": "kd", "label": "rounded", "params": {"temperature": 4.000001}},
    ],
    "seeds": list(range(RECORDED_SEEDS)),
    "training": {"epochs": 20, "optimizer": {"lr": 0.05}},
}


@dataclass(frozen=True)
class Recorded:
    """Accuracies of recorded trainings in %, by seed.

    Attributes:
        baseline: Accuracies of the baseline.
        rounded: Accuracies over the same seeds of a method that differs from the baseline in rounding alone.
    """

    baseline: Sequence[float]
    rounded: Sequence[float]

    @classmethod
    def read(cls, path: Path = RECORDED) -> Recorded:
        """Read the recorded accuracies."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["baseline"], content["rounded"])

    @property
    def sd(self) -> float:
        """Return the standard deviation of the difference of two trainings with independent seeds."""
        return math.sqrt(2) * statistics.stdev(self.baseline)

    @property
    def rounding_sd(self) -> float:
        """Return the standard deviation of the difference that rounding alone makes."""
        return statistics.stdev(one - base for base, one in zip(self.baseline, self.rounded, strict=True))


class Noise:
    """Draws trainings of a baseline and of a change.

    A change of the code usually draws other random numbers from the same seed, so its training is as far from the
    baseline's as that of another seed.

    Args:
        recorded: The recorded trainings.
        gain: True effect of the change, in points.
        generator: Source of randomness.
    """

    def __init__(self, recorded: Recorded, gain: float, generator: np.random.Generator) -> None:
        self._recorded, self._gain, self._generator = recorded, gain, generator

    def pairs(self, seeds: int) -> list[tuple[float, float]]:
        """Return (baseline, change) for each seed."""
        drawn = self._generator.choice(self._recorded.baseline, (seeds, 2))
        return [(float(base), float(changed + self._gain)) for base, changed in drawn]


class Lab:
    """A database in which every comparison is made as the backend makes it.

    Args:
        folder: Where the database is.
    """

    def __init__(self, folder: Path) -> None:
        self._database = Database(f"sqlite:///{folder / 'dkd.sqlite3'}")
        migrate.upgrade(self._database)
        self._count = 0

    def close(self) -> None:
        """Close the database."""
        self._database.dispose()

    def keeps(self, pairs: Sequence[tuple[float, float]]) -> bool:
        """Return whether the referee permits replacing the baseline, for finished runs with these accuracies."""
        (ruling,) = self.rulings(pairs)
        return ruling.decision == "keep"

    def rulings(self, pairs: Sequence[tuple[float, float]]) -> list[referee.Ruling]:
        """Store an experiment with these accuracies, compare its methods, and return the referee's rulings."""
        self._count += 1
        values = {("baseline", seed): base for seed, (base, _) in enumerate(pairs)}
        values |= {("change", seed): changed for seed, (_, changed) in enumerate(pairs)}
        experiment_id = self._insert(values, len(pairs))
        with self._database.read() as session:
            experiment = session.get_one(models.Experiment, experiment_id)
            return referee.rule(comparisons.compare(session, [experiment]))

    def _insert(self, values: Mapping[tuple[str, int], float], seeds: int) -> str:
        spec = {
            "name": f"change {self._count}",
            "dataset": "digits",
            "student": {"model": "small_cnn"},
            "methods": [{"name": "ce", "label": "baseline"}, {"name": "ce", "label": "change"}],
            "seeds": list(range(seeds)),
            "training": {"epochs": 1},
        }
        run, used = models.Run, models.ExperimentRun
        with self._database.write() as session:
            connection = session.connection()
            (created,) = planning.create(connection, [("", parse_experiment(spec))], submitted_by="benchmark")
            query = select(used.label, run).join(run, run.id == used.run_id).where(used.experiment_id == created.id)
            for label, row in session.execute(query).all():
                event = Metrics(step=1, epoch=1.0, elapsed=1.0, values={"test/top1": values[label, row.seed]})
                row.ingest = point_store.insert(connection, row.id, row.ingest, [Record(seq=1, time=1.0, event=event)])
                row.state, row.test_size, row.ended_at = "succeeded", 901, now(session)
        return created.id


@dataclass(frozen=True)
class Outcome:
    """What a loop did with its changes.

    Attributes:
        kept: Number of kept changes.
        runs: Number of trainings.
        claimed: Gain that the loop reports, in points: the sum of the differences of the changes that it kept.
    """

    kept: int
    runs: int
    claimed: float


Loop = Callable[[Noise, Lab, int], Outcome]


def one_seed(noise: Noise, lab: Lab, changes: int) -> Outcome:
    """Train the change and the baseline with one new seed, and keep the change if its number is higher."""
    differences = [changed - base for ((base, changed),) in (noise.pairs(1) for _ in range(changes))]
    kept = [difference for difference in differences if difference > 0]
    return Outcome(len(kept), 2 * changes, sum(kept))


def best_so_far(noise: Noise, lab: Lab, changes: int) -> Outcome:
    """Train the change with one fixed seed, and keep it if its number is above the best so far."""
    ((first, _),) = noise.pairs(1)
    best, kept = first, 0
    for _ in range(changes):
        ((base, changed),) = noise.pairs(1)
        number = first + changed - base
        if number > best:
            best, kept = number, kept + 1
    return Outcome(kept, changes + 1, best - first)


def higher_mean(noise: Noise, lab: Lab, changes: int) -> Outcome:
    """Keep the change if its mean over several seeds is higher."""
    means = [statistics.fmean(changed - base for base, changed in noise.pairs(SEEDS)) for _ in range(changes)]
    kept = [mean for mean in means if mean > 0]
    return Outcome(len(kept), 2 * SEEDS * changes, sum(kept))


def refereed(noise: Noise, lab: Lab, changes: int) -> Outcome:
    """Keep the change if the referee says so."""
    kept = [pairs for pairs in (noise.pairs(SEEDS) for _ in range(changes)) if lab.keeps(pairs)]
    return Outcome(len(kept), 2 * SEEDS * changes, _claimed(kept))


def confirmed(noise: Noise, lab: Lab, changes: int) -> Outcome:
    """Keep the change if the referee says so twice, the second time over new seeds."""
    kept, runs = [], 0
    for _ in range(changes):
        runs += 2 * SEEDS
        if not lab.keeps(noise.pairs(SEEDS)):
            continue
        again = noise.pairs(SEEDS)
        runs += 2 * SEEDS
        if lab.keeps(again):
            kept.append(again)
    return Outcome(len(kept), runs, _claimed(kept))


def peeking(noise: Noise, lab: Lab, changes: int) -> Outcome:
    """Add seeds until the referee says that the change may be kept: a misuse."""
    kept, runs = [], 0
    for _ in range(changes):
        pairs = noise.pairs(SEEDS)
        while not (keep := lab.keeps(pairs)) and len(pairs) < MOST_SEEDS:
            pairs += noise.pairs(MORE_SEEDS)
        runs += 2 * len(pairs)
        if keep:
            kept.append(pairs)
    return Outcome(len(kept), runs, _claimed(kept))


def _claimed(kept: Sequence[Sequence[tuple[float, float]]]) -> float:
    return sum(statistics.fmean(changed - base for base, changed in pairs) for pairs in kept)


LOOPS: dict[str, Loop] = {
    "one seed, baseline trained again": one_seed,
    "one seed, against the best number so far": best_so_far,
    f"mean of {SEEDS} seeds": higher_mean,
    f"referee, {SEEDS} seeds": refereed,
    f"referee, {SEEDS} seeds, confirmed over {SEEDS} new ones": confirmed,
    f"misuse: {MORE_SEEDS} seeds added, up to {MOST_SEEDS}, until the referee agrees": peeking,
}


def simulate(
    recorded: Recorded, changes: int, loops: Mapping[str, Loop] | None = None, stored: Path | None = None
) -> dict[str, list[Outcome]]:
    """Run every loop over changes of every true gain.

    Args:
        recorded: The recorded trainings.
        changes: Number of changes of each loop.
        loops: The loops by name; all by default.
        stored: File to which each outcome is added, and from which those of an interrupted simulation are read; None
            for none. An outcome depends on no other, so a simulation that was resumed has the same outcomes.

    Returns:
        For each loop, its outcome for each of ``GAINS``.
    """
    done = _read_outcomes(stored, changes)
    outcomes: dict[str, list[Outcome]] = {}
    for number, (name, loop) in enumerate((loops or LOOPS).items()):
        outcomes[name] = []
        for gain in GAINS:
            key = _key(name, gain)
            if key not in done:
                done[key] = _run_loop(loop, recorded, changes, gain, [2026, number, round(10 * gain)])
                _write_outcomes(stored, changes, done)
            outcomes[name].append(done[key])
    return outcomes


def ended(stored: Path, changes: int) -> dict[str, list[Outcome]]:
    """Return the stored outcomes of the loops that have one for each of ``GAINS``."""
    done = _read_outcomes(stored, changes)
    found = {name: [done.get(_key(name, gain)) for gain in GAINS] for name in LOOPS}
    return {name: [one for one in outcomes if one] for name, outcomes in found.items() if all(outcomes)}


def _key(name: str, gain: float) -> str:
    return f"{name} | {gain:g} sd"


def _run_loop(loop: Loop, recorded: Recorded, changes: int, gain: float, seed: Sequence[int]) -> Outcome:
    noise = Noise(recorded, gain * recorded.sd, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder, closing(Lab(Path(folder))) as lab:
        return loop(noise, lab, changes)


def _read_outcomes(stored: Path | None, changes: int) -> dict[str, Outcome]:
    content = json.loads(stored.read_text(encoding="utf-8")) if stored and stored.is_file() else {}
    if content.get("changes") != changes:
        return {}
    return {key: Outcome(**outcome) for key, outcome in content["outcomes"].items()}


def _write_outcomes(stored: Path | None, changes: int, outcomes: Mapping[str, Outcome]) -> None:
    if stored is not None:
        content = {"changes": changes, "outcomes": {key: asdict(outcome) for key, outcome in outcomes.items()}}
        atomic_write(stored, json.dumps(content, indent=1) + "\n")


_TEXT = """\
# Changes that a keep-if-better loop keeps

`python -m benchmarks null_changes` writes this table. Each loop sees {changes} changes, one after the other. A null
change has no effect: its training differs from the baseline's as that of another seed does. The noise is that of
{seeds} recorded trainings on digits (one of 901 test images is 0.11 %). Accuracy has an sd of {sd:.2f} points over
the seeds, and a difference of two trainings one of {difference_sd:.2f} points. (A change that alters rounding alone
moves the accuracy of a seed by {rounding_sd:.2f} points, as an sd.) Every null change that is kept is a mistake, and
every claimed gain is noise. The last columns show how many changes are kept that truly gain 1 or 2 sd of a
difference.

| loop | trainings per change | null changes kept | claimed gain (points; true: 0) | kept at 1 sd | kept at 2 sd |
|---|---|---|---|---|---|
{rows}

The referee's decision is that of the comparison: a two-sided sign-flip p below 0.05 after Holm over the report, and a
95 % t interval without zero. An error in the other direction discards the change, so about half of all errors keep one.
A long loop still keeps some null changes; a second comparison over new seeds removes nearly all of them. No p value
holds if seeds are added until the verdict changes.

Machine: {machine}.
"""


def render(recorded: Recorded, outcomes: Mapping[str, Sequence[Outcome]], changes: int) -> str:
    """Return the table as Markdown."""
    rows = []
    for name, (null, *real) in outcomes.items():
        cells = [f"{null.runs / changes:.1f}", f"{null.kept} of {changes} ({100 * null.kept / changes:.1f} %)"]
        cells += [f"{null.claimed:+.2f}", *(f"{one.kept} of {changes}" for one in real)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return _TEXT.format(
        changes=changes,
        seeds=len(recorded.baseline),
        sd=statistics.stdev(recorded.baseline),
        difference_sd=recorded.sd,
        rounding_sd=recorded.rounding_sd,
        rows="\n".join(rows),
        machine=machine.describe(),
    )


def record(folder: Path) -> None:
    """Train the recorded pairs in ``folder``, and store their accuracies."""
    from core.standalone import run_experiment  # imports torch

    spec = parse_experiment(RECORDED_SPEC)
    run_experiment(spec, folder)
    values: dict[str, list[float]] = {}
    for label in ("baseline", "rounded"):
        values[label] = [_accuracy(folder, label, seed) for seed in range(RECORDED_SEEDS)]
    content = {"spec": RECORDED_SPEC, **values, "machine": machine.describe()}
    RECORDED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _accuracy(folder: Path, label: str, seed: int) -> float:
    from core.events import JOURNAL_NAME, Finished, read_journal

    records = read_journal(folder / f"{label}-seed{seed}" / JOURNAL_NAME)
    (finished,) = (item.event for item in records if isinstance(item.event, Finished))
    return round(finished.summary["test/top1"], 6)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks null_changes")
    parser.add_argument("command", nargs="?", choices=("record", "simulate", "table"), default="simulate")
    parser.add_argument("folder", nargs="?", type=Path, help="for record: where the trainings are")
    parser.add_argument("--changes", type=int, default=CHANGES)
    options = parser.parse_args(arguments)
    if options.command == "record":
        if options.folder is None:
            parser.error("record needs a folder")
        record(options.folder)
        return
    recorded = Recorded.read()
    if options.command == "table":
        outcomes = ended(OUTCOMES, options.changes)
    else:
        outcomes = simulate(recorded, options.changes, stored=OUTCOMES)
    text = render(recorded, outcomes, options.changes)
    TABLE.write_text(text, encoding="utf-8")
    print(text)
