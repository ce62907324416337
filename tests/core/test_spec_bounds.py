"""Specs beyond their bounds are refused with a path; stored ones are still read."""

from __future__ import annotations

import math
from typing import Any

import pytest

from core.specs import SpecError, load_text, parse_experiment, parse_stored_experiment, parse_sweep, with_field
from core.specs.run import RunSpec
from core.specs.sweep import expand

BASE: dict[str, Any] = {
    "name": "x",
    "dataset": "digits",
    "teacher": {"model": "resnet8"},
    "student": {"model": "small_cnn"},
    "methods": ["ce", "dkd"],
    "seeds": [0],
    "training": {"epochs": 2},
}
HUGE = 10**400


def problems(data: Any, **changes: Any) -> dict[str, str]:
    for path, value in changes.items():
        data = with_field(data, path, value)
    with pytest.raises(SpecError) as refused:
        parse_experiment(data)
    assert len(str(refused.value)) < 100_000
    return {problem.path: problem.message for problem in refused.value.problems}


NUMBERS = [
    "training.epochs", "training.batch_size", "training.schedule.warmup_epochs", "training.schedule.gamma",
    "training.freeze_batch_norm_after", "training.collapse_every", "training.optimizer.lr", "priority", "seeds.0",
    "teacher.seed", "resources.gpus", "methods.1.params.alpha", "methods.1.params.beta", "methods.1.params.ramp_epochs",
    "methods.1.params.temperature", "student.model.params.width", "dataset.params.val_seed",
]  # fmt: skip


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [HUGE, -HUGE, 2**63, 1.7e308, -1.7e308, "9" * 400, math.inf, math.nan, True])
def test_number_beyond_its_bounds_is_refused(path: str, value: Any) -> None:
    data = BASE | {"student": {"model": {"name": "small_cnn"}}, "methods": ["ce", {"name": "dkd"}]}
    assert path in problems(data, **{path: value}) or f"{path.rpartition('.')[0]}" in problems(data, **{path: value})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"methods": ["ce"] * 1001}, "methods"),
        ({"methods": [0] * 100_000}, "methods"),
        ({"tags": ["t"] * 21}, "tags"),
        ({"seeds": list(range(1001))}, "seeds"),
        ({"seeds": "0..99999999999999999"}, "seeds"),
        ({"seeds": {"from": -HUGE, "to": HUGE}}, "seeds"),
        ({"seeds": {"from": 0, "to": 5, "step": HUGE}}, None),
        ({"training.schedule": {"name": "step", "milestones": list(range(1, 102))}}, "training.schedule.milestones"),
        ({"training.schedule": {"name": "step", "milestones": [10_001]}}, "training.schedule.milestones.0"),
        ({"training.schedule.warmup_epochs": 10_001}, "training.schedule.warmup_epochs"),
        ({"training.freeze_batch_norm_after": 10_001}, "training.freeze_batch_norm_after"),
        ({"training.collapse_every": 10_001}, "training.collapse_every"),
        ({"student.model": "timm:" + "x" * 100}, "student.model.name"),
        ({"methods": ["d" * 100_000]}, "methods.0.name"),
        ({"preset": "p" * 100_000}, "preset"),
        ({"notes": "n" * 10_001}, "notes"),
        ({"training.stylised": "a\x1b"}, "training.stylised"),
        ({"teacher.weights": "a\x9bb"}, "teacher.weights.source"),
        ({"dataset": {"name": "folder", "params": {"path": "a\x1b", "image_size": 8}}}, "dataset.params.path"),
    ],
)
def test_list_or_text_beyond_its_bounds_is_refused(change: dict[str, Any], path: str | None) -> None:
    if path is None:
        data = BASE
        for place, value in change.items():
            data = with_field(data, place, value)
        assert parse_experiment(data).seeds == (0,)
    else:
        assert path in problems(BASE, **change)


def test_stored_spec_beyond_later_bounds_is_read() -> None:
    stored = with_field(BASE, "training.schedule", {"name": "cosine", "warmup_epochs": 10**6})
    stored = with_field(stored, "training.collapse_every", 10**7)
    stored = stored | {"methods": [{"name": "dkd", "params": {"ramp_epochs": 10**30, "beta": 1e200}}], "notes": "\x1b"}
    read = parse_stored_experiment(stored)
    assert read.training.schedule.warmup_epochs == 10**6
    run = read.plan()[1].spec
    assert RunSpec.model_validate_json(run.model_dump_json()) == run
    assert {"training.schedule.warmup_epochs", "training.collapse_every"} <= problems(stored).keys()


def test_texts_of_a_spec_are_normalised() -> None:
    spec = parse_experiment(
        BASE | {"name": "re\u0301sume\u0301", "tags": ["e\u0301"], "methods": [{"name": "ce", "label": "e\u0301"}]}
    )
    assert (spec.name, spec.tags, spec.methods[0].label) == ("r\u00e9sum\u00e9", ("\u00e9",), "\u00e9")
    twice = [{"name": "ce", "label": "\u00e9"}, {"name": "dkd", "label": "e\u0301"}]
    assert "methods.1.label" in problems(BASE | {"methods": twice})


@pytest.mark.parametrize("text", ["a\u3164", "\u2800", "a\ufe0f", "e" + "\u0301" * 90, "\ue000", "a\u00a0b"])
def test_invisible_name_tag_or_label_is_refused(text: str) -> None:
    messages = problems(BASE | {"name": text, "tags": [text], "methods": [{"name": "ce", "label": text}]})
    assert {"name", "tags.0"} <= messages.keys()
    assert "methods.0.label" in problems(BASE | {"methods": [{"name": "ce", "label": text}]})


SWEEP: dict[str, Any] = {"name": "s", "experiment": {name: BASE[name] for name in BASE if name != "name"}}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"grid": {f"g{i}": [1] for i in range(51)}}, "grid"),
        ({"random": {f"g{i}": {"choices": [1]} for i in range(51)}, "draws": 1}, "random"),
        ({"points": [{f"g{i}": 1 for i in range(51)}]}, "points"),
        ({"points": [{"seeds": [1]}] * 10_001}, "points"),
        ({"grid": {f"a{i}": [1] for i in range(40)}, "points": [{"x": 1}] * 6000, "max_runs": 10_000}, "max_runs"),
        ({"grid": {"training.epochs": [1, 2]}, "draws": HUGE}, "draws"),
        ({"grid": {"training.epochs": [1, 2]}, "seed": HUGE}, "seed"),
        ({"grid": {"training.epochs": [1, 2]}, "max_runs": HUGE}, "max_runs"),
        ({"random": {"training.epochs": {"low": 1, "high": 1.7e308, "integer": True}}, "draws": 2}, "random"),
        ({"grid": {"training.epochs": {"from": 0, "to": HUGE}}}, "grid"),
        ({"grid": {"training." * 10_000 + "epochs": [1]}}, "grid"),
    ],
)
def test_sweep_beyond_its_bounds_is_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        expand(parse_sweep(SWEEP | change))
    assert any(problem.path.startswith(path) for problem in refused.value.problems)
    assert len(refused.value.problems) <= 101


def test_sweep_of_invalid_points_stops_after_a_hundred() -> None:
    looked = 0

    def going_on() -> None:
        nonlocal looked
        looked += 1

    points = [{"training.epochs": -index} for index in range(1, 5001)]
    with pytest.raises(SpecError) as refused:
        expand(parse_sweep(SWEEP | {"points": points, "max_runs": 10_000}), going_on)
    assert looked == 100
    assert len(refused.value.problems) == 100


def test_sweep_stops_when_its_runs_exceed_the_limit() -> None:
    looked = 0

    def going_on() -> None:
        nonlocal looked
        looked += 1

    with pytest.raises(SpecError, match="more than 100 runs in all"):
        expand(parse_sweep(SWEEP | {"grid": {"training.epochs": "1..100"}, "max_runs": 100}), going_on)
    assert looked < 40


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
        "a: &a {x: 1}\nb: &b\n  <<: [" + ",".join(["*a"] * 101) + "]\n",
        "[" * 10_000,
        "{a: " * 10_000,
        "a: " + "9" * 10_000,
        "a: " + "9" * 400,
        "x" * (5 * 2**20),
    ],
)
def test_yaml_beyond_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        load_text(text)
