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
    def test_it_is_a_whole_spec_with_a_pair_named(self, name: str) -> None:
        found = parse_experiment({"dataset": "synthetic"} | self.PAIR | {"preset": name})
        assert found.preset == name
        assert found.plan()
        assert parse_text(to_yaml(found)) == found  # what is stored does not change when it is read again

    @pytest.mark.parametrize(
        ("former", "name"),
        [("author-2025", "decoupled-gradient-kd-2025"), ("author-2026", "decoupled-gradient-kd-2026")],
    )
    def test_a_former_name_means_the_same_protocol(self, former: str, name: str) -> None:
        old, new = (parse_experiment({"dataset": "synthetic"} | self.PAIR | {"preset": key}) for key in (former, name))
        assert old.preset == former
        assert old.model_dump() == new.model_dump() | {"preset": former}
        assert old.plan() == new.plan()
        assert preset_deviations(former, old.model_dump(mode="json")) == preset_deviations(
            name, new.model_dump(mode="json")
        )

    def test_the_spec_overrides_field_by_field(self) -> None:
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

    def test_another_schedule_does_not_inherit_the_presets_milestones(self) -> None:
        training = {"schedule": {"name": "cosine"}}
        found = parse_experiment(self.PAIR | {"preset": "dkd-cifar100", "dataset": "digits", "training": training})
        assert found.training.schedule.milestones == ()
        assert found.training.epochs == 240

    def test_an_unknown_preset_is_named_with_the_nearest(self) -> None:
        with pytest.raises(SpecError, match="dkd-cifar100"):
            parse_experiment(self.PAIR | {"preset": "dkd-cifar10"})
