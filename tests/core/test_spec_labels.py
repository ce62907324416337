"""Labels of methods: automatic ones follow the method, typed ones stay, and misleading ones are warned of."""

from __future__ import annotations

from typing import Any

import pytest

from core.specs import SpecError, editable_copy, parse_experiment, parse_sweep, to_yaml, warnings_of
from core.specs.labels import without_automatic_labels
from core.specs.sweep import expand, rename_swept

SAMPLE = {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}}
LOG = {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}}


def spec(*methods: Any, **changes: Any) -> dict[str, Any]:
    return {
        "name": "n",
        "dataset": "cifar100",
        "teacher": {"model": "resnet8"},
        "student": {"model": "resnet8"},
        "methods": list(methods),
        "seeds": "0..5",
        "training": {"epochs": 30},
    } | changes


def stored(*methods: Any, **changes: Any) -> dict[str, Any]:
    return parse_experiment(spec(*methods, **changes)).model_dump(mode="json")


def of_labels(data: Any) -> list[str]:
    return [problem.message for problem in warnings_of(parse_experiment(data)) if problem.path.endswith(".label")]


def test_copy_of_a_stored_spec_has_no_automatic_labels() -> None:
    kept = {**LOG, "label": "ours"}
    data = without_automatic_labels(stored("kd", SAMPLE, kept))
    assert [method.get("label") for method in data["methods"]] == [None, None, "ours"]
    data["methods"][1]["params"]["reduction"] = "batch"
    labels = [method.label for method in parse_experiment(data).methods]
    assert labels == ["kd", "dkd_align (batch)", "ours"]


@pytest.mark.parametrize("data", [None, 3, "text", [], {}, {"methods": "dkd"}, {"methods": ["dkd", 3, {"name": 4}]}])
def test_data_that_is_not_a_spec_is_unchanged(data: Any) -> None:
    assert without_automatic_labels(data) == data


def test_yaml_contains_typed_labels_only() -> None:
    text = to_yaml(parse_experiment(spec("kd", {**LOG, "label": "ours"})))
    assert "label: ours" in text
    assert text.count("  label:") == 1


@pytest.mark.parametrize(
    ("method", "label", "expected"),
    [
        (LOG, "dkd_align (sample)", "automatic name of another method or reduction; this one is dkd_align (log)"),
        ("kd", "dkd", "automatic name of another"),
        (LOG, "dkd", "automatic name of another"),
        ("kd", "DKD baseline", "names dkd, and the method is kd"),
        ("dkd", "DKD-Align (log)", "names dkd_align"),
        (LOG, "align, sample", "says sample, and the reduction is log"),
        (LOG, "Ours (batch)", "says batch, and the reduction is log"),
    ],
)
def test_misleading_label_is_warned_of(method: Any, label: str, expected: str) -> None:
    choice = {"name": method} if isinstance(method, str) else method
    (text,) = of_labels(spec({**choice, "label": label}))
    assert expected in text
    assert repr(label) in text


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("kd", "KD"),
        ("kd", "KD without CE"),
        ("kd", "no CE"),
        ("kd", "CE weight 0"),
        ("dkd", "DKD baseline, beta 4"),
        ("dkd", "mine"),
        (LOG, "DKD + A"),
        (LOG, "DKD-Align log"),
        (LOG, "batch 128"),
        (LOG, "batch size 128"),
    ],
)
def test_correct_label_has_no_warning(method: Any, label: str) -> None:
    choice = {"name": method} if isinstance(method, str) else method
    assert of_labels(spec({**choice, "label": label})) == []


def test_methods_with_equal_labels_are_refused_with_their_difference() -> None:
    with pytest.raises(SpecError, match=r"two methods are labelled 'dkd'; they differ in beta: .* as 'dkd beta=4.0'"):
        parse_experiment(spec("dkd", {"name": "dkd", "params": {"beta": 4}}))
    with pytest.raises(SpecError, match="have the same parameters; remove one"):
        parse_experiment(spec("dkd", "dkd"))


def test_sweep_over_a_stored_spec_labels_each_point_by_its_method() -> None:
    base = stored("dkd", SAMPLE)
    del base["name"]
    grid = {"methods.1.params.reduction": ["sample", "log"]}
    specs = expand(parse_sweep({"name": "s", "experiment": base, "grid": grid}))
    assert [parsed.methods[1].label for parsed in specs] == ["dkd_align (sample)", "dkd_align (log)"]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("s epochs=5", "s epochs=9"),
        ("s epochs=5, seed=1", "s epochs=9, seed=1"),
        ("s training.epochs=5, teacher.training.epochs=5", "s training.epochs=9, teacher.training.epochs=5"),
        ("s epochs=50", "s epochs=50"),
        ("s epochs=5 (2)", "s epochs=9 (2)"),
        ("epochs=5", "epochs=5"),
    ],
)
def test_name_from_a_sweep_follows_a_change_of_its_field(name: str, changed: str) -> None:
    assert rename_swept(name, "training.epochs", 5, 9) == changed


def test_departure_from_a_preset_is_warned_of() -> None:
    def of_preset(**changes: Any) -> list[str]:
        data = {"name": "n", "preset": "decoupled-gradient-kd-2026", "student": {"model": "resnet8"}, **changes}
        data.setdefault("teacher", {"model": "resnet20"})
        parsed = parse_experiment(data)
        again = parse_experiment(parsed.model_dump(mode="json"))
        assert warnings_of(parsed) == warnings_of(again), "what is stored says the same"
        return [problem.message for problem in warnings_of(parsed) if problem.path == "preset"]

    assert of_preset() == []
    assert of_preset(seeds="0..9", name="other") == []
    (text,) = of_preset(training={"epochs": 30, "optimizer": {"lr": 0.1}}, methods=["dkd"])
    paths = "methods, training.epochs, training.optimizer.lr"
    assert text == f"this is not decoupled-gradient-kd-2026 as published: {paths} of its own"


class TestEditableCopy:
    def test_edited_copy_keeps_the_teacher(self) -> None:
        training = {"epochs": 30, "freeze_batch_norm_after": 3, "robustness": True, "speed": {"reuse_teacher": False}}
        before = parse_experiment(stored("dkd", training=training))
        data = editable_copy(before.model_dump(mode="json"))
        data["training"] |= {"epochs": 99, "batch_size": 16, "augment": "none"}
        data["training"]["optimizer"]["lr"] = 1.0
        data["training"]["schedule"]["name"] = "constant"
        data["training"]["speed"]["precision"] = "float32"
        after = parse_experiment(data)
        first, second = before.teacher_run(), after.teacher_run()
        assert first
        assert second
        assert first.fingerprint() == second.fingerprint()
        assert after.training.epochs == 99

    @pytest.mark.parametrize(
        "teacher",
        [
            None,
            {"model": "resnet8", "training": {"epochs": 3}},
            {"model": "resnet8", "weights": {"source": "https://x.example/a.safetensors", "sha256": "a" * 64}},
        ],
    )
    def test_teacher_that_does_not_follow_the_students_is_unchanged(self, teacher: Any) -> None:
        data = stored("dkd" if teacher else "ce", teacher=teacher)
        assert editable_copy(data)["teacher"] == data["teacher"]

    def test_sweep_of_the_training_of_students_has_one_teacher(self) -> None:
        base = {name: value for name, value in spec("dkd").items() if name != "name"}
        grid = {"training.epochs": [10, 20], "training.optimizer.lr": [0.1, 0.2]}

        def teachers(experiment: Any, **more: Any) -> set[str]:
            specs = expand(parse_sweep({"name": "s", "experiment": experiment, "grid": grid | more}))
            return {run.fingerprint() for parsed in specs if (run := parsed.teacher_run())}

        unswept = parse_experiment({"name": "n", **base}).teacher_run()
        assert unswept
        assert teachers(base) == {unswept.fingerprint()}, "the one that the spec itself would train"
        assert len(teachers(base, **{"teacher.training": [None]})) == 4, "asked for, it follows the students"
        assert len(teachers(base, **{"teacher.seed": [0, 1]})) == 2
        assert len(teachers({**base, "training": {}})) == 4, "the students' training is complete only with an axis"
