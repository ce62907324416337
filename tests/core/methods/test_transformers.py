"""A vision transformer teaches a network of convolutions: its tokens are maps, or the method refuses them clearly."""

from __future__ import annotations

from typing import Any

import pytest

from core.catalog import METHODS
from core.errors import TrainingError
from core.testing import build_problem, value_and_gradients

TRANSFORMER = {"name": "timm:test_vit", "params": {"patch_size": 4}}
STUDENT = "resnet8"

PARAMS: dict[str, dict[str, Any]] = {
    "ab": {"init_epochs": 1},
    "crd": {"negatives": 8},
    "ft": {"init_epochs": 1},
    "fitnet": {"variant": "public_code"},
    "kdsvd": {"variant": "public_code"},
}
"""What the methods need on small data, or for maps of other sizes and widths."""

REFUSED = {
    "cat_kd": "has no 'last_map'",
    "fsp": "equal numbers",
    "ofd": "batch norm before the activation",
    "sd_dkd": "does not average a last map, so its regions have no logits",
    "sd_kd": "does not average a last map, so its regions have no logits",
    "sd_nkd": "does not average a last map, so its regions have no logits",
    "simkd": "has no 'last_map'",
}
"""Methods that are not defined for a transformer as a teacher, with what they say."""

METHODS_WITH_TAPS = [
    entry.name for entry in METHODS if entry.target.startswith("core.") and entry.taps and not entry.tasks
]


@pytest.mark.parametrize("name", METHODS_WITH_TAPS)
def test_tokens_are_maps_or_are_refused(name: str) -> None:
    spec = {
        "name": "transformer",
        "dataset": {
            "name": "synthetic",
            "params": {"num_classes": 5, "image_size": 32, "train_size": 69, "test_size": 40},
        },
        "teacher": {"model": TRANSFORMER},
        "student": {"model": STUDENT},
        "methods": [{"name": name, "params": PARAMS.get(name, {})}],
        "seeds": [0],
        "training": {"epochs": 2, "batch_size": 16},
    }
    if name in REFUSED:
        with pytest.raises(TrainingError, match=REFUSED[name]):
            build_problem(spec)
        return
    objective, inputs = build_problem(spec, epoch=0 if name == "ab" else None)  # AB has a first stage alone
    total, gradients = value_and_gradients(objective, inputs)
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    of_taps = [gradient.any() for name, gradient in gradients.items() if name.startswith("tap ")]
    assert any(of_taps)
