"""The table of measured and published accuracies, and of missing trainings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reproduction.cells import Outcome
from benchmarks.reproduction.pairs import TEACHER, TITLES, Pair, Setting


@dataclass
class Results:
    """The results of a pair under one setting.

    Attributes:
        methods: methods of the table; a cell without an outcome is missing.
        seeds: seeds of the table.
        failures: reasons of failed trainings by name; the next run repeats them.
    """

    pair: Pair
    setting: Setting
    methods: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        setting = {name: getattr(self.setting, name) for name in ("epochs", "train_images", "test_images")}
        return {
            "pair": self.pair.name,
            "reproduction": not self.setting.shortened,
            "setting": setting,
            "methods": self.methods,
            "seeds": self.seeds,
            "failures": self.failures,
            "cells": [outcome.to_json() for outcome in self.outcomes.values()],
        }

    def read(self, data: dict[str, Any]) -> None:
        """Add stored results. Raises ValueError if they have another pair or setting."""
        setting = Setting(**data["setting"])
        if (data["pair"], setting) != (self.pair.name, self.setting):
            stored = f"{data['pair']} ({setting.sentence() or 'the whole recipe'})"
            raise ValueError(f"the stored results are of {stored}; choose another --out")
        self.methods = [name for name in TITLES if name in {*data["methods"], *self.methods}]
        self.seeds = sorted({*data["seeds"], *self.seeds})
        self.outcomes = {
            (outcome.method, outcome.seed): outcome for outcome in map(Outcome.from_json, data["cells"])
        } | self.outcomes


def markdown(results: Results) -> str:
    """Return the page."""
    pair, setting = results.pair, results.setting
    outcomes = list(results.outcomes.values())
    lines = []
    if setting.shortened:
        lines += [
            f"# {pair.name}, shortened: not a reproduction",
            "",
            f"**Shortened to {setting.sentence()}.** It shows that the script works from end to end; its accuracies "
            "are not comparable with published ones.",
        ]
    else:
        lines += [f"# {pair.name}, with the published recipe"]
    lines += ["", f"`{_command(results)}` writes this table: top-1 on the test images in %, mean ± sd over seeds.", ""]
    published = "published (240 epochs, all images)" if setting.shortened else "published"
    difference = "" if setting.shortened else " oracle − published |"
    lines += [
        f"| | last epoch | best test epoch (oracle) | n | missing | {published} |{difference} minutes per training |",
        "|---|---|---|---|---|---|" + ("---|" if difference else "") + "---|",
    ]
    lines += [_row(results, method) for method in results.methods]
    lines += [
        "",
        "The published numbers are means of the best *test* epoch (for the teacher: one checkpoint). Compare them with "
        "the oracle, which is also selected on the test images and not used otherwise. The main result is that of the "
        "last epoch.",
    ]
    for key, title in (("machine", "Machine"), ("device", "Device"), ("torch", "torch"), ("precision", "Precision")):
        values = sorted({str(getattr(outcome, key)) for outcome in outcomes})
        lines += ["", f"{title}: {', '.join(values)}."] if values else []
    if outcomes:
        minutes = sum(outcome.seconds for outcome in outcomes) / 60
        resumed = [f"{outcome.method} seed {outcome.seed}" for outcome in outcomes if outcome.starts > 1]
        lines += ["", f"{len(outcomes)} trainings, {minutes:.1f} minutes of training in total."]
        if resumed:
            lines[-1] += f" Resumed from a checkpoint after an interruption: {', '.join(resumed)}."
    lines += ["", *(f"Failed: {name}: {reason}." for name, reason in results.failures.items())]
    return "\n".join(lines).rstrip() + "\n"


def _command(results: Results) -> str:
    """Return the command that makes this table."""
    setting = results.setting
    flags = {"--epochs": setting.epochs, "--train-images": setting.train_images, "--test-images": setting.test_images}
    options = [f"{flag} {value}" for flag, value in flags.items() if value is not None]
    seeds = f"--seeds {' '.join(map(str, results.seeds))}"
    return " ".join(["python -m benchmarks.reproduce", results.pair.name, *options, seeds])


def _row(results: Results, method: str) -> str:
    # One teacher serves all seeds of its students.
    expected = None if method == TEACHER else results.seeds
    outcomes = [outcome for (name, _), outcome in results.outcomes.items() if name == method]
    missing = "–"
    if expected is None:
        missing = "–" if outcomes else "all"
    elif absent := [seed for seed in expected if (method, seed) not in results.outcomes]:
        missing = "all" if not outcomes else "seed " + ", ".join(map(str, absent))
    published = results.pair.published.get(method)
    oracle = [outcome.oracle for outcome in outcomes]
    cells = [
        TITLES[method],
        _mean_sd([outcome.top1 for outcome in outcomes]),
        _mean_sd(oracle),
        f"{len(outcomes)} of {1 if expected is None else len(expected)}",
        missing,
        "–" if published is None else f"{published:.2f}",
    ]
    if not results.setting.shortened:
        comparable = published is not None and oracle
        cells.append(f"{statistics.mean(oracle) - (published or 0):+.2f}" if comparable else "–")
    cells.append(f"{statistics.mean(outcome.seconds for outcome in outcomes) / 60:.1f}" if outcomes else "–")
    return "| " + " | ".join(cells) + " |"


def _mean_sd(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
