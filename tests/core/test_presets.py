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


class TestUsualTraining:
    """A training that names no optimiser is trained as is usual for the task of its data set."""

    DETECTION: ClassVar[dict[str, Any]] = {
        "name": "scenes",
        "dataset": "digit_scenes",
        "teacher": {"model": "faster_rcnn", "training": {"epochs": 2}},
        "student": {"model": "faster_rcnn"},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": 1},
    }

    def test_detectors_have_the_recipe_of_detection_and_so_have_their_teachers(self) -> None:
        spec = parse_experiment(self.DETECTION)
        assert spec.teacher is not None
        teacher = spec.teacher.training
        assert teacher is not None
        assert (spec.training.epochs, teacher.epochs) == (1, 2)
        for training in (spec.training, teacher):
            assert (training.batch_size, training.optimizer.lr, training.optimizer.weight_decay) == (8, 0.01, 1e-4)
            assert (training.schedule.warmup_steps, training.clip_grad_norm) == (100, 10)

    def test_classification_has_none(self) -> None:
        training = parse_experiment({"preset": "quick", "name": "quick"}).training
        assert (training.batch_size, training.schedule.warmup_steps, training.clip_grad_norm) == (64, 0, None)

    def test_own_optimiser_is_trained_as_it_says(self) -> None:
        own = {"epochs": 1, "optimizer": {"lr": 0.1}}
        training = parse_experiment(self.DETECTION | {"training": own}).training
        assert (training.batch_size, training.optimizer.lr, training.optimizer.weight_decay) == (8, 0.1, 5e-4)
        assert (training.schedule.warmup_steps, training.clip_grad_norm) == (0, None)

    def test_own_schedule_replaces_the_usual_one(self) -> None:
        training = parse_experiment(
            self.DETECTION | {"training": {"epochs": 3, "schedule": {"warmup_epochs": 1}}}
        ).training
        assert (training.schedule.warmup_epochs, training.schedule.warmup_steps, training.optimizer.lr) == (1, 0, 0.01)

    @pytest.mark.parametrize("training", [{"epochs": 1}, {"epochs": 1, "clip_grad_norm": None, "batch_size": 4}])
    def test_stored_spec_is_read_as_it_was(self, training: dict[str, Any]) -> None:
        spec = parse_experiment(self.DETECTION | {"training": training})
        again = parse_experiment(spec.model_dump(mode="json"))
        assert again == spec
        assert [run.spec.fingerprint() for run in again.plan()] == [run.spec.fingerprint() for run in spec.plan()]
