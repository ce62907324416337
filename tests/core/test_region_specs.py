"""Options of regions in specs: what they accept, what a data set of detection refuses, labels, and warnings on ε."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from core.catalog import DATASETS, METHODS, MODELS, DatasetEntry, DatasetFacts, MethodEntry, ModelEntry
from core.catalog.methods import MethodContext
from core.specs import MethodRef, Problem, SpecError, editable_copy, parse_experiment, problems_of, warnings_of
from core.specs.warnings import method_warnings
from tests.core import hint_plugin

assert hint_plugin  # it adds a method for detection alone
DETECTOR = "two_stage"


def _data_set(name: str, classes: int | None) -> DatasetEntry:
    facts = DatasetFacts(classes, 3, 96, 100, 50) if classes else None
    return DatasetEntry(name=name, title=name, summary="", target="", facts=lambda _: facts, task="detection")


def _model(name: str, logits: Literal["any", "anchors", "none"]) -> ModelEntry:
    return ModelEntry(
        name=name,
        title=name,
        summary="",
        target="",
        min_image_size=32,
        taps=("p3", "p4", "p5"),
        region_logits=logits,
        tasks=("detection",),
    )


@pytest.fixture(autouse=True)
def _catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, classes in (("scenes", 11), ("cells", 4), ("raccoons", 2), ("folder_of_boxes", None)):
        monkeypatch.setitem(DATASETS._entries, name, _data_set(name, classes))
    logits: tuple[tuple[str, Literal["any", "anchors", "none"]], ...] = (
        (DETECTOR, "any"),
        ("single_shot", "anchors"),
        ("sigmoids", "none"),
    )
    for name, of_regions in logits:
        monkeypatch.setitem(MODELS._entries, name, _model(name, of_regions))


def spec(
    *methods: Any, dataset: str = "scenes", student: str = DETECTOR, teacher: str = DETECTOR, **training: Any
) -> dict[str, Any]:
    return {
        "name": "n",
        "dataset": dataset,
        "teacher": {"model": teacher},
        "student": {"model": student},
        "methods": list(methods),
        "seeds": "0..5",
        "training": {"epochs": 30, "batch_size": 8} | training,
    }


def dkd(**regions: Any) -> dict[str, Any]:
    return {"name": "dkd", "regions": regions}


def problems(data: dict[str, Any]) -> list[Problem]:
    with pytest.raises(SpecError) as refused:
        parse_experiment(data)
    return refused.value.problems


def problem(data: dict[str, Any]) -> Problem:
    (found,) = problems(data)
    return found


class TestOptions:
    def test_default_is_left_out_of_a_spec(self) -> None:
        plain = MethodRef(name="dkd").model_dump(mode="json")
        assert "regions" not in plain
        for given in ({}, "student", {"background": "all"}):
            assert MethodRef.model_validate({"name": "dkd", "regions": given}).model_dump(mode="json") == plain

    def test_only_what_has_an_effect_is_written(self) -> None:
        method = MethodRef.model_validate(dkd(background="separate", background_params={"beta": 1}))
        stored = method.model_dump(mode="json")
        assert stored["regions"] == {
            "boxes": "student",
            "background": "separate",
            "background_params": {"beta": 1.0},
        }
        assert MethodRef.model_validate(stored) == method
        fixed = MethodRef.model_validate({"name": "dkd", "regions": "fixed"}).model_dump(mode="json")["regions"]
        assert fixed["fixed_count"] == 64
        assert set(fixed) == {"boxes", "background", "fixed_count", "jitter_share", "jitter_shift", "jitter_scale"}

    @pytest.mark.parametrize(
        ("regions", "path", "message"),
        [
            ({"background": "weight"}, "background_weight", "needs the weight of a box without an object"),
            ({"background_weight": 0.5}, "background_weight", "only with background: weight"),
            ({"background_params": {"beta": 1}}, "background_params", "only with background: separate"),
            ({"boxes": "union", "fixed_count": 8}, "fixed_count", "only with boxes: fixed"),
            ({"boxes": "fixd"}, "boxes", "did you mean 'fixed'?"),
        ],
    )
    def test_contradiction_is_refused_with_its_path(self, regions: dict[str, Any], path: str, message: str) -> None:
        found = problem(spec(dkd(**regions)))
        assert found.path == f"methods.0.regions.{path}"
        assert message in found.message

    @pytest.mark.parametrize(
        ("method", "given", "path", "message"),
        [
            ("dkd", {"betta": 1}, "betta", "dkd has no parameter 'betta'; did you mean beta?"),
            ("dkd", {"beta": -1}, "beta", "greater than or equal to 0"),
            ("dkd", {"ce_weight": 0}, "ce_weight", "cross-entropy is of all boxes together"),
            ({"name": "dkd", "with": ["dist"]}, {"beta": 1}, "beta", "dkd and dist both have beta"),
        ],
    )
    def test_parameter_of_the_background_is_one_of_one_method(
        self, method: Any, given: dict[str, Any], path: str, message: str
    ) -> None:
        ref = {"name": method} if isinstance(method, str) else method
        regions = {"background": "separate", "background_params": given}
        with pytest.raises(ValidationError) as refused:
            MethodRef.model_validate(ref | {"regions": regions})
        (found,) = problems_of(refused.value)
        assert found.path == f"regions.background_params.{path}"
        assert message in found.message

    def test_members_have_the_parameters_of_the_background(self) -> None:
        given = {"epsilon": 1, "epsilon_share": None}
        params = {"reduction": "log", "epsilon_share": 0.1}
        regions = {"background": "separate", "background_params": given}
        method = MethodRef.model_validate({"name": "dkd_align", "params": params, "regions": regions})
        (apart,) = method.background_members
        assert (apart.params["epsilon"], apart.params["epsilon_share"]) == (1.0, None)
        assert method.params["epsilon_share"] == 0.1
        added = {"name": "dkd", "with": ["kd"], "regions": regions | {"background_params": {"kd_weight": 2}}}
        dkd, kd = MethodRef.model_validate(added).background_members
        assert dkd.params == MethodRef(name="dkd").params
        assert kd.params["kd_weight"] == 2.0


class TestLabels:
    @pytest.mark.parametrize(
        ("method", "label"),
        [
            (dkd(boxes="fixed"), "dkd fixed"),
            (dkd(boxes="teacher"), "dkd teacher boxes"),
            (dkd(background="none", boxes="union"), "dkd union, no background"),
            (dkd(background="weight", background_weight=0.5), "dkd background 0.5"),
            (dkd(background="separate"), "dkd separate background"),
            (dkd(background="separate", background_params={"beta": 2}), "dkd background beta=2"),
            ({"name": "dkd", "with": ["nkd"], "regions": "fixed"}, "DKD + NKD, fixed"),
        ],
    )
    def test_automatic_label_names_what_differs(self, method: dict[str, Any], label: str) -> None:
        assert MethodRef.model_validate(method).label == label

    def test_two_settings_of_one_method_are_told_apart(self) -> None:
        parsed = parse_experiment(spec("dkd", dkd(boxes="fixed"), dkd(background="none")))
        assert [method.label for method in parsed.methods] == ["dkd", "dkd fixed", "dkd no background"]
        assert len({run.spec.fingerprint() for run in parsed.plan()}) == 1 + 3 * 6
        found = problem(spec(dkd(boxes="fixed"), dkd(boxes="fixed", jitter_shift=0.5)))
        assert "they differ in regions" in found.message

    def test_automatic_label_follows_a_change(self) -> None:
        stored = parse_experiment(spec(dkd(boxes="fixed"))).model_dump(mode="json")
        assert "label" not in editable_copy(stored)["methods"][0]

    def test_label_need_not_name_the_boxes(self) -> None:
        for label in ("dkd", "dkd fixed", "ours"):
            found = warnings_of(parse_experiment(spec({**dkd(boxes="fixed"), "label": label})))
            assert not [warning for warning in found if warning.path.endswith("label")], label


class TestMethods:
    @pytest.mark.parametrize("name", [entry.name for entry in METHODS if entry.reads_rows_alone])
    def test_method_on_rows_is_accepted(self, name: str) -> None:
        required = {"dkd_align": {"reduction": "log", "epsilon": 0.1}, "mlkd": {"strong_view": False}}
        method = {"name": name, "params": required.get(name, {})}
        if METHODS[name].momenta:
            assert "gives each term a momentum" in problem(spec(method)).message
        else:
            assert parse_experiment(spec(method)).methods[0].name == name

    @pytest.mark.parametrize("name", ["fitnet", "at", "reviewkd", "mgd", "pkd", "cwd", "fgd"])
    def test_method_on_maps_is_accepted(self, name: str) -> None:
        several = "student_taps" in METHODS[name].params.model_fields
        taps = ("p3", "p4") if several else "p4"
        suffix = "taps" if several else "tap"
        params = {f"{network}_{suffix}": taps for network in ("student", "teacher")}
        parse_experiment(spec({"name": name, "params": params, "with": ["kd"]}, {"name": name, "params": params}))

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("mlkd", "reads a second view of each image"),
            ("dml", "trains a second classifier"),
            ("crd", "reads layers of a classifier"),
            ("wkd_l", "reads the class of each image"),
        ],
    )
    def test_other_methods_are_refused_with_a_remedy(self, name: str, reason: str) -> None:
        found = [item for item in problems(spec(name)) if item.path == "methods.0"]
        assert len(found) == 1
        assert f"{name} {reason}" in found[0].message
        assert "choose one on logits (kd, dkd, dkd_align" in found[0].message

    def test_added_method_is_refused_at_its_place(self) -> None:
        assert problems(spec({"name": "dkd", "with": ["dml"]}))[0].path == "methods.0.with.0"

    def test_method_for_detection_alone_is_accepted(self) -> None:
        parse_experiment(spec("test_boxes"))

    def test_first_stage_is_refused(self) -> None:
        params = {"student_tap": "p3", "teacher_tap": "p3", "hint_epochs": 3}
        found = problem(spec({"name": "fitnet", "params": params}))
        assert found.path == "methods.0.params.hint_epochs"
        assert "set 0" in found.message

    @pytest.mark.parametrize("regions", ["student", "fixed"])
    def test_options_are_refused_for_a_classification(self, regions: str) -> None:
        data = spec({"name": "dkd", "regions": regions}, student="resnet8", teacher="resnet8", dataset="cifar10")
        found = problem(data)
        assert found.path == "methods.0.regions"
        assert "cifar10 is a data set of classification" in found.message

    def test_options_without_effect_are_refused(self) -> None:
        maps = {"name": "at", "params": {"student_taps": ["p3"], "teacher_taps": ["p3"]}}
        for method in ("ce", maps):
            ref = {"name": method} if isinstance(method, str) else method
            found = problem(spec({**ref, "regions": "fixed"}))
            assert found.path == "methods.0.regions"
            assert "compares nothing of boxes" in found.message
        found = problem(spec({"name": "test_boxes", "regions": {"background": "separate"}}))
        assert found.path == "methods.0.regions.background"

    def test_method_that_needs_the_student_boxes_refuses_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = MethodEntry(
            name="own", title="Own", summary="", target="", metrics=METHODS["kd"].metrics, reads_rows_alone=True,
            needs_own_boxes=True,
        )  # fmt: skip
        monkeypatch.setitem(METHODS._entries, "own", entry)
        parse_experiment(spec("own"))
        found = problem(spec({"name": "own", "regions": "fixed"}))
        assert found.path == "methods.0.regions.boxes"
        assert "set boxes: student" in found.message


class TestDetectors:
    @pytest.mark.parametrize("role", ["student", "teacher"])
    def test_detector_without_logits_of_regions_takes_maps_alone(self, role: str) -> None:
        networks = {role: "sigmoids"}
        found = problem(spec("kd", **networks))
        assert found.path == "methods.0"
        assert f"which the {role} sigmoids does not have; choose a method on maps (at, " in found.message
        maps = {"name": "at", "params": {"student_taps": ["p3"], "teacher_taps": ["p3"]}}
        parse_experiment(spec("ce", maps, **networks))
        assert problem(spec({**maps, "with": ["kd"]}, **networks)).path == "methods.0.with.0"

    def test_anchors_of_the_student_are_its_only_boxes(self) -> None:
        parse_experiment(spec("kd", student="single_shot"))
        found = problem(spec({"name": "kd", "regions": "fixed"}, student="single_shot"))
        assert found.path == "methods.0.regions.boxes"
        assert "logits of its own anchors alone" in found.message

    def test_teacher_with_anchors_cannot_be_asked_about_proposals(self) -> None:
        assert "the teacher single_shot" in problem(spec("kd", teacher="single_shot")).message
        parse_experiment(spec("kd", student="single_shot", teacher="single_shot"))

    @pytest.mark.parametrize(
        ("teacher", "message"),
        [
            ({"name": "ssd", "params": {"min_ratio": 0.3}}, "student and teacher have others, by min_ratio"),
            ({"name": "ssd", "params": {"extra_levels": 3, "max_ratio": 0.8}}, "by extra_levels and max_ratio"),
            ("single_shot", "the teacher single_shot has others than the student ssd; choose a teacher such as ssd or"),
        ],
    )
    def test_anchors_of_student_and_teacher_are_the_same(self, teacher: Any, message: str) -> None:
        found = problem(spec("kd", student="ssd", teacher=teacher))
        assert found.path == "methods.0"
        assert message in found.message
        parse_experiment(spec("kd", student="ssd", teacher="ssd"))
        parse_experiment(
            spec(
                {"name": "pkd", "params": {"student_taps": ["p3"], "teacher_taps": ["p3"]}},
                student="ssd",
                teacher=teacher,
            )
        )


class TestTraining:
    @pytest.mark.parametrize(
        ("training", "message"),
        [
            ({"accumulate": 2}, "choose a smaller batch_size"),
            ({"augment": ["standard", "mixup"]}, "mixup is for classification"),
            ({"collapse_every": 5}, "one class each"),
            ({"features_every": 5}, "one class each"),
            ({"label_smoothing": 0.1}, "most boxes are background"),
            ({"robustness": True}, "perturbed images"),
            ({"stylised": "folder"}, "perturbed images"),
        ],
    )
    def test_what_has_no_meaning_is_refused(self, training: dict[str, Any], message: str) -> None:
        (name,) = training
        found = problem(spec("kd", **training))
        assert found.path == f"training.{name}"
        assert message in found.message

    def test_training_of_a_teacher_is_checked_too(self) -> None:
        data = spec("kd")
        data["teacher"]["training"] = {"epochs": 1, "accumulate": 2}
        assert problem(data).path == "teacher.training.accumulate"


class TestClasses:
    def test_one_kind_of_object_names_the_remedy(self) -> None:
        found = problem(spec("dkd", dataset="raccoons"))
        assert found.path == "methods.0"
        assert "raccoons has 2, the background included; with beta: 0 it is TCKD alone" in found.message
        aligned = {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}
        assert "kd compares all classes, and two are enough" in problem(spec(aligned, dataset="raccoons")).message
        parse_experiment(spec("kd", {"name": "dkd", "params": {"beta": 0}}, dataset="raccoons"))

    def test_parameters_of_the_background_need_their_classes_too(self) -> None:
        method = {"name": "dkd", "params": {"beta": 0}}
        regions = {"background": "separate", "background_params": {"beta": 1}}
        found = problem(spec({**method, "regions": regions}, dataset="raccoons"))
        assert found.path == "methods.0.regions.background_params"
        assert "needs at least 3 classes" in found.message
        gdkd = {
            "name": "gdkd",
            "params": {"k": 2},
            "regions": {"background": "separate", "background_params": {"k": 9}},
        }
        assert problem(spec(gdkd, dataset="cells")).path == "methods.0.regions.background_params.k"


class TestFrozenParts:
    """Parts of a network that are frozen and begin with random weights."""

    def warned(self, teacher: dict[str, Any], student: dict[str, Any]) -> set[str]:
        networks = {
            "teacher": {"model": {"name": "faster_rcnn", "params": teacher}},
            "student": {"model": {"name": "retinanet", "params": student}},
        }
        data = spec("ce", dataset="digit_scenes") | networks
        return {item.path for item in warnings_of(parse_experiment(data)) if "random weights" in item.message}

    def test_each_frozen_part_is_warned_of(self) -> None:
        frozen = {"backbone": "resnet18", "norm": "frozen", "frozen_stages": 2}
        assert self.warned(frozen, {"frozen_stages": 1}) == {
            "teacher.model.params.norm",
            "teacher.model.params.frozen_stages",
            "student.model.params.frozen_stages",
        }

    def test_published_weights_and_trained_parts_are_not(self) -> None:
        published = {"backbone": "resnet18", "norm": "frozen", "frozen_stages": 2, "backbone_weights": "imagenet"}
        assert self.warned(published, {"backbone": "resnet8"}) == set()


class TestBound:
    """ε ≤ C·min(α, β) in each group of boxes."""

    def found(self, method: dict[str, Any], dataset: str = "cells") -> dict[str, str]:
        warnings = warnings_of(parse_experiment(spec(method, dataset=dataset)))
        return {item.path: item.message for item in warnings if "stability bound" in item.message}

    def aligned(self, epsilon: float, **regions: Any) -> dict[str, Any]:
        params = {"reduction": "sample", "epsilon": epsilon, "ramp_epochs": 0}
        return {"name": "dkd_align", "params": params} | ({"regions": regions} if regions else {})

    def test_epsilon_of_the_author_is_beyond_it_with_three_kinds_of_objects(self) -> None:
        found = self.found(self.aligned(6.0))
        assert found["methods.0.params.epsilon"].startswith("ε is beyond the stability bound C·min(α, β) = 4")
        assert not self.found(self.aligned(4.0))
        assert not self.found(self.aligned(6.0), "scenes")

    def test_each_group_has_its_own(self) -> None:
        apart = {"background": "separate", "background_params": {"beta": 0.25}}
        found = self.found(self.aligned(2.0, **apart))
        assert list(found) == ["methods.0.regions.background_params"]
        assert "for boxes without an object, ε is beyond the stability bound C·min(α, β) = 1" in next(
            iter(found.values())
        )
        assert not self.found(self.aligned(2.0, **apart | {"background_params": {"beta": 0.25, "epsilon": 1.0}}))
        above = self.found(self.aligned(2.0, **apart | {"background_params": {"epsilon": 5.0}}))
        assert list(above) == ["methods.0.regions.background_params.epsilon"]
        assert list(self.found(self.aligned(6.0, background="separate"))) == ["methods.0.params.epsilon"]

    @pytest.mark.parametrize("regions", [{"background": "none"}, {"background": "weight", "background_weight": 0.1}])
    def test_weights_of_rows_do_not_change_it(self, regions: dict[str, Any]) -> None:
        assert self.found(self.aligned(6.0, **regions))

    def test_other_methods_with_the_term_have_it_too(self) -> None:
        params = {"k": 1, "align": "sample", "align_epsilon": 5.0}
        assert "stability bound 4" in self.found({"name": "gdkd", "params": params})["methods.0.params.align_epsilon"]

    def test_worker_that_learns_the_classes_can_ask_again(self) -> None:
        method = MethodRef.model_validate(self.aligned(6.0))
        assert not self.found(self.aligned(6.0), "folder_of_boxes")
        known = MethodContext(epochs=10, batch_size=8, num_classes=4, rows_vary=True)
        (found,) = method_warnings(method, known)
        assert found.path == "method.params.epsilon"
        assert "bound C·min(α, β) = 4" in found.message

    def test_batch_is_dead_whatever_the_number_of_regions(self) -> None:
        method = {"name": "dkd_align", "params": {"reduction": "batch", "epsilon": 6.0, "ramp_epochs": 0}}
        found = {item.path: item.message for item in warnings_of(parse_experiment(spec(method)))}
        assert "the square of the number of boxes in a step" in found["methods.0.params.reduction"]


def test_network_for_another_task_is_refused() -> None:
    spec = {
        "name": "x",
        "dataset": "folder_of_boxes",
        "student": {"model": "resnet8"},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": 1},
    }
    with pytest.raises(SpecError) as caught:
        parse_experiment(spec)
    (problem,) = caught.value.problems
    assert problem.path == "student.model"
    assert problem.message.startswith("resnet8 is a network for classification, and folder_of_boxes is a data set of")
