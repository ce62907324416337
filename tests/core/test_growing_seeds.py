"""``python -m core run`` adds seeds until every comparison is decided: small campaigns, given and trained."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import growing_seeds
from core.growing_seeds import Results
from core.specs import ExperimentSpec, parse_experiment
from core.standalone import run_experiment

UNTIL: dict[str, Any] = {"until": "decided", "difference": 1.0, "most": 10}


def spec(**changes: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "grown",
            "dataset": "digits",
            "teacher": {"model": "small_cnn"},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": ["ce", "kd", {"name": "dkd", "label": "dkd"}],
            "seeds": UNTIL,
            "training": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05}},
        }
        | changes
    )


def noise(label: str, seed: int) -> float:
    return random.Random(f"{label} {seed}").gauss(0, 0.2)


def campaign(experiment: ExperimentSpec, value: Callable[[str, int], float | None]) -> tuple[list[Any], Results]:
    """Return the students' runs of a campaign with these results, and the results."""
    results, taken = Results(), []
    for run in growing_seeds.runs(experiment, results):
        if run.spec.role == "student":
            taken.append((run.label, run.spec.seed))
            if (result := value(run.label, run.spec.seed)) is not None:
                results.add(run.label, run.spec.seed, result, "images")
    return taken, results


def test_each_comparison_takes_the_seeds_that_it_needs() -> None:
    def value(label: str, seed: int) -> float:
        return {"ce": 80.0, "kd": 90.0, "dkd": 80.0}[label] + noise(label, seed) * (40 if label == "dkd" else 1)

    taken, results = campaign(spec(), value)
    by_label = {label: [seed for other, seed in taken if other == label] for label in ("ce", "kd", "dkd")}
    assert by_label == {"ce": list(range(10)), "kd": list(range(8)), "dkd": list(range(10))}
    text = growing_seeds.sentences(spec(), results)
    assert text[0].startswith("kd is better than ce: after 8 of at most 10 seeds")
    assert text[1].startswith("10 seeds cannot tell whether dkd is better or worse than ce")
    assert text[2] == "28 of at most 30 runs were trained: 2 were not needed."


def test_a_failed_run_is_a_missing_pair_that_is_named() -> None:
    def value(label: str, seed: int) -> float | None:
        return None if (label, seed) == ("kd", 1) else {"ce": 80.0, "kd": 90.0, "dkd": 70.0}[label] + noise(label, seed)

    taken, results = campaign(spec(), value)
    assert taken.count(("kd", 1)) == 1
    assert "kd: no pair for seed 1; the looks happened without it." in growing_seeds.sentences(spec(), results)


def test_a_baseline_that_always_fails_ends_it() -> None:
    taken, results = campaign(spec(), lambda label, seed: None if label == "ce" else 80.0 + noise(label, seed))
    assert max(seed for _, seed in taken) == 2
    text = growing_seeds.sentences(spec(), results)
    assert "kd against ce is not decided after 3 of at most 10 seeds: there is no pair" in text[0]


def test_results_of_other_images_and_results_that_are_not_numbers_are_no_pairs() -> None:
    results = Results()
    results.add("ce", 0, 80.0, "first")
    results.add("kd", 0, 82.0, "first")
    results.add("ce", 1, 80.0, "second")
    results.add("kd", 1, 82.0, "second")
    results.add("ce", 2, float("nan"), "first")
    results.add("kd", 2, 82.0, "first")
    assert [results.difference("kd", "ce", seed) for seed in range(4)] == [2.0, None, None, None]


def test_listed_seeds_are_all_trained_and_nothing_is_decided() -> None:
    listed = spec(seeds=[4, 2])
    taken, results = campaign(listed, lambda label, seed: 80.0)
    assert [seed for _, seed in taken] == [4, 4, 4, 2, 2, 2]
    assert growing_seeds.sentences(listed, results) == []


HARDLY_TRAINS = {"name": "kd", "label": "hardly", "params": {"ce_weight": 0.001, "kd_weight": 0.0}}


def test_a_training_campaign_stops_before_its_most_and_continues_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = spec(methods=["ce", HARDLY_TRAINS], seeds=UNTIL | {"most": 9, "alpha": 0.2})
    assert run_experiment(experiment, tmp_path) == 0
    output = capsys.readouterr().out
    assert "hardly is worse than ce: after " in output
    assert "of at most 18 runs were trained" in output
    folders = {path.name for path in tmp_path.iterdir()}
    assert {"ce-seed4", "hardly-seed4"} <= folders, "five pairs are the fewest that can decide"
    assert "ce-seed8" not in folders
    assert run_experiment(experiment, tmp_path) == 0  # everything is kept
    assert capsys.readouterr().out == output
    assert {path.name for path in tmp_path.iterdir()} == folders


def test_a_training_campaign_that_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = {"until": "decided", "first": 2, "most": 3, "difference": 0.01}
    experiment = spec(methods=["ce", {"name": "ce", "label": "again", "params": {}}], teacher=None, seeds=seeds)
    assert run_experiment(experiment, tmp_path) == 0
    assert "3 seeds cannot tell" in capsys.readouterr().out
