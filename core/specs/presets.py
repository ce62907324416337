"""The fields that a spec leaves out: those of its preset, and the training that is usual for its task.

A preset is a protocol that a spec names in one word (``preset: dkd-cifar100``) and may override field by field:
mappings are merged, every other value, lists included, is replaced by the spec's own. The spec names data set, teacher
and student unless the protocol does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.catalog import DATASETS, TASKS, UnknownNameError
from core.papers import PAPERS, Preset
from core.papers.cifar100_weights import CIFAR100_TABLES

_QUICK = Preset(
    "A result in a minute: digits, ten epochs, two seeds.",
    {
        "dataset": {"name": "digits"},
        "teacher": {"model": "resnet20", "training": {"epochs": 10, "optimizer": {"lr": 0.1}}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
        "methods": [
            {"name": "dkd", "params": {"beta": 2.0, "ramp_epochs": 2}},
            {"name": "dkd_align", "params": {"beta": 2.0, "ramp_epochs": 2, "reduction": "log", "epsilon_share": 0.1}},
        ],
        "seeds": [0, 1],
        "training": {"epochs": 10, "optimizer": {"lr": 0.05}},
    },
)

PRESETS: Mapping[str, Preset] = {
    name: preset for paper in PAPERS.values() for name, preset in paper.presets.items()
} | {"cifar100-tables": CIFAR100_TABLES, "quick": _QUICK}
"""Presets by name."""
_BY_ALIAS = {alias: preset for preset in PRESETS.values() for alias in preset.aliases}


def find_preset(name: str) -> Preset | None:
    """Return a preset by its name or a former name; None if there is none."""
    return PRESETS.get(name) or _BY_ALIAS.get(name)


def filled_in(data: dict[str, Any]) -> dict[str, Any]:
    """Return a spec with the fields of its preset, and the usual training of its task, that it does not have.

    A spec that is complete comes back unchanged.

    Raises:
        UnknownNameError: there is no such preset.
    """
    return _with_usual_training(_with_preset(data))


def _with_preset(data: dict[str, Any]) -> dict[str, Any]:
    name = data.get("preset")
    if not name:
        return data
    preset = find_preset(name) if isinstance(name, str) else None
    if preset is None:
        raise UnknownNameError("preset", str(name), dict.fromkeys(PRESETS, ()))
    fields = _fields_for(preset, data)
    if data.get("teachers"):  # in place of the protocol's one
        fields = {name: value for name, value in fields.items() if name != "teacher"}
    return _merge(fields, data)


def _with_usual_training(data: dict[str, Any]) -> dict[str, Any]:
    """Return a spec in which every training, the teachers' as well, has what is usual for the task."""
    name = _name_of(data.get("dataset"))
    usual = TASKS[DATASETS[name].task].usual_training if name in DATASETS else {}
    return _trained_as(usual, data) if usual else data


def _trained_as(usual: Mapping[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return a spec, or the part of it that is a teacher, whose trainings have what is usual."""
    filled = dict(part)
    training = part.get("training")
    if isinstance(training, Mapping):
        # A complete spec leaves out what is switched off, but never its optimiser. So it comes back unchanged.
        left_out = {name: value for name, value in usual.items() if name == "batch_size" or "optimizer" not in training}
        filled["training"] = {**left_out, **training}
    if isinstance(part.get("teacher"), dict):
        filled["teacher"] = _trained_as(usual, part["teacher"])
    if isinstance(part.get("teachers"), list | tuple):
        filled["teachers"] = [_trained_as(usual, each) if isinstance(each, dict) else each for each in part["teachers"]]
    return filled


def preset_deviations(name: str, spec: Mapping[str, Any]) -> list[str]:
    """Return the paths of the protocol's fields that a complete spec sets otherwise, such as ``training.epochs``.

    Seeds are not compared, because the number of repetitions does not change a protocol. An unknown preset has no
    departures.
    """
    preset = find_preset(name)
    fields = _fields_for(preset, spec) if preset else {}
    return [path for key, value in fields.items() if key != "seeds" for path in _differences(value, spec.get(key), key)]


def _fields_for(preset: Preset, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a preset for the networks of a spec, which need not be complete or valid."""
    names = [_model_name(_merge(preset.fields, spec).get(role)) for role in ("teacher", "student")]
    if preset.of_networks is None or not all(names):
        return preset.fields
    return _merge(preset.fields, preset.of_networks(names[0], names[1]))


def _model_name(network: Any) -> str:
    """Return the name of a network's model; "" if there is none."""
    return _name_of(network.get("model")) if isinstance(network, Mapping) else ""


def _name_of(entry: Any) -> str:
    """Return the name of a catalog entry, which is given bare or with parameters; "" if there is none."""
    name = entry.get("name") if isinstance(entry, Mapping) else entry
    return name if isinstance(name, str) else ""


def _differences(protocol: Any, value: Any, path: str) -> list[str]:
    if isinstance(protocol, Mapping) and isinstance(value, Mapping):
        return [
            inner for key, item in protocol.items() for inner in _differences(item, value.get(key), f"{path}.{key}")
        ]
    if isinstance(protocol, list) and isinstance(value, list | tuple):
        if len(protocol) == len(value):
            equal = not any(_differences(one, other, path) for one, other in zip(protocol, value, strict=True))
            return [] if equal else [path]
        return [path]
    if isinstance(protocol, str) and isinstance(value, Mapping):
        value = value.get("name")  # a bare name is short for an entry without parameters
    return [] if protocol == value else [path]


def _merge(preset: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(preset)
    for key, value in spec.items():
        default = merged.get(key)
        if isinstance(value, str) and isinstance(default, Mapping) and "name" in default:
            merged[key] = value  # a bare name replaces an entry with its parameters
        elif isinstance(value, Mapping) and isinstance(default, Mapping) and not _names_differ(default, value):
            merged[key] = _merge(default, value)
        else:
            merged[key] = value
    return merged


def _names_differ(default: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Return whether two catalog entries are named: parameters of one entry have no meaning for another."""
    return "name" in default and "name" in value and default["name"] != value["name"]
