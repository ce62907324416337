"""``python -m core run`` adds seeds until every comparison is decided: small campaigns, given and trained."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import growing_seeds
from core.cli import main
from core.growing_seeds import Results
from core.specs import ExperimentSpec, parse_experiment, parse_sweep
from core.specs.sweep import expand
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
    for _, run in growing_seeds.runs([experiment], [results]):
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


SWEEP: dict[str, Any] = {
    "name": "race",
    "experiment": {
        "dataset": "digits",
        "teacher": {"model": "small_cnn"},
        "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
        "methods": ["ce", "kd"],
        "seeds": UNTIL | {"most": 16, "difference": 0.1, "race": True},
        "training": {"epochs": 1, "batch_size": 16},
    },
    "grid": {"training.optimizer.lr": [0.01, 0.05, 0.08]},
}


def race(
    value: Callable[[str, str, int], float | None], **seeds: Any
) -> tuple[dict[tuple[str, str], list[int]], list[ExperimentSpec], list[Results]]:
    """Return the seeds of each experiment's methods in a sweep with these results."""
    experiment = SWEEP["experiment"] | {"seeds": SWEEP["experiment"]["seeds"] | seeds}
    specs = expand(parse_sweep(SWEEP | {"experiment": experiment}))
    results = [Results() for _ in specs]
    taken: dict[tuple[str, str], list[int]] = {}
    for place, run in growing_seeds.runs(specs, results):
        if run.spec.role == "student":
            name = specs[place].name
            taken.setdefault((name, run.label), []).append(run.spec.seed)
            if (result := value(name, run.label, run.spec.seed)) is not None:
                results[place].add(run.label, run.spec.seed, result, "images")
    return taken, specs, results


def nothing_decides(name: str, label: str, seed: int) -> float:
    """Return values whose methods cannot be told apart within an experiment, and whose settings clearly differ."""
    setting = {"race lr=0.01": 70.0, "race lr=0.05": 80.0, "race lr=0.08": 80.0}[name]
    alternating = 0.0 if label == "ce" else 1.0 if seed % 2 else -1.0
    return setting + alternating + noise(f"{name} {label}", seed) / 4


def test_a_setting_that_is_surely_worse_gets_no_more_seeds() -> None:
    taken, specs, results = race(nothing_decides)
    raced = {name: len(seeds) for (name, label), seeds in taken.items() if label == "kd"}
    assert raced == {"race lr=0.01": 9, "race lr=0.05": 16, "race lr=0.08": 16}
    assert len(taken["race lr=0.01", "ce"]) == 9, "the baseline gets no seeds without another method"
    text = growing_seeds.sentences(specs[0], results[0])
    assert "kd gets no more seeds here: it is surely better in race lr=0.05." in text
    assert "18 of at most 32 runs were trained: 14 were not needed." in text
    assert not any("no more seeds" in line for line in growing_seeds.sentences(specs[1], results[1]))


def test_without_a_race_every_setting_gets_its_own_seeds() -> None:
    taken, _, _ = race(nothing_decides, race=False)
    assert {len(seeds) for seeds in taken.values()} == {16}


def test_runs_that_failed_are_no_pairs_of_a_race() -> None:
    def value(name: str, label: str, seed: int) -> float | None:
        if name == "race lr=0.01" and label == "kd" and seed in (1, 4, 7):
            return None
        return nothing_decides(name, label, seed)

    taken, _, results = race(value)
    assert len(taken["race lr=0.01", "kd"]) == 11, "its eighth pair"
    assert results[0].outrun == {"kd": "race lr=0.05"}


def test_experiments_take_turns_seed_by_seed() -> None:
    specs = expand(parse_sweep(SWEEP))
    results = [Results() for _ in specs]
    order = []
    for place, run in growing_seeds.runs(specs, results):
        if run.spec.role == "student":
            order.append((place, run.spec.seed))
            results[place].add(
                run.label, run.spec.seed, nothing_decides(specs[place].name, run.label, run.spec.seed), ""
            )
    assert order[18:30] == [
        (0, 3),
        (0, 3),
        (1, 3),
        (1, 3),
        (2, 3),
        (2, 3),
        (0, 4),
        (0, 4),
        (1, 4),
        (1, 4),
        (2, 4),
        (2, 4),
    ]


def test_a_sweep_is_trained_with_one_teacher_and_a_folder_for_each_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(SWEEP | {"experiment": SWEEP["experiment"] | {"seeds": [0]}}), encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 0
    folders = sorted(str(item.relative_to(tmp_path / "out")) for item in (tmp_path / "out").glob("*/*-seed*"))
    students = [f"race-lr-{rate}/{label}-seed0" for rate in ("0.01", "0.05", "0.08") for label in ("ce", "kd")]
    assert folders == sorted([*students, "race-lr-0.01/teacher-seed0"])
    output = capsys.readouterr().out
    assert "race lr=0.05: kd " in output
    assert len(list((tmp_path / "out").glob("*/experiment.json"))) == 3
    assert "\nrace lr=0.08\n" in output


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
