"""Training settings in a spec: optimisers, augmentations, averages; and stored fingerprints."""

from __future__ import annotations

from typing import Any

import pytest

from core.catalog import AUGMENTATIONS, OPTIMIZERS, Params
from core.specs import (
    ExperimentSpec,
    RunSpec,
    SpecError,
    Training,
    parse_experiment,
    parse_stored_experiment,
    to_yaml,
    warnings_of,
)
from core.specs.loading import parse_text
from core.specs.presets import PRESETS
from core.specs.training import _ADDED


def experiment(**training: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "x",
            "dataset": "digits",
            "teacher": {"model": "resnet20"},
            "student": {"model": "small_cnn"},
            "methods": ["ce", "dkd"],
            "seeds": [0],
            "training": {"epochs": 2} | training,
        }
    )


def problems(**training: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        experiment(**training)
    return {problem.path: problem.message for problem in refused.value.problems}


class TestStoredFingerprints:
    """Names of teacher, ce and dkd by commit 480c557, which knew none of these fields."""

    @pytest.mark.parametrize(
        ("training", "fingerprints"),
        [
            (
                {"epochs": 30},
                ("3bb37e2a711365480d539886a173e702 5abd1dde58ece5e11049aa16f7f1faa9 b7fe47f031d6d4457bb88d6eb3250229"),
            ),
            (
                {"epochs": 30, "augment": "flip", "batch_size": 32},
                ("3a2238d24422bacaebc7c8b5c19c582e bd789a317884dd21489660545763a87b a9c61074531941750cbd894b4a3f9153"),
            ),
            (
                {"optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.01}},
                ("d05395dc97c100636f013d4fadb98c46 0be48ac0d8b7a2f6bf2d55e5509a2048 f9396d55a2e622acf68c83f9a86a1041"),
            ),
            (
                {"optimizer": {"name": "adamw", "momentum": 0.5}},
                ("6acf6409d11d05a6831b193e9de8d069 80d2ad779b042c6e4b9ffbfcd0e87a5f 36e6fca67914c1438b6b1d169c79e606"),
            ),
            (
                {
                    "epochs": 9,
                    "optimizer": {"lr": 0.1, "momentum": 0.8, "nesterov": True},
                    "schedule": {"name": "step", "milestones": [3]},
                    "freeze_batch_norm_after": 1,
                    "augment": "none",
                },
                ("164dece2b953c269fdbd03cab1763180 9dc9f8182b1f86472df0858f8040f6c6 849e717d63f92cc3c5db47f9e5caaae3"),
            ),
        ],
    )
    def test_stored_fingerprints_are_unchanged(self, training: dict[str, Any], fingerprints: str) -> None:
        assert [run.spec.fingerprint() for run in experiment(**training).plan()] == [
            f"v1-{digest}" for digest in fingerprints.split()
        ]

    @pytest.mark.parametrize(
        "training",
        [
            {"label_smoothing": 0.0, "clip_grad_norm": None, "accumulate": 1, "ema": None, "evaluate_every": 1},
            {"augment": ["standard"]},
            {"augment": {"name": "standard"}},
            {"augment": []},
            {"optimizer": "sgd"},
            {"optimizer": {"name": "sgd", "params": {}}},
        ],
    )
    def test_explicit_default_is_omitted_from_the_dump(self, training: dict[str, Any]) -> None:
        assert experiment(**training).model_dump(mode="json") == experiment().model_dump(mode="json")
        assert not set(experiment(**training).training.model_dump()) & set(_ADDED)

    @pytest.mark.parametrize(
        "training",
        [
            {"label_smoothing": 0.1},
            {"clip_grad_norm": 1.0},
            {"accumulate": 4},
            {"augment": "mixup"},
            {"augment": {"name": "mixup", "params": {"alpha": 0.4}}},
            {"augment": ["flip", "mixup"]},
            {"optimizer": "adam"},
            {"optimizer": {"name": "adamw", "params": {"beta2": 0.95}}},
            {"ema": 0.99},
            {"evaluate_every": 2},
            {"features_every": 0},
            {"features_every": 5},
        ],
    )
    def test_setting_changes_fingerprints_and_is_kept_in_json_and_yaml(self, training: dict[str, Any]) -> None:
        spec, plain = experiment(**training), experiment()
        for run, other in zip(spec.plan()[1:], plain.plan()[1:], strict=True):
            assert run.spec.fingerprint() != other.spec.fingerprint()
            assert RunSpec.model_validate_json(run.spec.model_dump_json()) == run.spec
        assert parse_stored_experiment(spec.model_dump(mode="json")) == spec
        assert parse_text(to_yaml(spec)) == spec

    def test_measurements_do_not_change_the_teacher(self) -> None:
        measured = experiment(ema=0.99, evaluate_every=2, features_every=1).teacher_run()
        assert measured == experiment().teacher_run()
        smoothed = experiment(label_smoothing=0.1).teacher_run()
        assert smoothed
        assert smoothed.training.label_smoothing == 0.1

    def test_no_preset_sets_a_field_whose_default_is_omitted(self) -> None:
        # A spec that goes back to the default would be stored without the field, and read with the preset's value.
        for name, preset in PRESETS.items():
            for part in (preset.fields, preset.fields.get("teacher") or {}):
                assert not set(part.get("training") or {}) & set(_ADDED), name


class TestRefusals:
    @pytest.mark.parametrize(
        ("training", "path", "words"),
        [
            ({"ema": 1.0}, "ema", "should be less than 1"),
            ({"ema": -0.1}, "ema", "greater than or equal to 0"),
            ({"label_smoothing": 1}, "label_smoothing", "should be less than 1"),
            ({"clip_grad_norm": 0}, "clip_grad_norm", "should be greater than 0"),
            ({"accumulate": 0}, "accumulate", "greater than or equal to 1"),
            ({"accumulate": 3}, "accumulate", "3 micro-batches do not divide a batch of 64 images"),
            ({"evaluate_every": 0}, "evaluate_every", "greater than or equal to 1"),
            ({"evaluate_every": 20_000}, "evaluate_every", "less than or equal to 10000"),
            ({"optimizer": "lion"}, "optimizer.name", "unknown optimizer 'lion'"),
            ({"optimizer": {"name": "Adam"}}, "optimizer.name", "did you mean adam?"),
            ({"optimizer": {"name": "adam", "params": {"betta1": 1}}}, "optimizer.params.betta1", "did you mean beta1"),
            ({"optimizer": {"name": "adam", "beta1": 0.8}}, "optimizer.beta1", "did you mean params.beta1?"),
            ({"optimizer": {"name": "adam", "params": {"beta1": 1}}}, "optimizer.params.beta1", "less than 1"),
            ({"optimizer": {"name": "sgd", "params": {"beta1": 0.5}}}, "optimizer.params.beta1", "it takes none"),
            (
                {"optimizer": {"name": "rmsprop", "momentum": 0.5}},
                "optimizer.momentum",
                "did you mean params.momentum?",
            ),
            ({"optimizer": {"name": "adam", "nesterov": True}}, "optimizer.nesterov", "adam has params.beta1"),
            ({"augment": 3}, "augment", "should be the name of an augmentation"),
            ({"augment": ["randaugmnet"]}, "augment.0.name", "did you mean randaugment"),
            ({"augment": {"name": "mixup", "params": {"alfa": 1}}}, "augment.params.alfa", "did you mean alpha?"),
            ({"augment": ["flip", {"name": "cutmix", "params": {"alpha": 0}}]}, "augment.1.params.alpha", "than 0"),
            ({"augment": ["flip", "none"]}, "augment.1", "flip and none exclude each other"),
            ({"augment": ["mixup", "mixup"]}, "augment.1", "mixup is given twice"),
            ({"augment": ["mixup"] * 21}, "augment", "at most 20"),
            (
                {"augment": {"name": "random_erasing", "params": {"min_area": 0.5}}},
                "augment.params",
                "max_area should not be smaller",
            ),
        ],
    )
    def test_invalid_training_is_refused_with_its_field(self, training: dict[str, Any], path: str, words: str) -> None:
        messages = problems(**training)
        assert list(messages) == [f"training.{path}"]
        assert words in messages[f"training.{path}"]


class TestOptimizer:
    def test_defaults_of_the_optimizer_are_filled_in(self) -> None:
        adam = experiment(optimizer="adam").training.optimizer
        assert (adam.lr, adam.weight_decay) == (0.001, 0.0)
        assert experiment(optimizer={"name": "adam", "lr": 0.01}).training.optimizer.lr == 0.01
        plain = experiment(optimizer={"name": "adamw"}).training.optimizer
        assert (plain.lr, plain.weight_decay) == (0.05, 5e-4), "as before there were others"

    def test_unused_fields_of_the_optimizer_are_omitted(self) -> None:
        written = experiment(optimizer="radam").training.model_dump(mode="json")["optimizer"]
        assert written == {"name": "radam", "lr": 0.001, "weight_decay": 0.0}

    def test_parameters_of_a_plugin_optimizer_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))
        entry = OPTIMIZERS["adam"]
        OPTIMIZERS.add(type(entry)(name="mine", title="M", summary="", target="x:y", params=entry.params, lr=0.5))
        spec = experiment(optimizer={"name": "mine", "params": {"beta1": 0.1}})
        assert (spec.training.optimizer.lr, spec.training.optimizer.params["beta1"]) == (0.5, 0.1)
        assert "mine" in Training.model_json_schema()["$defs"]["Optimizer"]["properties"]["name"]["enum"]


class TestAugmentations:
    def test_augmentations_are_stored_in_the_order_of_the_pipeline(self) -> None:
        training = experiment(augment=["cutmix", "random_erasing", "randaugment", "flip"]).training
        assert [ref.name for ref in training.augmentations] == ["flip", "randaugment", "random_erasing", "cutmix"]
        assert [ref.name for ref in experiment().training.augmentations] == ["standard"]
        assert [ref.name for ref in experiment(augment="mixup").training.augmentations] == ["standard", "mixup"]

    def test_defaults_of_augmentations_are_written_out(self) -> None:
        augment = experiment(augment=["none", "trivialaugment", "randaugment"]).training.model_dump(mode="json")[
            "augment"
        ]
        assert augment == ["none", "trivialaugment", {"name": "randaugment", "params": {"num_ops": 2, "magnitude": 9}}]

    def test_schema_lists_every_augmentation(self) -> None:
        schema = Training.model_json_schema()["properties"]["augment"]
        assert [item["name"] for item in schema["x-entries"]] == [entry.name for entry in AUGMENTATIONS]
        assert schema["default"] == "standard"


def test_entries_of_both_registries_are_complete() -> None:
    for registry in (OPTIMIZERS, AUGMENTATIONS):
        for entry in registry:
            assert issubclass(entry.params, Params)
            assert entry.params(), "every parameter has a default"
            assert entry.describe()["summary"].endswith(".")


class TestWarnings:
    def about(self, **training: Any) -> dict[str, str]:
        return {warning.path: warning.message for warning in warnings_of(experiment(**training))}

    def test_average_longer_than_the_training_is_warned_of(self) -> None:
        text = self.about(ema=0.9999)["training.ema"]
        assert "about 10,000 steps" in text
        assert "28" in text, "two epochs of 14 steps"
        assert "training.ema" not in self.about(ema=0.5)

    def test_learning_rate_far_above_the_default_is_warned_of(self) -> None:
        assert "50 times" in self.about(optimizer={"name": "adam", "lr": 0.05})["training.optimizer.lr"]
        assert "training.optimizer.lr" not in self.about(optimizer="adam")
        assert "training.optimizer.lr" not in self.about(optimizer={"lr": 0.5})

    def test_momentum_that_adamw_ignores_is_warned_of(self) -> None:
        assert "adamw" in self.about(optimizer={"name": "adamw", "momentum": 0.5})["training.optimizer.momentum"]
        assert "training.optimizer.momentum" not in self.about(optimizer="adamw")
