"""The table of a spec with many methods, from the folder that ``python -m core run SPEC --out DIR`` has written.

    python -m benchmarks every-method SPEC.yaml DIR [--write FILE]

With few methods, the sentence of each comparison follows, as the dashboard shows it. The table may be made at any time:
runs that have not finished are counted as missing. It is printed and written to
``benchmarks/results/methods-cifar100.md``, or to ``--write FILE``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.comparisons import verdicts
from backend.comparisons.statistics import summarize
from core.catalog import DATASETS, METRICS
from core.catalog.datasets import headline_of
from core.catalog.models import network_title
from core.events import JOURNAL_NAME, Event, Finished, Metrics, Started, read_journal
from core.specs import ExperimentSpec, PlannedRun, read_experiment

RESULT = Path(__file__).parent / "results" / "methods-cifar100.md"
_BASELINE = "ce"
_COLUMNS = {
    "classification": {"fidelity/agreement": "agreement with the teacher"},
    "detection": {"test/ap50": "AP50", "fidelity/detections": "F1 with the teacher's detections"},
}
"""What the table has beside the headline metric, by task: names of metrics and heads of columns."""
_MOST_SENTENCES = 12


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        result: Its headline metric after the last epoch, in %.
        values: All metrics after the last epoch.
        minutes: Duration of the training.
        started: What it said about the data and the machine.
    """

    result: float
    values: Mapping[str, float]
    minutes: float
    started: Started


def outcomes_of(spec: ExperimentSpec, folder: Path) -> dict[tuple[str, int], Outcome]:
    """Return the finished runs of an experiment, by label and seed."""
    journals = {
        json.loads(path.read_text(encoding="utf-8")): path.with_name(JOURNAL_NAME)
        for path in folder.glob("*/fingerprint.json")
    }
    headline = headline_of(spec.dataset.name)
    found = {}
    for planned in spec.plan():
        journal = journals.get(planned.spec.fingerprint())
        if journal and (outcome := _outcome([record.event for record in read_journal(journal)], headline)):
            found[_key(planned)] = outcome
    return found


def _key(planned: PlannedRun) -> tuple[str, int]:
    return planned.label, planned.spec.seed


def _outcome(events: Sequence[Event], headline: str) -> Outcome | None:
    if not events or not isinstance(events[-1], Finished):
        return None
    summary = events[-1].summary
    elapsed = [event.elapsed for event in events if isinstance(event, Metrics)][-1]
    started = [event for event in events if isinstance(event, Started)][-1]
    return Outcome(summary[headline], summary, elapsed / 60, started)


def markdown(spec: ExperimentSpec, outcomes: dict[tuple[str, int], Outcome], command: str) -> str:
    """Return the page.

    Args:
        spec: The experiment.
        outcomes: Its finished runs, of which there is one at least.
        command: What makes the page.
    """
    plan = [_key(planned) for planned in spec.plan()]
    labels = list(dict.fromkeys(label for label, _ in plan))
    started = next(iter(outcomes.values())).started
    headline = METRICS[headline_of(spec.dataset.name)]
    columns = _COLUMNS[DATASETS[spec.dataset.name].task]
    heads = " | ".join(columns.values())
    differences = {label: _differences(outcomes, label, spec.first_seeds) for label in labels}
    tests = {label: verdicts.Test.of(values) for label, values in differences.items() if len(values) > 1}
    decisions = dict(zip(tests, verdicts.decide(list(tests.values())), strict=True))
    minutes = sum(outcome.minutes for outcome in outcomes.values())
    student_model = network_title(spec.student.model.name, spec.student.model.params)
    students = f"{student_model}, {spec.training.epochs} epochs, batch {spec.training.batch_size}"
    teacher = f"{network_title(spec.teacher.model.name, spec.teacher.model.params)} → " if spec.teacher else ""
    lines = [
        f"# {spec.name}",
        "",
        f"`{command}` writes this table from the runs of `python -m core run`: {teacher}{students}, "
        f"{started.train_size:,} training and {started.test_size:,} test images, seeds "
        f"{', '.join(map(str, spec.seeds))}.",
        "",
        f"| method | {headline.title} | n | difference from CE | p, adjusted | {heads} | minutes |",
        "|---|" + "---:|" * (5 + len(columns)),
        *(
            _row(label, outcomes, columns, differences[label], decisions[label].p_holm if label in decisions else None)
            for label in labels
        ),
        "",
        f"{headline.title} is that of the last epoch, in {headline.unit} (mean ± standard deviation over seeds). The "
        "difference is that of runs with one seed, which begin with the same weights and see the same images, in "
        "points with its 95 % t interval. p is that of the exact sign-flip test, adjusted for all methods (Holm).",
        "",
        *(_sentences(tests, decisions) if 0 < len(tests) <= _MOST_SENTENCES else ()),
        _limits(spec, started),
        "",
        f"{len(outcomes)} of {len(plan)} runs, {minutes:,.0f} minutes of training; {_machine(outcomes)}.",
    ]
    return "\n".join(lines) + "\n"


def _sentences(tests: Mapping[str, verdicts.Test], decisions: Mapping[str, verdicts.Decision]) -> list[str]:
    """Return a sentence about each comparison."""
    found = {
        label: verdicts.sentence(test, decisions[label], label=label, baseline=_BASELINE, unit="points")
        for label, test in tests.items()
    }
    return [*(f"- **{label}**: {text}" for label, text in found.items()), ""]


def _differences(outcomes: dict[tuple[str, int], Outcome], label: str, seeds: Sequence[int]) -> list[float]:
    """Return the differences of a method from the students without a teacher, seed by seed."""
    if label == _BASELINE or label.startswith("teacher"):
        return []
    pairs = [(outcomes.get((label, seed)), outcomes.get((_BASELINE, seed))) for seed in seeds]
    return [one.result - other.result for one, other in pairs if one and other]


def _row(
    label: str,
    outcomes: dict[tuple[str, int], Outcome],
    columns: Mapping[str, str],
    differences: Sequence[float],
    adjusted: float | None,
) -> str:
    mine = [outcome for (name, _), outcome in outcomes.items() if name == label]
    cells = [
        label,
        _mean_sd([outcome.result for outcome in mine]),
        str(len(mine)),
        _with_interval(differences),
        "" if adjusted is None else f"{adjusted:.2f}" if adjusted >= 0.01 else "< 0.01",
        *(_mean([outcome.values[name] for outcome in mine if name in outcome.values]) for name in columns),
        _mean([outcome.minutes for outcome in mine]),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f}" if values else ""


def _mean_sd(values: Sequence[float]) -> str:
    if not values:
        return "missing"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _with_interval(differences: Sequence[float]) -> str:
    if not differences:
        return ""
    interval = summarize(differences).interval
    bounds = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else ""
    return f"{statistics.mean(differences):+.2f}{bounds}"


def _limits(spec: ExperimentSpec, started: Started) -> str:
    """Return the conclusions that the table permits, and those that it does not."""
    seeds = len(spec.first_seeds)
    of_images = ""
    if DATASETS[spec.dataset.name].task == "classification":
        error = 100 * (0.25 / started.test_size) ** 0.5
        of_images = f"one result alone has a standard error of up to {error:.1f} points from the test images, "
    return (
        "**What it can say:** each method completes and learns, and which of them are far from the others. **What it "
        f"cannot:** which of two near methods is better. With {seeds} seeds an interval is {_factor(seeds)} standard "
        f"errors wide to each side, {of_images}the training is far shorter than those of published tables, and the "
        "weights of the methods are of other networks and data. All students share one teacher, so that nothing is "
        "known about others."
    )


def _factor(n: int) -> str:
    from scipy.special import stdtrit

    return f"{stdtrit(n - 1, 0.975):.1f}" if n > 1 else "infinitely many"


def _machine(outcomes: dict[tuple[str, int], Outcome]) -> str:
    environments = [outcome.started.environment for outcome in outcomes.values()]
    values = (sorted({environment.get(name, "") for environment in environments}) for name in ("processor", "torch"))
    processors, versions = values
    precisions = sorted({environment.get("precision", "") for environment in environments})
    return f"{', '.join(processors)}, torch {', '.join(versions)}, {', '.join(precisions)}"


def main(arguments: list[str] | None = None) -> None:
    """Make the table, print it and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks every-method", description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--write", type=Path, default=RESULT, metavar="FILE")
    options = parser.parse_args(arguments)
    spec = read_experiment(options.spec)
    outcomes = outcomes_of(spec, options.out)
    if not outcomes:
        parser.error(f"{options.out} contains no finished run of {options.spec}")
    target = "" if options.write == RESULT else f" --write {options.write}"
    text = markdown(spec, outcomes, f"python -m benchmarks every-method {options.spec} DIR{target}")
    options.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
