"""Published protocols that a spec names in one word (``preset: dkd-cifar100``) and may override field by field.

A preset fills in what the spec leaves out: mappings are merged, everything else, lists too, is replaced by the spec's
own. Data set, teacher and student are the experimenter's to name unless the protocol names them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.catalog import UnknownNameError

_DKD_CIFAR100: dict[str, Any] = {
    "dataset": {"name": "cifar100"},
    "methods": [
        {"name": "kd", "params": {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}},
        {"name": "dkd", "params": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "ramp_epochs": 20, "ramp_start": 1}},
    ],
    "seeds": [0, 1, 2, 3, 4],
    "training": {
        "epochs": 240,
        "batch_size": 64,
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "step", "milestones": [150, 180, 210], "gamma": 0.1},
    },
}

_DKD_IMAGENET: dict[str, Any] = {
    "dataset": {"name": "imagenet"},
    "methods": [
        {"name": "kd", "params": {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}},
        {"name": "dkd", "params": {"temperature": 1.0, "alpha": 1.0, "beta": 0.5, "ramp_epochs": 1}},
    ],
    "seeds": [0, 1, 2],
    "training": {
        "epochs": 100,
        "batch_size": 512,
        "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4},
        "schedule": {"name": "step", "milestones": [30, 60, 90], "gamma": 0.1},
    },
}

_AUTHOR_2025_TERMS = {"temperature": 3.0, "alpha": 0.5, "beta": 0.5, "ce_weight": 0.0, "ramp_epochs": 0}

_AUTHOR_2025: dict[str, Any] = {
    "methods": [
        {"name": "dkd", "params": _AUTHOR_2025_TERMS},
        {
            "name": "dkd_align",
            "params": _AUTHOR_2025_TERMS | {"reduction": "batch", "epsilon": 6.0, "decay": 0.3},
        },
        {"name": "dkd_divergence", "params": _AUTHOR_2025_TERMS | {"mu": 8.0, "epsilon": 6.0}},
    ],
    "seeds": [0],
    "training": {
        "epochs": 15,
        "batch_size": 32,
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "schedule": {"name": "constant"},
        "augment": "flip",
    },
}

_AUTHOR_2026_TERMS = {"temperature": 4.0, "alpha": 1.0, "beta": 1.0, "ramp_epochs": 20, "ramp_start": 0}
_AUTHOR_2026_SCHEDULE = {"name": "step", "milestones": [60, 75, 90], "gamma": 0.1}

_AUTHOR_2026: dict[str, Any] = {
    "dataset": {"name": "cifar100"},
    "teacher": {
        "training": {
            "epochs": 100,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": _AUTHOR_2026_SCHEDULE,
        }
    },
    "methods": [
        {"name": "dkd", "params": _AUTHOR_2026_TERMS},
        {
            "name": "dkd_align",
            "params": _AUTHOR_2026_TERMS | {"reduction": "log", "epsilon": 6.0, "log_floor": 1e-8},
        },
    ],
    "seeds": [0],
    "training": {
        "epochs": 100,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 0.05, "weight_decay": 0.01},
        "schedule": _AUTHOR_2026_SCHEDULE,
    },
}

_QUICK: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"model": "resnet20", "training": {"epochs": 10, "optimizer": {"lr": 0.1}}},
    "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
    "methods": [
        {"name": "dkd", "params": {"beta": 2.0, "ramp_epochs": 2}},
        {"name": "dkd_align", "params": {"beta": 2.0, "ramp_epochs": 2, "reduction": "log", "epsilon_share": 0.1}},
    ],
    "seeds": [0, 1],
    "training": {"epochs": 10, "optimizer": {"lr": 0.05}},
}

PRESETS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "dkd-cifar100": (
        "DKD's recipe for CIFAR-100: 240 epochs, no hold-out, the last epoch is the headline.",
        _DKD_CIFAR100,
    ),
    "dkd-imagenet": (
        "DKD's recipe for ImageNet: 100 epochs, batch 512, resized crops, tested on the middle 224 of 256 px.",
        _DKD_IMAGENET,
    ),
    "author-2025": (
        "DKD-Align's own protocol of 2025: 15 epochs, AdamW, no cross-entropy, the literal term.",
        _AUTHOR_2025,
    ),
    "author-2026": (
        "DKD-Align's own protocol of 2026: CIFAR networks, 100 epochs, the log term with its floor.",
        _AUTHOR_2026,
    ),
    "quick": ("A look in a minute: digits, ten epochs, two seeds.", _QUICK),
}
"""By name: what it is, and the fields it fills in."""


def apply_preset(data: dict[str, Any]) -> dict[str, Any]:
    """The spec with its preset's fields filled in where it has none of its own.

    Raises UnknownNameError for a preset that does not exist. A spec that is complete already comes back as it was.
    """
    name = data.get("preset")
    if not name:
        return data
    if not isinstance(name, str) or name not in PRESETS:
        raise UnknownNameError("preset", str(name), dict.fromkeys(PRESETS, ()))
    _, fields = PRESETS[name]
    return _merged(fields, data)


def departures(name: str, spec: Mapping[str, Any]) -> list[str]:
    """Paths of the protocol's fields that a complete spec has otherwise, as ``training.epochs``.

    Seeds are left out, since repeating a protocol more or less often changes nothing of it. A preset that is not known
    has none.
    """
    fields = PRESETS[name][1] if name in PRESETS else {}
    return [path for part, value in fields.items() if part != "seeds" for path in _apart(value, spec.get(part), part)]


def _apart(wanted: Any, given: Any, path: str) -> list[str]:
    if isinstance(wanted, Mapping) and isinstance(given, Mapping):
        return [found for key, value in wanted.items() for found in _apart(value, given.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(given, list | tuple):
        if len(wanted) == len(given):
            alike = not any(_apart(one, other, path) for one, other in zip(wanted, given, strict=True))
            return [] if alike else [path]
        return [path]
    if isinstance(wanted, str) and isinstance(given, Mapping):
        given = given.get("name")  # a bare name is short for a choice without parameters
    return [] if wanted == given else [path]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, str) and isinstance(under, Mapping) and "name" in under:
            merged[key] = value  # a bare name replaces a choice with its parameters
        elif isinstance(value, Mapping) and isinstance(under, Mapping) and not _other_choice(under, value):
            merged[key] = _merged(under, value)
        else:
            merged[key] = value
    return merged


def _other_choice(under: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Parameters of one data set, optimiser or schedule mean nothing to another."""
    return "name" in under and "name" in value and under["name"] != value["name"]
