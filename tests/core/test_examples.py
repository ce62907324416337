"""Every file of ``examples/`` is a valid spec and is listed in the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.catalog import describe
from core.specs import parse_experiment, read_experiment

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTED = describe()["examples"]


def test_catalog_lists_every_example_once() -> None:
    written = [read_experiment(path) for path in EXAMPLES.rglob("*.yaml")]
    assert sorted(item["name"] for item in LISTED) == sorted(spec.name for spec in written)
    assert len({(item["group"], item["title"]) for item in LISTED}) == len(LISTED)


@pytest.mark.parametrize("item", LISTED, ids=lambda item: item["name"])
def test_listed_example_is_a_valid_spec(item: dict[str, object]) -> None:
    assert parse_experiment(item["spec"]).name == item["name"]


def test_examples_are_grouped_by_publication() -> None:
    counts: dict[str, int] = {}
    for item in LISTED:
        counts[item["group"]] = counts.get(item["group"], 0) + 1
    assert counts["Decoupled Gradient KD, 2025"] == 14
    assert counts["CIFAR-100 pairs"] == 11
