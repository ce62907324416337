"""Accuracy against cost: candidates from comparisons and measured networks, the front, and the smallest student."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client import costs
from client.costs import Candidate, Costs, CostsError
from core.protocol.comparisons import Comparison, Interval, MethodResult, RunValue, TeacherUsed
from tests.client import fakes


def network(run_id: str, model: str = "small_cnn", parameters: int = 1000, ms: float = 1.0) -> dict[str, Any]:
    """Return a network as ``dkd measure --json`` reports it; the quartiles are 10 % from the median."""
    latency = {"median": ms / 1000, "low": 0.9 * ms / 1000, "high": 1.1 * ms / 1000, "rounds": 15}
    return {
        "run_id": run_id,
        "name": f"{run_id} seed 0",
        "model": model,
        "fingerprint": "v1",
        "parameters": parameters,
        "weight_bytes": 4 * parameters,
        "flops": 2_000_000 * parameters,
        "peak_bytes": {"1": 1000, "64": 64_000},
        "latency": {"1": latency, "64": latency},
    }


def report(*networks: dict[str, Any]) -> dict[str, Any]:
    return {"device": "cpu", "threads": 1, "torch": "2.14.0", "networks": list(networks)}


def group(label: str, mean: float, half: float | None, *run_ids: str) -> MethodResult:
    runs = [
        RunValue(run_id=run_id, experiment="e", seed=seed, state="succeeded", value=mean)
        for seed, run_id in enumerate(run_ids)
    ]
    interval = Interval(low=mean - half, high=mean + half) if half else None
    return MethodResult(label=label, method=label, n=len(runs), mean=mean, interval=interval, runs=runs)


def comparison(name: str, *groups: MethodResult, **changes: Any) -> Comparison:
    teacher = TeacherUsed(run_id="t", fingerprint="v1", seed=0, state="succeeded", top1=98.0)
    values = {"experiment_id": name, "experiment": name, "title": "Test accuracy", "paired": []}
    return fakes.comparison(**values, groups=[*groups], teachers=[teacher], **changes)


MEASURED = Costs.model_validate(
    report(
        network("t", "resnet20", 270_000, 9.0),
        network("a0", parameters=1000, ms=1.0),
        network("a1", parameters=1000, ms=2.0),
        network("b0", parameters=1000, ms=1.0),
        network("c0", "resnet8", 78_000, 4.0),
        network("d0", "resnet14", 170_000, 6.0),
        network("other"),
    )
)
SMALL = comparison("small", group("kd", 95.0, 1.0, "a0", "a1"), group("dkd", 97.2, 0.5, "b0", "unmeasured"))
LARGE = comparison("large", group("kd", 97.5, 0.3, "c0"), group("dkd", 97.4, None, "d0"))


def _names(found: list[Candidate]) -> list[str]:
    return [item.name for item in found]


def test_candidates_are_what_was_compared_and_measured() -> None:
    found = costs.candidates([SMALL, LARGE], MEASURED)
    assert _names(found) == ["teacher resnet20", "small: kd", "small: dkd", "large: kd", "large: dkd"]
    teacher, kd, dkd = found[:3]
    assert (teacher.teacher, teacher.accuracy, teacher.interval, teacher.model) == (True, 98.0, None, "resnet20")
    assert (kd.n, len(kd.networks), dkd.n, len(dkd.networks)) == (2, 2, 2, 1)
    assert costs.unused(found, MEASURED) == 1
    assert _names(costs.candidates([SMALL], MEASURED)) == ["teacher resnet20", "kd", "dkd"]


def test_costs_are_medians_with_the_outermost_quartiles() -> None:
    kd = costs.candidates([SMALL], MEASURED)[1]
    axes = costs.axes(MEASURED)
    assert list(axes) == ["parameters", "weights", "flops", "latency 1", "memory 1", "latency 64", "memory 64"]
    latency = kd.cost(axes["latency 1"])
    assert (latency.value, latency.low, latency.high) == pytest.approx((1.5, 0.9, 2.2))
    counted = kd.cost(axes["parameters"])
    assert (counted.value, counted.low, counted.high) == (1000, 1000, 1000)
    assert kd.cost(axes["flops"]).value == pytest.approx(2000)
    assert axes["memory 64"].label == "peak memory, batch 64 (MB)"


def test_costs_are_those_that_every_network_has() -> None:
    one = network("a")
    one["latency"].pop("64")
    axes = costs.axes(Costs.model_validate(report(one, network("b"))))
    assert [name for name in axes if " " in name] == ["latency 1", "memory 1"]


def test_the_front_has_what_nothing_cheaper_reaches() -> None:
    found = costs.candidates([SMALL, LARGE], MEASURED)
    parameters = costs.axes(MEASURED)["parameters"]
    assert _names(costs.front(found, parameters)) == ["small: dkd", "large: kd", "teacher resnet20"]


def test_a_lower_value_can_be_better() -> None:
    found = [
        Candidate(item.run_id, item.run_id, item.model, False, 1, value, None, [item], unit="", better="lower")
        for item, value in zip(MEASURED.networks[:3], (2.0, 2.5, 3.0), strict=True)
    ]
    parameters = costs.axes(MEASURED)["parameters"]
    assert _names(costs.front(found, parameters)) == ["a0", "t"]
    chosen = costs.smallest_within(found, parameters, 0.1, "best")
    assert chosen is not None
    assert chosen.name == "t"


@pytest.mark.parametrize(
    ("margin", "reference", "expected"),
    [
        (5.0, "teacher", "small: dkd"),
        (0.6, "teacher", "large: kd"),
        (0.4, "teacher", None),
        (0.05, "best", "large: kd"),
        (0.3, "best", "small: dkd"),
    ],
)
def test_the_smallest_student_within_a_margin(margin: float, reference: costs.Reference, expected: str | None) -> None:
    found = costs.candidates([SMALL, LARGE], MEASURED)
    chosen = costs.smallest_within(found, costs.axes(MEASURED)["parameters"], margin, reference)
    assert (chosen.name if chosen else None) == expected


def test_a_choice_says_how_sure_the_seeds_make_it() -> None:
    found = costs.candidates([SMALL, LARGE], MEASURED)
    axes = costs.axes(MEASURED)
    sure = costs.choice_sentences(found, axes["parameters"], 2.0, "teacher")
    assert sure == [
        "Of the students within 2.00 percentage points of the teacher (98.00 %), small: dkd of small_cnn has the "
        "fewest parameters: 1,000, at 97.20 [96.70, 97.70] % (2 runs)."
    ]
    _, unsure = costs.choice_sentences(found, axes["latency 1"], 1.0, "teacher")
    assert unsure == "Its interval reaches beyond the margin, so further seeds can decide otherwise."
    alone = [item for item in found if item.name in ("teacher resnet20", "large: dkd")]
    _, unknown = costs.choice_sentences(alone, axes["parameters"], 1.0, "teacher")
    assert "no interval" in unknown
    assert costs.choice_sentences(found, axes["parameters"], 0.1, "teacher") == [
        "No measured student is within 0.10 percentage points of the teacher (98.00 %)."
    ]
    assert costs.choice_sentences(found[1:], axes["parameters"], 1.0, "teacher") == ["The teacher was not measured."]


def test_a_table_has_every_cost() -> None:
    found = costs.candidates([SMALL], MEASURED)
    row = costs.rows(found, MEASURED)[1]
    assert (row["Network"], row["Accuracy"], row["parameters"]) == ("kd", "95.00 % [94.00, 96.00]", "1,000")
    assert row["latency, batch 1 (ms)"] == "1.500 [0.9000, 2.200]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\x00", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (json.dumps(report({"run_id": "a"})).encode(), r"networks\.0\.name: Field required"),
    ],
)
def test_another_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(CostsError, match=f"not the output of `dkd measure --json`: .*{message}"):
        costs.read_costs(content)


def test_the_machine_is_named() -> None:
    assert costs.read_costs(json.dumps(report()).encode()).machine == "CPU, 1 thread, float32, torch 2.14.0"
    assert Costs.model_validate(report() | {"device": "NVIDIA H200"}).machine.startswith("NVIDIA H200, float32")
