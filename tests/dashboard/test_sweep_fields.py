"""The fields that a sweep of the form can vary, and the values that a person types."""

from __future__ import annotations

import pytest

from dashboard.forms.sweep_fields import parse_values, variable_paths


def test_single_values_can_vary_and_labels_cannot() -> None:
    spec = {
        "name": "x",
        "dataset": {"name": "digits", "params": {}},
        "methods": [{"name": "kd", "label": "kd", "params": {"temperature": 4.0}}],
        "training": {"epochs": 3, "optimizer": {"lr": 0.1}, "augment": [{"name": "crop", "params": {"padding": 4}}]},
        "seeds": [0, 1],
        "tags": [],
    }
    assert variable_paths(spec) == {
        "dataset.name": "digits",
        "methods.0.name": "kd",
        "methods.0.params.temperature": 4.0,
        "training.epochs": 3,
        "training.optimizer.lr": 0.1,
        "training.augment.0.name": "crop",
        "training.augment.0.params.padding": 4,
    }


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.01, 0.1", [0.01, 0.1]),
        ("kd, dkd", ["kd", "dkd"]),
        ("1", [1]),
        ("true, false", [True, False]),
        ("[1, 2], [3]", [[1, 2], [3]]),
    ],
)
def test_values_are_read_as_yaml(text: str, values: list[object]) -> None:
    assert parse_values(text) == values


@pytest.mark.parametrize("text", ["", "  ", "1], other: [2", "1, [", "!!python/object:x"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Type"):
        parse_values(text)
