"""The methods that are published for a pair of networks on CIFAR-100, with the weights of their publications.

``weights.yaml`` is the one table of them. The specs in ``examples/cifar100`` take their methods from it by ``preset:
cifar100-tables``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from core.papers import published_for
from core.papers.decoupled_kd import PAPER as DECOUPLED_KD
from core.papers.paper import Preset

_FILE = Path(__file__).with_name("weights.yaml")
_DATASET = "cifar100"


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return table


def pairs() -> list[tuple[str, str]]:
    """Return teacher and student of every pair in the tables, by their names in the catalog."""
    return [_networks(pair) for group in _table()["pairs"].values() for pair in group]


def methods_for(teacher: str, student: str) -> list[dict[str, Any]]:
    """Return the methods that are published for a pair, as a spec writes them; none for a pair in no table.

    Args:
        teacher: Name in the catalog.
        student: Name in the catalog.
    """
    return [choice for _, choice in _published(teacher, student)]


def sources_for(teacher: str, student: str) -> dict[str, str]:
    """Return where the weights of each method are from, by its name and the methods that are added to it.

    Args:
        teacher: Name in the catalog.
        student: Name in the catalog.
    """
    found = {}
    for entry, choice in _published(teacher, student):
        added = [item["name"] for item in choice.get("with", ())]
        found[choice.get("label") or " + ".join([choice["name"], *added])] = entry["source"]
    return found


def learning_rate_of(student: str) -> float | None:
    """Return the learning rate that a student is trained with, if it is not the one of most students."""
    rate: float | None = _table()["learning_rates"].get(student)
    return rate


def _published(teacher: str, student: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each entry of the table that a pair has, and the method as a spec writes it."""
    if (teacher, student) not in pairs():
        return
    numbers = published_for(_DATASET, {"image_size": 32}, teacher, student)
    for entry in _table()["methods"]:
        choice = _choice(entry, teacher, student)
        is_configured = (teacher, student) in _configured(entry)
        if is_configured or any(number.is_of({"params": {}} | choice) for number in numbers):
            yield entry, choice


def _choice(entry: Mapping[str, Any], teacher: str, student: str) -> dict[str, Any]:
    by_pair = {_networks(pair): params for pair, params in entry.get("pairs", {}).items()}
    params = {"with": entry.get("with", [])} | entry.get("params", {}) | by_pair.get((teacher, student), {})
    added = params.pop("with")
    optional = {"label": entry.get("label"), "params": params, "with": added}
    return {"name": entry["name"]} | {key: value for key, value in optional.items() if value}


def _configured(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    groups = _table()["pairs"]
    return [_networks(pair) for name in entry.get("configured", ()) for pair in groups.get(name, [name])]


def _networks(pair: str) -> tuple[str, str]:
    teacher, student = pair.split(" → ")
    return teacher, student


def _fields_of(teacher: str, student: str) -> dict[str, Any]:
    """Return the fields of a spec that depend on its networks."""
    methods = methods_for(teacher, student)
    fields: dict[str, Any] = {"methods": methods} if methods else {}
    if rate := learning_rate_of(student):
        training = DECOUPLED_KD.presets["dkd-cifar100"].fields["training"]
        fields["training"] = {"optimizer": {"lr": rate}}
        fields["teacher"] = {"training": training}
    return fields


CIFAR100_TABLES = Preset(
    "The protocol of the CIFAR-100 tables, with every method that is published for the two networks, at the published "
    "weights.",
    DECOUPLED_KD.presets["dkd-cifar100"].fields,
    of_networks=_fields_of,
)
"""The preset of the specs in ``examples/cifar100``."""
