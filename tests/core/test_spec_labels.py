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


def test_a_stored_spec_begins_another_one_without_its_automatic_labels() -> None:
    kept = {**LOG, "label": "ours"}
    data = without_automatic_labels(stored("kd", SAMPLE, kept))
    assert [method.get("label") for method in data["methods"]] == [None, None, "ours"]
    data["methods"][1]["params"]["reduction"] = "batch"
    labels = [method.label for method in parse_experiment(data).methods]
    assert labels == ["kd", "dkd_align (batch)", "ours"]


@pytest.mark.parametrize("data", [None, 3, "text", [], {}, {"methods": "dkd"}, {"methods": ["dkd", 3, {"name": 4}]}])
def test_what_is_no_spec_is_left_alone(data: Any) -> None:
    assert without_automatic_labels(data) == data


def test_yaml_names_only_what_was_typed() -> None:
    text = to_yaml(parse_experiment(spec("kd", {**LOG, "label": "ours"})))
    assert "label: ours" in text
    assert text.count("  label:") == 1


@pytest.mark.parametrize(
    ("method", "label", "said"),
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
def test_a_label_that_names_something_else_is_warned_of(method: Any, label: str, said: str) -> None:
    choice = {"name": method} if isinstance(method, str) else method
    (text,) = of_labels(spec({**choice, "label": label}))
    assert said in text
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
def test_a_label_that_says_what_it_stands_for_is_not_warned_of(method: Any, label: str) -> None:
    choice = {"name": method} if isinstance(method, str) else method
    assert of_labels(spec({**choice, "label": label})) == []


def test_two_methods_of_one_label_are_told_what_they_differ_in() -> None:
    with pytest.raises(SpecError, match=r"two methods are labelled 'dkd'; they differ in beta: .* as 'dkd beta=4.0'"):
        parse_experiment(spec("dkd", {"name": "dkd", "params": {"beta": 4}}))
    with pytest.raises(SpecError, match="have the same parameters; remove one"):
        parse_experiment(spec("dkd", "dkd"))


def test_a_sweep_over_a_stored_spec_names_each_point_by_its_method() -> None:
    base = stored("dkd", SAMPLE)
    del base["name"]
    grid = {"methods.1.params.reduction": ["sample", "log"]}
    specs = expand(parse_sweep({"name": "s", "experiment": base, "grid": grid}))
    assert [found.methods[1].label for found in specs] == ["dkd_align (sample)", "dkd_align (log)"]


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
def test_the_name_that_a_sweep_gave_follows_its_field(name: str, changed: str) -> None:
    assert rename_swept(name, "training.epochs", 5, 9) == changed


def test_a_preset_that_is_not_what_was_published_is_said() -> None:
    def of_preset(**changes: Any) -> list[str]:
        data = {"name": "n", "preset": "decoupled-gradient-kd-2026", "student": {"model": "resnet8"}, **changes}
        data.setdefault("teacher", {"model": "resnet20"})
        found = parse_experiment(data)
        again = parse_experiment(found.model_dump(mode="json"))
        assert warnings_of(found) == warnings_of(again), "what is stored says the same"
        return [problem.message for problem in warnings_of(found) if problem.path == "preset"]

    assert of_preset() == []
    assert of_preset(seeds="0..9", name="other") == []
    (text,) = of_preset(training={"epochs": 30, "optimizer": {"lr": 0.1}}, methods=["dkd"])
    paths = "methods, training.epochs, training.optimizer.lr"
    assert text == f"this is not decoupled-gradient-kd-2026 as published: {paths} of its own"


class TestTheTeacherStays:
    def test_its_training_is_written_out_and_it_is_the_same(self) -> None:
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
    def test_nothing_is_written_out_where_nothing_follows(self, teacher: Any) -> None:
        data = stored("dkd" if teacher else "ce", teacher=teacher)
        assert editable_copy(data)["teacher"] == data["teacher"]

    def test_a_sweep_of_the_students_training_has_one_teacher(self) -> None:
        base = {name: value for name, value in spec("dkd").items() if name != "name"}
        grid = {"training.epochs": [10, 20], "training.optimizer.lr": [0.1, 0.2]}

        def teachers(experiment: Any, **more: Any) -> set[str]:
            specs = expand(parse_sweep({"name": "s", "experiment": experiment, "grid": grid | more}))
            return {run.fingerprint() for found in specs if (run := found.teacher_run())}

        unswept = parse_experiment({"name": "n", **base}).teacher_run()
        assert unswept
        assert teachers(base) == {unswept.fingerprint()}, "the one that the spec itself would train"
        assert len(teachers(base, **{"teacher.training": [None]})) == 4, "asked for, it follows the students"
        assert len(teachers(base, **{"teacher.seed": [0, 1]})) == 2
        assert len(teachers({**base, "training": {}})) == 4, "the students' training is complete only with an axis"
