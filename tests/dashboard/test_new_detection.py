"""The form of a new experiment on a data set of detection, against a fake backend."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from core.specs import parse_experiment, warnings_of
from tests.dashboard.conftest import button, field, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec

SCENES: dict[str, Any] = {
    "name": "scenes",
    "dataset": {"name": "digit_scenes", "params": {"train_size": 40}},
    "teacher": {"model": {"name": "faster_rcnn", "params": {"backbone": "resnet20"}}},
    "student": {"model": {"name": "faster_rcnn", "params": {"backbone": "resnet8"}}},
    "methods": [
        "ce",
        {"name": "dkd", "params": {"beta": 0.25}, "regions": "fixed"},
        {
            "name": "dkd",
            "label": "apart",
            "regions": {"background": "separate", "background_params": {"beta": 1.0}},
        },
        {"name": "pkd", "with": ["kd"], "regions": {"background": "weight", "background_weight": 0.5}},
    ],
    "seeds": [0, 1],
    "training": {"epochs": 3, "batch_size": 8, "clip_grad_norm": 10.0, "schedule": {"warmup_steps": 100}},
}


def spec_of(app: AppTest) -> dict[str, Any]:
    """Return the spec that the page shows as YAML."""
    spec: dict[str, Any] = yaml.safe_load(field(app, "new.yaml").value)
    return spec


def keys(app: AppTest) -> str:
    """Return the keys of all widgets, one a line."""
    every = [*app.number_input, *app.text_input, *app.selectbox, *app.toggle, *app.multiselect]
    return "\n".join(str(item.key) for item in every)


def imported(spec: dict[str, Any]) -> AppTest:
    app = visit("new")
    field(app, "new.yaml").set_value(yaml.safe_dump(spec)).run()
    assert not app.exception
    return app


@pytest.fixture
def form(backend: FakeBackend) -> AppTest:
    """The form after a data set of detection has been chosen in it."""
    app = visit("new")
    field(app, ".name").set_value("mine").run()
    field(app, "dataset.name").set_value("digit_scenes").run()
    assert not app.exception
    return app


def test_a_chosen_data_set_of_detection_has_its_fields_and_none_of_classification(form: AppTest) -> None:
    shown = keys(form)
    assert "methods.0.regions.boxes" in shown, "KD compares boxes"
    assert "methods.0.regions.fixed_count" not in shown
    for name in ("label_smoothing", "accumulate", "collapse_every", "features_every", "robustness", "strong_augment"):
        assert f"training.{name}" not in shown, name
    assert set(field(form, "student.model.name").options) == {
        *("Faster R-CNN", "SSD300 (VGG-16)", "SSDlite320 (MobileNetV3)", "SSD (small images)", "RetinaNet", "FCOS")
    }
    methods = next(item for item in form.selectbox if item.label == "Method 1")
    assert "Features · FGD" in methods.options
    assert not [option for option in methods.options if option.endswith(("· CRD", "· MLKD", "· DOT"))]
    assert "Mixup" not in str(field(form, "training.augment").options)
    spec = spec_of(form)
    assert spec["student"]["model"]["params"]["backbone"] == "resnet8", "of the example on this data set"
    assert (spec["training"]["batch_size"], spec["training"]["clip_grad_norm"]) == (8, 10.0)
    assert spec["training"]["schedule"]["warmup_steps"] == 100
    assert not form.error
    parse_experiment(spec)


def test_regions_are_chosen_and_only_what_has_an_effect_is_sent(form: AppTest) -> None:
    next(item for item in form.selectbox if item.label == "Method 1").set_value("dkd").run()
    assert "regions" not in spec_of(form)["methods"][0], "the default"
    assert "regions.fixed_count" not in keys(form)
    field(form, "methods.0.regions.boxes").set_value("fixed").run()
    field(form, "methods.0.regions.fixed_count").set_value(16).run()
    regions = spec_of(form)["methods"][0]["regions"]
    assert (regions["boxes"], regions["fixed_count"]) == ("fixed", 16)
    field(form, "methods.0.regions.boxes").set_value("teacher").run()
    assert spec_of(form)["methods"][0]["regions"] == "teacher"
    field(form, "methods.0.regions.background").set_value("weight").run()
    assert "background: weight needs the weight" in form.error[0].value
    field(form, "methods.0.regions.background_weight").set_value(0.25).run()
    assert not form.error
    assert spec_of(form)["methods"][0]["regions"] == {
        "boxes": "teacher",
        "background": "weight",
        "background_weight": 0.25,
    }
    next(item for item in form.selectbox if item.label == "Method 1").set_value("pkd").run()
    assert "regions" not in spec_of(form)["methods"][0]
    assert "regions.boxes" not in keys(form)
    assert not form.exception


def test_there_and_back_loses_nothing(backend: FakeBackend) -> None:
    spec = digits_spec(
        methods=["rkd", {"name": "dkd", "label": "mine", "params": {"beta": 2.0}}],
        training={"epochs": 9, "label_smoothing": 0.1, "augment": ["flip", "random_erasing"]},
    ).model_dump(mode="json")
    app = imported({key: value for key, value in spec.items() if value is not None})
    before = spec_of(app)
    field(app, "dataset.name").set_value("digit_scenes").run()
    scenes = spec_of(app)
    assert [item["name"] for item in scenes["methods"]] == ["dkd"]
    assert scenes["methods"][0]["label"] == "mine"
    assert scenes["training"]["epochs"] == 9
    assert "label_smoothing" not in scenes["training"]
    parse_experiment(scenes)
    field(app, "training.epochs").set_value(4).run()
    field(app, "dataset.name").set_value("digits").run()
    assert not app.exception
    after = spec_of(app)
    assert after["training"].pop("epochs") == 4
    assert before["training"].pop("epochs") == 9
    assert after == before


def test_a_spec_of_detection_is_imported_and_exported_as_it_was(backend: FakeBackend) -> None:
    app = imported(SCENES)
    assert not app.error
    assert field(app, "methods.1.regions.boxes").value == "fixed"
    assert field(app, "methods.2.regions.background").value == "separate"
    assert field(app, "methods.2.regions.background_params").value == "beta: 1.0"
    assert field(app, "methods.3.regions.background_weight").value == 0.5
    assert "methods.0.regions" not in keys(app), "cross-entropy compares no boxes"
    assert parse_experiment(spec_of(app)) == parse_experiment(SCENES)
    button(app, "Start 9 runs").click().run()
    ((_, submitted, _),) = backend.experiments.values()
    assert submitted == parse_experiment(SCENES)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"training": {"epochs": 3, "label_smoothing": 0.1}}, "training.label_smoothing", "set 0"),
        ({"methods": [{"name": "pkd", "regions": "fixed"}]}, "", "compares nothing of boxes"),
        ({"methods": ["crd"]}, "", "which detection does not have"),
        ({"student": {"model": "resnet8"}}, "student.model.name", "detection"),
    ],
)
def test_an_error_of_an_imported_spec_is_shown(
    backend: FakeBackend, changes: dict[str, Any], key: str, words: str
) -> None:
    app = imported(SCENES | changes)
    shown = texts(app)
    assert words in shown
    if key:
        assert field(app, key) is not None, "the error has a field"
    assert button(app, "Start").disabled


def test_defaults_for_detection_are_written_out_and_need_no_warning(form: AppTest) -> None:
    methods = next(item for item in form.selectbox if item.label == "Method 1")
    for name in ("dkd", "kd"):
        methods = next(item for item in form.selectbox if item.label == "Method 1")
        methods.set_value(name).run()
        [method] = spec_of(form)["methods"]
        assert method["params"]["temperature"] == 1.0
        assert not [problem for problem in warnings_of(parse_experiment(spec_of(form))) if "methods" in problem.path]
    assert method["params"]["ce_weight"] == 1.0
    next(item for item in form.selectbox if item.label == "Method 1").set_value("fitnet").run()
    [method] = spec_of(form)["methods"]
    assert method["shares"] == {"fitnet": 0.1}
    assert not [problem for problem in warnings_of(parse_experiment(spec_of(form))) if "methods" in problem.path]
