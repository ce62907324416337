"""The protocols of Decoupled Gradient Knowledge Distillation: of the paper (2025) and of the later code (2026)."""

from __future__ import annotations

from typing import Any

from core.catalog import METHODS
from core.papers.paper import Preset

_TERMS_2025 = {"temperature": 3.0, "alpha": 0.5, "beta": 0.5, "ce_weight": 0.0, "ramp_epochs": 0}
_TERMS_2026 = {"temperature": 4.0, "alpha": 1.0, "beta": 1.0, "ramp_epochs": 20, "ramp_start": 0}
_SCHEDULE_2026 = {"name": "step", "milestones": [60, 75, 90], "gamma": 0.1}

_PAPER_2025: dict[str, Any] = {
    "methods": [
        {"name": "dkd", "params": _TERMS_2025},
        {"name": "dkd_align", "params": _TERMS_2025 | {"reduction": "batch", "epsilon": 6.0, "decay": 0.3}},
        {"name": "dkd_divergence", "params": dict(METHODS["dkd_divergence"].published)},
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

_CODE_2026: dict[str, Any] = {
    "dataset": {"name": "cifar100"},
    "teacher": {
        "training": {
            "epochs": 100,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": _SCHEDULE_2026,
        }
    },
    "methods": [
        {"name": "dkd", "params": _TERMS_2026},
        {"name": "dkd_align", "params": dict(METHODS["dkd_align"].published)},
    ],
    "seeds": [0],
    "training": {
        "epochs": 100,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 0.05, "weight_decay": 0.01},
        "schedule": _SCHEDULE_2026,
    },
}

PRESETS = {
    "decoupled-gradient-kd-2025": Preset(
        "The protocol of Decoupled Gradient Knowledge Distillation (2025): 15 epochs, AdamW, no cross-entropy, the "
        "literal alignment term.",
        _PAPER_2025,
        aliases=("author-2025",),
    ),
    "decoupled-gradient-kd-2026": Preset(
        "The protocol of the code of 2026 for Decoupled Gradient Knowledge Distillation: CIFAR networks, 100 epochs, "
        "the log term with its floor.",
        _CODE_2026,
        aliases=("author-2026",),
    ),
}
