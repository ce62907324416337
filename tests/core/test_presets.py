"""Presets: published protocols that a spec names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from core.specs import (
    SpecError,
    parse_experiment,
    parse_text,
    to_yaml,
)
from core.specs.presets import PRESETS, preset_deviations

EXAMPLES = Path(__file__).parents[2] / "examples"


class TestPresets:
    PAIR: ClassVar[dict[str, Any]] = {"name": "p", "teacher": {"model": "resnet20"}, "student": {"model": "resnet8"}}

    @pytest.mark.parametrize("name", PRESETS)
    def test_preset_with_a_pair_is_a_complete_spec(self, name: str) -> None:
        parsed = parse_experiment({"dataset": "synthetic"} | self.PAIR | {"preset": name})
        assert parsed.preset == name
        assert parsed.plan()
        assert parse_text(to_yaml(parsed)) == parsed  # what is stored does not change when it is read again

    @pytest.mark.parametrize(
        ("former", "name"),
        [("author-2025", "decoupled-gradient-kd-2025"), ("author-2026", "decoupled-gradient-kd-2026")],
    )
    def test_former_name_of_a_preset_is_accepted(self, former: str, name: str) -> None:
        old, new = (parse_experiment({"dataset": "synthetic"} | self.PAIR | {"preset": key}) for key in (former, name))
        assert old.preset == former
        assert old.model_dump() == new.model_dump() | {"preset": former}
        assert old.plan() == new.plan()
        assert preset_deviations(former, old.model_dump(mode="json")) == preset_deviations(
            name, new.model_dump(mode="json")
        )

    def test_spec_overrides_single_fields_of_a_preset(self) -> None:
        base = parse_experiment(self.PAIR | {"preset": "dkd-cifar100", "dataset": "digits"})
        changed = parse_experiment(
            self.PAIR
            | {
                "preset": "dkd-cifar100",
                "dataset": "digits",
                "training": {"optimizer": {"lr": 0.01}},
                "methods": ["ce"],
                "seeds": [9],
            }
        )
        assert changed.training.optimizer.lr == 0.01
        assert changed.training.optimizer.weight_decay == base.training.optimizer.weight_decay == 5e-4
        assert changed.training.schedule == base.training.schedule
        assert [method.name for method in changed.methods] == ["ce"]
        assert changed.seeds == (9,)

    def test_other_schedule_does_not_inherit_the_milestones_of_the_preset(self) -> None:
        training = {"schedule": {"name": "cosine"}}
        parsed = parse_experiment(self.PAIR | {"preset": "dkd-cifar100", "dataset": "digits", "training": training})
        assert parsed.training.schedule.milestones == ()
        assert parsed.training.epochs == 240

    def test_unknown_preset_gets_a_suggestion(self) -> None:
        with pytest.raises(SpecError, match="dkd-cifar100"):
            parse_experiment(self.PAIR | {"preset": "dkd-cifar10"})
