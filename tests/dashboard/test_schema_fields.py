"""Schemas to fields, a spec to a draft and back, and errors to their fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.catalog import describe
from core.catalog.examples import describe_examples
from core.specs import ExperimentSpec, SpecError, parse_experiment
from dashboard.forms import schema_fields, spec_draft, spec_yaml

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"

SCHEMA = ExperimentSpec.model_json_schema()
CATALOG = describe()


def entry(kind: str, name: str) -> dict[str, Any]:
    return next(item for item in CATALOG[kind] if item["name"] == name)


def fields(name: str) -> dict[str, schema_fields.FormField]:
    return {item.path: item for item in schema_fields.schema_to_fields(entry("methods", name)["params"])}


def test_every_parameter_in_the_catalog_becomes_a_field() -> None:
    for kind in ("methods", "models", "datasets", "optimizers", "augmentations"):
        for item in CATALOG[kind]:
            # A parameter may be the parameters of an entry that another one names.
            names = {found.path.partition(".")[0] for found in schema_fields.schema_to_fields(item["params"])}
            properties = item["params"].get("properties", {})
            assert names == {name for name, given in properties.items() if not has_lists_of_lists(given)}, item["name"]


def has_lists_of_lists(given: Any) -> bool:
    """Whether a parameter is lists in a list, which the form shows as YAML."""
    options = given.get("anyOf", [given])
    return any(option.get("type") == "array" and option.get("items", {}).get("type") == "array" for option in options)


def test_kinds_defaults_and_optional_fields() -> None:
    listed = fields("dkd_align")
    assert (listed["alpha"].kind, listed["alpha"].default, listed["alpha"].nullable) == (
        "number",
        1.0,
        False,
    )
    assert (listed["ramp_epochs"].kind, listed["ramp_epochs"].default) == ("integer", 20)
    assert (listed["reduction"].kind, listed["reduction"].choices) == ("choice", ("batch", "sample", "log"))
    assert listed["ramp_start"].choices == (0, 1)
    assert (listed["epsilon"].kind, listed["epsilon"].default, listed["epsilon"].nullable) == (
        "number",
        None,
        True,
    )
    assert "α" in listed["alpha"].help


def test_required_parameter_without_a_default_has_its_example_as_value() -> None:
    assert fields("dkd_align")["reduction"].default == "sample"


def test_number_step_is_one_unit_of_the_first_digit() -> None:
    training = {item.path: item for item in schema_fields.schema_to_fields(SCHEMA["$defs"]["Training"], SCHEMA)}
    assert training["optimizer.lr"].step == pytest.approx(0.01)
    assert training["optimizer.weight_decay"].step == pytest.approx(1e-4)
    assert fields("dkd")["temperature"].step == 1.0


def test_nested_objects_are_groups() -> None:
    training = {item.path: item for item in schema_fields.schema_to_fields(SCHEMA["$defs"]["Training"], SCHEMA)}
    assert training["optimizer.lr"].group == "Optimizer"
    assert training["schedule.milestones"].kind == "integers"
    assert training["optimizer.nesterov"].kind == "boolean"
    assert training["epochs"].group == ""


def test_parameters_of_an_optimizer_exist_only_for_it() -> None:
    training = schema_fields.schema_to_fields(SCHEMA["$defs"]["Training"], SCHEMA)
    of_adam = {item.path for item in training if item.only_for and item.exists({"optimizer": {"name": "adam"}})}
    assert of_adam == {f"optimizer.params.{name}" for name in ("beta1", "beta2", "eps", "amsgrad")}
    of_sgd = {item.path for item in training if item.only_for and item.exists({"optimizer": {"name": "sgd"}})}
    assert of_sgd == {"optimizer.momentum", "optimizer.nesterov"}
    assert {item.group for item in training if item.only_for} == {"Optimizer"}


def test_omitted_defaults_are_not_in_the_draft() -> None:
    defaults = schema_fields.schema_defaults(SCHEMA["$defs"]["Training"], SCHEMA)
    assert defaults["augment"] == "standard"
    assert not {"accumulate", "ema", "label_smoothing", "evaluate_every", "features_every"} & set(defaults)
    assert "params" not in defaults["optimizer"]


@pytest.mark.parametrize(
    "augment", ["flip", ["standard", {"name": "mixup", "params": {"alpha": 0.3}}], ["none", "trivialaugment"]]
)
def test_list_of_entries_has_a_long_and_a_short_form(augment: Any) -> None:
    assert spec_draft.short_choices(spec_draft.named_choices(augment)) == augment
    assert spec_draft.short_choices([]) is None


def test_field_labels_are_readable_words() -> None:
    assert schema_fields.humanise("ce_weight") == "CE weight"
    assert schema_fields.humanise("lr") == "Learning rate"
    assert schema_fields.humanise("ema") == "EMA"
    assert schema_fields.humanise("num_ops") == "Number of operations"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-2", [0, 1, 2]),
        ("0, 3, 7", [0, 3, 7]),
        ("0-2, 7; 9 – 10", [0, 1, 2, 7, 9, 10]),
        ("1..3 5", [1, 2, 3, 5]),
        ("", []),
    ],
)
def test_seeds_are_parsed_from_lists_and_ranges(text: str, numbers: list[int]) -> None:
    assert schema_fields.parse_integers(text) == numbers
    assert schema_fields.parse_integers(schema_fields.join_integers(numbers)) == numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [("one", "'one' is neither"), ("5-2", "backwards"), ("0-99999999", "more than 1000"), ("-3", "'-3' is neither")],
)
def test_parse_integers_explains_invalid_text(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schema_fields.parse_integers(text)


def test_blank_form_is_a_valid_spec_except_for_its_name() -> None:
    draft = spec_draft.blank_draft(CATALOG, SCHEMA)
    spec = spec_draft.to_spec(draft)
    assert spec["name"] == ""
    parsed = parse_experiment({**spec, "name": "x"})
    assert parsed.seeds == (0, 1, 2)


EXAMPLES = [item for item in describe_examples() if "preset" not in item["spec"]]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda item: str(item["name"]))
def test_form_keeps_every_example_unchanged_and_can_show_its_seeds(example: dict[str, Any]) -> None:
    draft = spec_draft.to_draft(example["spec"])
    assert parse_experiment(spec_draft.to_spec(draft)) == parse_experiment(example["spec"])
    assert isinstance(draft["seeds"], dict) or schema_fields.join_integers(draft["seeds"])


@pytest.mark.parametrize("seeds", ["1..3", {"from": 1, "to": 3}])
def test_range_of_seeds_is_shown_as_a_list(seeds: Any) -> None:
    assert spec_draft.to_draft({"seeds": seeds})["seeds"] == [1, 2, 3]


def test_form_keeps_a_spec_without_a_teacher_and_with_bare_names() -> None:
    written = {
        "name": "bare",
        "dataset": "digits",
        "student": {"model": "small_cnn"},
        "methods": ["ce", {"name": "ce", "label": "again"}],
        "seeds": [4],
        "training": {"epochs": 2},
        "resources": {"device": "cpu"},
        "priority": 3,
        "tags": ["a"],
        "notes": "why",
    }
    assert parse_experiment(spec_draft.to_spec(spec_draft.to_draft(written))) == parse_experiment(written)


@pytest.mark.parametrize(
    ("resources", "sent"),
    [
        ({"device": "any", "gpus": 1, "labels": []}, None),
        ({"device": "any", "gpus": 2, "labels": []}, {"gpus": 2}),
        ({"device": "any", "gpus": 1, "labels": ["h200"]}, {"labels": ["h200"]}),
    ],
)
def test_form_submits_the_resources(resources: dict[str, Any], sent: dict[str, Any] | None) -> None:
    written = {"dataset": "digits", "student": {"model": "small_cnn"}, "methods": ["ce"], "training": {"epochs": 2}}
    spec = spec_draft.to_spec(spec_draft.to_draft({**written, "resources": resources}))
    assert spec.get("resources") == sent


def test_form_keeps_values_without_a_field() -> None:
    written = {"dataset": "digits", "student": {"model": "small_cnn"}, "methods": ["kd"], "training": {"epochs": 2}}
    teacher = {"model": {"name": "resnet20"}, "later": {"than": "this form"}}
    assert spec_draft.to_spec(spec_draft.to_draft({**written, "teacher": teacher}))["teacher"] == teacher


@pytest.mark.parametrize(
    "teachers",
    [
        {"teacher": {"model": "resnet20", "method": "kd", "teacher": {"model": "resnet56", "seed": 3}}},
        {"teacher": {"model": "resnet20", "method": {"name": "at", "with": ["kd"]}, "teacher": {"model": "resnet56"}}},
        {"teachers": [{"model": "resnet20"}, {"model": "resnet56"}], "ensemble": "confidence"},
        {"teachers": [{"model": "resnet20"}, {"model": "resnet56"}]},
        {"teachers": [{"model": "resnet8"}, {"model": "vgg8"}], "ensemble": {"by": "weighted", "weights": [1, 2]}},
        {"preset": "dkd-cifar100", "teachers": [{"model": "resnet20"}, {"model": "resnet56"}]},
    ],
)
def test_form_keeps_teachers(teachers: dict[str, Any]) -> None:
    written = {
        "name": "teachers",
        "dataset": "cifar100",
        "student": {"model": "resnet8"},
        "methods": ["kd"],
        "seeds": [0],
        "training": {"epochs": 2},
    } | teachers
    draft = spec_draft.to_draft(written)
    assert len(spec_draft.own_teachers(draft)) == len(teachers.get("teachers", [0]))
    assert parse_experiment(spec_draft.to_spec(draft)) == parse_experiment(written)


def test_ensemble_belongs_to_several_teachers() -> None:
    written = {"dataset": "digits", "student": {"model": "small_cnn"}, "methods": ["kd"], "training": {"epochs": 2}}
    draft = spec_draft.to_draft({**written, "teachers": [{"model": "resnet8"}] * 2, "ensemble": "confidence"})
    one = spec_draft.to_spec(draft | spec_draft.with_teachers(draft["teachers"][:1]))
    assert "ensemble" not in one
    assert one["teacher"] == {"model": {"name": "resnet8"}}
    assert "teachers" not in one


@pytest.mark.parametrize(
    "weights",
    [
        "teachers/resnet50.safetensors",
        {"source": "pretrained", "fine_tune": True},
        {"source": "teachers/resnet20.safetensors", "sha256": 64 * "0"},
    ],
)
def test_form_keeps_teacher_weights_unchanged(weights: Any) -> None:
    written = {
        "name": "weights",
        "dataset": "cifar100",
        "teacher": {"model": "resnet50", "weights": weights},
        "student": {"model": "resnet18"},
        "methods": ["kd"],
        "seeds": [0],
        "training": {"epochs": 2},
    }
    sent = yaml.safe_load(spec_yaml.yaml_of(spec_draft.to_spec(spec_draft.to_draft(written))))
    assert parse_experiment(sent) == parse_experiment(written)


def test_weights_given_as_a_string_are_their_source() -> None:
    draft = spec_draft.to_draft({"dataset": "digits", "teacher": {"model": "resnet20", "weights": "a/b.safetensors"}})
    assert draft["teacher"]["weights"] == {"source": "a/b.safetensors"}


def test_requested_weights_without_a_name_are_an_error() -> None:
    draft = spec_draft.to_draft(yaml.safe_load(DIGITS.read_text(encoding="utf-8")))
    draft["teacher"]["weights"] = {"fine_tune": False}
    with pytest.raises(SpecError) as refused:
        parse_experiment(spec_draft.to_spec(draft))
    assert [problem.path for problem in refused.value.problems] == ["teacher.weights.source"]


def test_shown_yaml_equals_the_submitted_spec() -> None:
    spec = spec_draft.to_spec(spec_draft.to_draft(yaml.safe_load(DIGITS.read_text(encoding="utf-8"))))
    text = spec_yaml.yaml_of(spec)
    assert yaml.safe_load(text) == spec
    assert "seeds: [0, 1, 2]" in text


def test_with_defaults_fills_in_missing_values_only() -> None:
    defaults = {"a": 1, "b": {"c": 2, "d": 3}}
    assert schema_fields.with_defaults({"b": {"c": 9}, "e": 4}, defaults) == {"a": 1, "b": {"c": 9, "d": 3}, "e": 4}
    assert defaults == {"a": 1, "b": {"c": 2, "d": 3}}


def test_nearest_field_is_the_field_or_its_closest_parent() -> None:
    places = ["methods", "methods.1", "methods.1.params", "methods.1.params.alpha", "seeds"]
    assert spec_draft.nearest_field("methods.1.params.alpha", places) == "methods.1.params.alpha"
    assert spec_draft.nearest_field("methods.1.params.unknown", places) == "methods.1.params"
    assert spec_draft.nearest_field("methods.0.params.alpha", places) == "methods"
    assert spec_draft.nearest_field("seeds.3", places) == "seeds"
    assert spec_draft.nearest_field("", places) is None
    assert spec_draft.nearest_field("dataset", places) is None


def test_form_keeps_added_methods_and_shares() -> None:
    added = {"name": "kd", "params": {"temperature": 2.0}, "shares": {"kd": 0.2}}
    method = {"name": "dkd", "params": {"beta": 2.0}, "with": [added, {"name": "dist"}]}
    written = {"dataset": "digits", "student": {"model": "small_cnn"}, "methods": [method], "training": {"epochs": 2}}
    assert spec_draft.to_spec(spec_draft.to_draft(written))["methods"] == [method]
    short = {**written, "methods": [{"name": "dkd", "with": ["kd"]}]}
    assert spec_draft.to_spec(spec_draft.to_draft(short))["methods"] == [{"name": "dkd", "with": [{"name": "kd"}]}]


def test_describe_path_names_fields_by_their_labels() -> None:
    draft = {"methods": [{"name": "dkd"}, {"name": "dkd_align"}]}
    assert spec_draft.describe_path("methods.1.params.alpha", draft) == "Method 2 (dkd_align): Alpha"
    assert spec_draft.describe_path("methods.0", draft) == "Method 1 (dkd)"
    both = {"methods": [{"name": "at", "with": [{"name": "kd"}]}]}
    assert spec_draft.describe_path("methods.0.with.0.params.alpha", both) == "Method 1 (at + kd): Alpha"
    assert spec_draft.describe_path("methods.0.with.0", both) == "Method 1 (at + kd)"
    assert spec_draft.describe_path("methods.0.with", both) == "Method 1 (at): With"
    assert spec_draft.describe_path("methods.0.with.0.shares.kd", both) == "Method 1 (at + kd): Share of kd"
    assert spec_draft.describe_path("training.optimizer.lr", draft) == "Training: Optimizer: Learning rate"
    assert spec_draft.describe_path("seeds.0", draft) == "Seeds"
    assert spec_draft.describe_path("", draft) == ""


def test_fields_at_dotted_paths() -> None:
    target: dict[str, Any] = {}
    schema_fields.set_path(target, "optimizer.lr", 0.1)
    schema_fields.set_path(target, "epochs", 3)
    assert target == {"optimizer": {"lr": 0.1}, "epochs": 3}
    assert schema_fields.get_path(target, "optimizer.lr") == 0.1
    assert schema_fields.get_path(target, "optimizer.momentum", 0.9) == 0.9
    schema_fields.set_path(target, "optimizer.lr", None)
    assert target == {"optimizer": {}, "epochs": 3}
