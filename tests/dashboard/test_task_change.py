"""The change of a draft to the data set of another task, without the page."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from core.catalog import describe
from core.protocol.public import Catalog
from core.specs import ExperimentSpec, parse_experiment
from dashboard.forms import schema_fields, spec_draft, task_catalog
from dashboard.forms.task_change import TaskForm, change_task, networks_of_example

CATALOG = Catalog.model_validate(describe() | {"experiment_schema": ExperimentSpec.model_json_schema(by_alias=True)})
CLASSIFICATION, DETECTION = (
    TaskForm.of(CATALOG, next(item for item in CATALOG.tasks if item["name"] == name))
    for name in ("classification", "detection")
)
OF_IMAGES = (
    *("label_smoothing", "accumulate", "collapse_every", "features_every", "robustness", "stylised"),
    "strong_augment",
)


def blank(**changes: Any) -> dict[str, Any]:
    """Return the draft of an empty form, with the complete methods and training of the changes."""
    entries = {"methods": CATALOG.methods, "models": CATALOG.models, "datasets": CATALOG.datasets}
    draft = spec_draft.blank_draft(entries, CATALOG.experiment_schema)
    draft |= {"name": "mine", "dataset": {"name": "digits", "params": {}}}
    if "methods" in changes:
        changes["methods"] = [
            {"label": "", "shares": {}, "with": [], **item, "params": defaults(item["name"]) | item.get("params", {})}
            for item in changes["methods"]
        ]
    if "training" in changes:
        changes["training"] = schema_fields.with_defaults(changes["training"], draft["training"])
    return {**draft, **deepcopy(changes)}


def defaults(method: str) -> dict[str, Any]:
    entry = next(item for item in CATALOG.methods if item["name"] == method)
    return schema_fields.schema_defaults(entry["params"])


def to_scenes(draft: dict[str, Any], left: dict[str, Any] | None = None) -> dict[str, Any]:
    scenes = {**draft, "dataset": {"name": "digit_scenes", "params": {}}}
    return change_task(scenes, CLASSIFICATION, DETECTION, left)


def to_digits(draft: dict[str, Any], left: dict[str, Any] | None = None) -> dict[str, Any]:
    return change_task({**draft, "dataset": {"name": "digits", "params": {}}}, DETECTION, CLASSIFICATION, left)


def spec_of(draft: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a draft, which the backend accepts."""
    spec = spec_draft.to_spec(draft)
    parse_experiment(spec)
    return spec


def names(draft: dict[str, Any]) -> list[str]:
    return [method["name"] for method in draft["methods"]]


class TestCatalogOfATask:
    def test_detection_has_detectors_and_classification_does_not(self) -> None:
        assert {"faster_rcnn", "ssd", "retinanet"} <= set(DETECTION.models)
        assert "resnet20" not in DETECTION.models
        assert "resnet20" in CLASSIFICATION.models
        assert "faster_rcnn" not in CLASSIFICATION.models

    def test_methods_are_those_that_the_backend_accepts(self) -> None:
        """A method is offered if and only if a spec of detection with its defaults is accepted."""
        model = {"name": "faster_rcnn", "params": {"backbone": "resnet8"}}
        base = {
            "name": "n",
            "dataset": "digit_scenes",
            "student": {"model": model},
            "teacher": {"model": model},
            "training": {"epochs": 2},
            "seeds": [0],
        }
        accepted = set()
        for entry in CATALOG.methods:
            own = task_catalog.for_task(CATALOG, DETECTION.task)
            offered = next((item for item in own.methods if item["name"] == entry["name"]), entry)
            params = schema_fields.schema_defaults(offered["params"])
            if entry["name"] == "dkd_align":
                params = {"reduction": "log", "epsilon": 0.1}
            try:
                parse_experiment({**base, "methods": [{"name": entry["name"], "params": params}]})
            except ValueError:
                continue
            accepted.add(entry["name"])
        assert accepted == set(DETECTION.methods)

    def test_defaults_of_methods_are_those_of_experiments_on_the_task(self) -> None:
        params = schema_fields.schema_defaults(DETECTION.methods["dkd"]["params"])
        assert (params["beta"], params["temperature"], params["ramp_epochs"]) == (0.25, 1.0, 0)
        assert schema_fields.schema_defaults(CLASSIFICATION.methods["dkd"]["params"])["beta"] == 8.0

    def test_settings_of_whole_images_are_of_classification_alone(self) -> None:
        assert set(OF_IMAGES) <= set(CLASSIFICATION.training)
        assert not set(OF_IMAGES) & set(DETECTION.training)
        assert "clip_grad_norm" in DETECTION.training

    def test_a_setting_that_the_task_does_not_have_stays_if_it_is_set(self) -> None:
        own = task_catalog.for_task(CATALOG, DETECTION.task, [{"label_smoothing": 0.1, "robustness": False}, None])
        properties = task_catalog.properties_of(own, "Training")
        assert "label_smoothing" in properties, "its error has a field"
        assert "robustness" not in properties

    def test_augmentations_are_those_of_the_task(self) -> None:
        entries = {entry["name"] for entry in DETECTION.training["augment"]["x-entries"]}
        assert "scale_jitter" in entries
        assert "mixup" not in entries
        assert "mixup" in {entry["name"] for entry in CLASSIFICATION.training["augment"]["x-entries"]}

    def test_regions_are_options_of_methods_that_compare_them(self) -> None:
        for members, expected in ((["dkd"], True), (["pkd"], False), (["pkd", "dkd"], True), (["ce"], False)):
            methods = [{"name": name} for name in members]
            assert task_catalog.has_regions(DETECTION.catalog, methods) == expected, members
            assert not task_catalog.has_regions(CLASSIFICATION.catalog, methods)


class TestChange:
    def test_a_changed_draft_is_accepted_and_has_the_usual_settings(self) -> None:
        training = spec_of(to_scenes(blank()))["training"]
        assert (training["batch_size"], training["clip_grad_norm"]) == (8, 10.0)
        assert training["schedule"]["warmup_steps"] == 100
        assert (training["optimizer"]["lr"], training["optimizer"]["weight_decay"]) == (0.01, 1e-4)

    def test_there_and_back_is_the_same_draft(self) -> None:
        draft = blank(
            methods=[
                {"name": "kd", "label": "mine", "params": {"temperature": 2.0}},
                {"name": "dkd", "params": {"temperature": 1.0}, "shares": {"nckd": 0.3}},
                {"name": "dkd", "label": "as in detection", "params": {"beta": 0.25}},
                {"name": "crd"},
                {"name": "dkd", "with": [{"name": "rkd", "params": defaults("rkd")}]},
            ],
            training={
                "label_smoothing": 0.1,
                "batch_size": 32,
                "augment": ["flip", "mixup"],
                "optimizer": {"lr": 0.02},
                "epochs": 7,
            },
            seeds=[3, 4],
        )
        scenes = to_scenes(draft)
        spec_of(scenes)
        assert names(scenes) == ["kd", "dkd", "dkd"], "neither CRD nor the combination with RKD"
        again = to_digits(scenes, draft)
        assert again["methods"] == draft["methods"]
        assert again["training"] == draft["training"]
        assert again == draft

    def test_changes_that_fit_are_carried_back(self) -> None:
        draft = blank(methods=[{"name": "kd"}, {"name": "dkd"}])
        scenes = to_scenes(draft)
        scenes["methods"][0]["params"]["temperature"] = 2.0
        scenes["methods"][1]["label"] = "renamed"
        scenes["training"] |= {"epochs": 5, "batch_size": 16}
        again = to_digits(scenes, draft)
        assert again["methods"][0]["params"]["temperature"] == 2.0
        assert again["methods"][1]["label"] == "renamed"
        assert again["methods"][1]["params"]["beta"] == 8.0, "the default of classification"
        assert (again["training"]["epochs"], again["training"]["batch_size"]) == (5, 16)
        assert "clip_grad_norm" not in again["training"]
        assert again["student"] == draft["student"]

    def test_options_of_regions_come_back(self) -> None:
        draft = blank(methods=[{"name": "dkd"}])
        scenes = to_scenes(draft)
        scenes["methods"][0]["regions"] = {"boxes": "fixed", "background": "none"}
        scenes["methods"].append({"name": "fgd", "params": {}, "label": "", "shares": {}, "with": []})
        digits = to_digits(scenes, draft)
        assert names(digits) == ["dkd"]
        assert "regions" not in spec_of(digits)["methods"][0]
        again = to_scenes(digits, scenes)
        assert again["methods"] == scenes["methods"]

    def test_a_draft_with_nothing_that_fits_has_the_first_method(self) -> None:
        draft = blank(methods=[{"name": "crd"}])
        scenes = to_scenes(draft)
        assert names(scenes) == ["kd"]
        assert names(to_digits(scenes, draft)) == ["crd"], "the stand-in goes again"
        assert names(to_digits(scenes)) == ["kd"]

    def test_networks_are_those_of_an_example_on_the_data_set(self) -> None:
        example = networks_of_example(CATALOG, "digit_scenes")
        assert example is not None
        scenes = to_scenes(blank(), example)
        assert (scenes["student"], scenes["teacher"]["model"]) == (example["student"], example["teacher"]["model"])
        assert scenes["student"]["model"]["params"]["backbone"] == "resnet8", "smaller than the default"
        assert names(scenes) == names(blank()), "and no methods"
        assert networks_of_example(CATALOG, "no such set") is None

    @pytest.mark.parametrize("several", [False, True])
    def test_teachers_are_detectors_with_what_detectors_can_have(self, several: bool) -> None:
        own = {"model": {"name": "resnet32", "params": {}}, "weights": None, "training": None, "seed": 0}
        own |= {"method": None, "teacher": None}
        teacher = {
            "model": {"name": "resnet20", "params": {}},
            "weights": {"source": "upload:mine"},
            "training": blank()["training"] | {"robustness": True},
            "seed": 5,
            "method": {"name": "crd", "params": defaults("crd"), "label": "", "with": []},
            "teacher": own,
        }
        draft = blank() | spec_draft.with_teachers([teacher, {**teacher, "seed": 6}] if several else [teacher])
        changed = spec_draft.own_teachers(to_scenes(draft))
        assert [item["seed"] for item in changed] == ([5, 6] if several else [5])
        for item in changed:
            assert item["model"]["name"] == "faster_rcnn"
            assert (item["weights"], item["method"], item["teacher"]) == (None, None, None), "none that fits"
            assert "robustness" not in item["training"]
        assert spec_draft.own_teachers(to_digits(to_scenes(draft), draft)) == spec_draft.own_teachers(draft)


def test_trainings_are_those_of_every_teacher() -> None:
    own = {"model": {"name": "m"}, "training": {"epochs": 3}, "teacher": None}
    chain = {
        "model": {"name": "m"},
        "training": None,
        "teacher": {**own, "teacher": {**own, "training": {"epochs": 4}}},
    }
    draft = {"training": {"epochs": 1}, "teachers": [chain, {**own, "training": {"epochs": 2}}]}
    assert spec_draft.trainings(draft) == [{"epochs": 1}, None, {"epochs": 3}, {"epochs": 4}, {"epochs": 2}]
    assert len(spec_draft.own_teachers(draft)) == 2, "the draft is as before"
