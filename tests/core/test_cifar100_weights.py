"""The table of published weights, and the preset that takes methods from it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from core.catalog import METHODS, MODELS
from core.papers import cifar100_weights
from core.papers.cifar100_weights import learning_rate_of, methods_for, pairs, sources_for
from core.specs import ExperimentSpec, parse_experiment, parse_text, to_yaml
from core.specs.warnings import warnings_of

TABLE = yaml.safe_load(cifar100_weights._FILE.read_text(encoding="utf-8"))


def spec_of(teacher: str, student: str, **more: Any) -> ExperimentSpec:
    pair = {"name": "p", "teacher": {"model": teacher}, "student": {"model": student}}
    return parse_experiment(pair | {"preset": "cifar100-tables"} | more)


def params_of(spec: ExperimentSpec, label: str) -> dict[str, Any]:
    return next(method.params for method in spec.methods if method.label == label)


def test_pairs_are_networks_of_the_catalog_and_each_is_named_once() -> None:
    assert len(set(pairs())) == len(pairs())
    assert {name for pair in pairs() for name in pair} <= {entry.name for entry in MODELS}


@pytest.mark.parametrize("entry", TABLE["methods"], ids=lambda entry: entry.get("label", entry["name"]))
def test_entry_has_a_source_and_names_known_pairs_and_parameters(entry: dict[str, Any]) -> None:
    assert entry["source"]
    known = {" → ".join(pair) for pair in pairs()}
    assert set(entry.get("pairs", {})) <= known
    assert set(entry.get("configured", ())) <= known | set(TABLE["pairs"])
    fields = METHODS[entry["name"]].params.model_fields
    for params in (entry.get("params", {}), *entry.get("pairs", {}).values()):
        assert set(params) - {"with"} <= set(fields)


@pytest.mark.parametrize("pair", pairs(), ids=" → ".join)
def test_preset_of_a_pair_is_a_published_protocol_without_warnings(pair: tuple[str, str]) -> None:
    spec = spec_of(*pair)
    assert not [problem.message for problem in warnings_of(spec)]
    assert parse_text(to_yaml(spec)) == spec
    assert spec.training.optimizer.lr == (learning_rate_of(pair[1]) or 0.05)
    assert spec.teacher is not None
    assert (spec.teacher.training or spec.training).optimizer.lr == 0.05
    assert len(sources_for(*pair)) == len(spec.methods)


def test_weights_depend_on_the_pair() -> None:
    small, large = spec_of("resnet56", "resnet20"), spec_of("resnet32x4", "shufflenet_v2")
    assert (params_of(small, "reviewkd")["weight"], params_of(large, "reviewkd")["weight"]) == (0.6, 8.0)
    assert (params_of(small, "dkd")["beta"], params_of(large, "dkd")["beta"]) == (2.0, 8.0)
    assert params_of(small, "at")["variant"] == "public_code"
    assert params_of(small, "KD + LS")["standardise"] is True
    assert params_of(spec_of("vgg13", "vgg8"), "at")["student_taps"] == ["stage2", "stage3", "stage4", "stage5"]


def test_added_methods_have_the_weights_of_the_combination() -> None:
    (both,) = (item for item in methods_for("resnet32x4", "resnet8x4") if "with" in item and item["name"] == "wkd_f")
    assert both["params"]["mean_ratio"] == 8.0
    assert both["with"][0]["params"]["transport_weight"] == 200.0


def test_other_networks_get_the_protocol_alone() -> None:
    assert methods_for("resnet20", "resnet8") == []
    assert [method.name for method in spec_of("resnet20", "resnet8").methods] == ["kd", "dkd"]


def test_methods_of_the_spec_come_before_those_of_the_table() -> None:
    spec = spec_of("resnet56", "resnet20", methods=["ce"], training={"optimizer": {"lr": 0.2}})
    assert [method.name for method in spec.methods] == ["ce"]
    assert spec.training.optimizer.lr == 0.2
    assert [problem.message for problem in warnings_of(spec)] == [
        "this is not cifar100-tables as published: methods, training.optimizer.lr of its own"
    ]
