"""Methods in the form of a new experiment: the list to choose from, taps, weights and shares, combinations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import streamlit as st
import yaml
from streamlit.testing.v1 import AppTest

from core.catalog import METHODS, MODELS, describe
from dashboard.forms import method_fields, schema_fields, spec_draft
from tests.dashboard.conftest import button, field, texts, visit
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec
from tests.dashboard.many_methods import many_methods

PAIR = {
    "name": "pair",
    "dataset": "cifar100",
    "teacher": {"model": "resnet32x4"},
    "student": {"model": "resnet8x4"},
    "seeds": [0, 1],
    "training": {"epochs": 240},
}


def opened(backend: FakeBackend, *methods: Any) -> AppTest:
    """Return the form with these methods on a pair of CIFAR networks."""
    app = visit("new")
    field(app, "new.yaml").set_value(yaml.safe_dump({**PAIR, "methods": list(methods)})).run()
    assert not app.exception
    return app


def spec_of(app: AppTest) -> dict[str, Any]:
    """Return the spec that the page shows as YAML."""
    spec: dict[str, Any] = yaml.safe_load(field(app, "new.yaml").value)
    return spec


def method(app: AppTest, index: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = spec_of(app)["methods"][index]
    return result


@pytest.fixture
def maps(server: FakeServer) -> Iterator[FakeBackend]:
    """Use a catalog with methods that read maps of all stages, and of one."""
    with many_methods() as backend:
        server.backend = backend
        yield backend
    st.cache_data.clear()


class TestList:
    def test_methods_are_grouped_by_family_with_summary_source_and_cost(self, maps: FakeBackend) -> None:
        app = visit("new")
        button(app, "Add a method").click().run()
        headings = [item.value for item in app.subheader]
        assert headings[headings.index("Labels") :][:4] == ["Labels", "Logits", "Decoupled", "Features"]
        shown = texts(app)
        assert METHODS["dist"].summary in shown
        assert f"Somebody et al., 2020 · Cost: {METHODS['crd'].cost}" in shown

    def test_a_search_leaves_what_contains_every_word(self, maps: FakeBackend) -> None:
        app = visit("new")
        button(app, "Add a method").click().run()
        app.text_input(key="new.methods.search").set_value("features somebody").run()
        choices = {item.key for item in app.button if str(item.key).startswith("new.methods.")}
        assert choices == {f"new.methods.{name}" for name in ("fitnet", "at", "vid", "ofd", "reviewkd", "srrl", "norm")}
        app.text_input(key="new.methods.search").set_value("no such words").run()
        assert "No method contains these words." in texts(app)

    def test_a_chosen_method_is_added_with_its_defaults(self, backend: FakeBackend) -> None:
        app = visit("new")
        before = len(spec_of(app)["methods"])
        button(app, "Add a method").click().run()
        app.button(key="new.methods.dist").click().run()
        assert not app.exception
        assert len(spec_of(app)["methods"]) == before + 1
        assert method(app, before)["name"] == "dist"
        assert method(app, before)["params"]["beta"] == 2.0

    def test_many_methods_are_folded(self, maps: FakeBackend) -> None:
        app = visit("new", clone="exp-0001")
        assert not app.exception
        cards = [item.label for item in app.expander if item.label.startswith("Method ")]
        assert len(cards) == 30
        assert cards[-1] == "Method 30: kd, T = 8"


class TestTaps:
    def test_taps_are_chosen_from_those_of_the_network_or_typed(self, maps: FakeBackend) -> None:
        app = opened(maps, "kd", "at")
        student, teacher = (field(app, f"methods.1.params.{network}_taps") for network in ("student", "teacher"))
        known = MODELS["resnet8x4"].taps
        assert {"stages", "last_stage", "stages:preact", *known, "stage2:preact"} <= set(student.options)
        assert "features:preact" not in student.options, "features are no map"
        student.set_value(["stage2", "layers.stage1.0.conv1"]).run()
        assert method(app, 1)["params"]["student_taps"] == ["stage2", "layers.stage1.0.conv1"]
        assert method(app, 1)["params"]["teacher_taps"] == ["stages"]
        assert teacher.value == ["stages"]

    def test_taps_follow_the_chosen_network(self, maps: FakeBackend) -> None:
        app = opened(maps, "kd", "at")
        field(app, "student.model.name").set_value("vgg8").run()
        assert "stage5" in field(app, "methods.1.params.student_taps").options
        assert "stage5" not in field(app, "methods.1.params.teacher_taps").options

    def test_a_network_with_unknown_taps_has_the_wildcards(self, maps: FakeBackend) -> None:
        app = opened(maps, "kd", "at")
        field(app, "teacher.model.name").set_value("timm:vit_small_patch16_224").run()
        options = field(app, "methods.1.params.teacher_taps").options
        assert options == ["stages", "last_stage", "last_map", "stages:preact", "last_stage:preact"]

    def test_one_tap_is_one_choice(self, maps: FakeBackend) -> None:
        app = opened(maps, "kd", "fitnet")
        tap = field(app, "methods.1.params.teacher_tap")
        assert tap.value == "stage2:preact"
        assert "stages" not in tap.options, "they are several layers"
        tap.set_value("last_stage").run()
        assert method(app, 1)["params"]["teacher_tap"] == "last_stage"

    def test_an_unknown_tap_is_an_error_at_its_field(self, maps: FakeBackend) -> None:
        app = opened(maps, "kd", "at")
        field(app, "methods.1.params.student_taps").set_value(["stage9"]).run()
        assert "there is no tap 'stage9'" in app.error[0].value
        assert [item.value for item in app.markdown if item.value.startswith(":small[:red[")], "at the field"

    def test_lists_of_numbers_are_typed(self, maps: FakeBackend) -> None:
        app = opened(maps, "kd", "at")
        field(app, "methods.1.params.level_weights").set_value("1, 0.5").run()
        assert method(app, 1)["params"]["level_weights"] == [1.0, 0.5]
        field(app, "methods.1.params.level_weights").set_value("one").run()
        assert "'one' is not a number" in app.error[0].value

    def test_every_parameter_that_names_taps_offers_them(self) -> None:
        for entry in describe()["methods"]:
            fields = {item.path: item for item in schema_fields.schema_to_fields(entry["params"])}
            for name in ("student_tap", "teacher_tap", "student_taps", "teacher_taps"):
                if name in fields:
                    choice = fields[name].taps
                    assert choice, f"{entry['name']}: {name}"
                    assert choice.network == name.partition("_")[0]
                    assert fields[name].kind == ("taps" if name.endswith("s") else "tap")


class TestShares:
    def test_a_share_replaces_the_weight_of_a_term(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd", "dkd")
        assert field(app, "methods.1.params.beta").value == 8.0
        field(app, "methods.1.share.nckd").set_value(True).run()
        assert not app.error
        assert not [item for item in app.number_input if str(item.key).endswith("methods.1.params.beta")]
        field(app, "methods.1.shares.nckd").set_value(0.3).run()
        assert method(app, 1)["shares"] == {"nckd": 0.3}
        assert "beta" not in method(app, 1)["params"], "which would be a second weight"
        field(app, "methods.1.share.nckd").set_value(False).run()
        assert "shares" not in method(app, 1)
        assert method(app, 1)["params"]["beta"] == 8.0

    def test_shares_of_a_spec_are_shown(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd", {"name": "dkd", "shares": {"tckd": 0.2}})
        assert field(app, "methods.1.share.tckd").value is True
        assert field(app, "methods.1.shares.tckd").value == 0.2
        assert field(app, "methods.1.share.nckd").value is False

    def test_shares_that_leave_nothing_are_an_error_at_the_method(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd", {"name": "dkd", "shares": {"tckd": 0.6}})
        field(app, "methods.1.share.nckd").set_value(True).run()
        field(app, "methods.1.shares.nckd").set_value(0.5).run()
        assert "the shares add up to 1.1" in app.error[0].value
        field(app, "methods.1.shares.nckd").set_value(1.5).run()
        assert "Method 2 (dkd): Share of nckd" in app.error[0].value

    def test_a_share_that_a_parameter_gives_is_that_parameter(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd", {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}})
        assert field(app, "methods.1.params.epsilon").value == 6.0
        field(app, "methods.1.share.align").set_value(True).run()
        assert not app.error
        params = method(app, 1)["params"]
        assert (params.get("epsilon"), params["epsilon_share"]) == (None, 0.1)

    def test_a_term_that_is_off_by_default_has_no_share(self) -> None:
        for entry in describe()["methods"]:
            for term in method_fields.terms_of(entry, schema_fields.schema_to_fields(entry["params"])):
                if term.weight and term.weight.default == 0:
                    assert not term.may_have_share, f"{entry['name']}: {term.name}"

    def test_every_weight_of_the_catalog_is_a_field_of_one_term(self) -> None:
        for entry in describe()["methods"]:
            fields = schema_fields.schema_to_fields(entry["params"])
            terms = method_fields.terms_of(entry, fields)
            drawn = [term.weight.path for term in terms if term.weight]
            assert sorted(drawn) == sorted(set(entry["weight_params"].values())), entry["name"]
            assert [term.name for term in terms] == entry["terms"]

    def test_labels_of_weights_name_their_terms(self) -> None:
        def labels(name: str) -> list[str]:
            entry = METHODS[name].describe()
            terms = method_fields.terms_of(entry, schema_fields.schema_to_fields(entry["params"]))
            return [term.weight_label for term in terms]

        assert labels("dkd") == ["CE weight", "TCKD: Alpha", "NCKD: Beta"]
        assert labels("kd") == ["CE weight", "KD weight"]


class TestCombinations:
    def test_a_method_is_combined_with_others(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd", "dist")
        field(app, "methods.1.with").set_value(["dkd"]).run()
        assert not app.error
        assert field(app, "methods.1.with.0.params.alpha").value == 1.0
        assert not [item for item in app.number_input if str(item.key).endswith("with.0.params.ce_weight")]
        field(app, "methods.1.with.0.params.alpha").set_value(0.5).run()
        field(app, "methods.1.with.0.share.nckd").set_value(True).run()
        added = method(app, 1)["with"]
        assert [item["name"] for item in added] == ["dkd"]
        assert added[0]["params"]["alpha"] == 0.5
        assert added[0]["shares"] == {"nckd": 0.1}
        assert not {"ce_weight", "beta"} & set(added[0]["params"])
        button(app, "Start 5 runs").click().run()
        assert backend.experiment("exp-0001").methods == ["kd", "DIST + DKD"]

    def test_methods_without_own_terms_are_not_offered(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd")
        options = field(app, "methods.0.with").options
        assert "CE" not in options
        assert "KD" not in options, "the method itself"
        assert "DKD" in options

    def test_the_error_of_an_added_method_names_it(self, backend: FakeBackend) -> None:
        app = opened(backend, "kd", {"name": "dist", "with": ["dkd"]})
        field(app, "methods.1.with.0.params.temperature").set_value(0.0).run()
        assert "Method 2 (dist + dkd): Temperature" in app.error[0].value
        assert [item.value for item in app.markdown if item.value.startswith(":small[:red[")], "at the field"

    def test_in_a_combination_the_share_of_a_term_is_of_all_terms(self, backend: FakeBackend) -> None:
        align = {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}}
        app = opened(backend, "kd", {**align, "with": ["dist"]})
        field(app, "methods.1.share.align").set_value(True).run()
        assert not app.error
        assert method(app, 1)["shares"] == {"align": 0.1}

    def test_a_catalog_without_combinations_has_no_field(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = server.backend.answer

        def older(verb: str, target: str, body: Any, headers: Any) -> tuple[int, Any]:
            status, reply = answer(verb, target, body, headers)
            if "catalog" in target:
                del reply["experiment_schema"]["$defs"]["MethodRef"]["properties"]["with"]
            return status, reply

        monkeypatch.setattr(server.backend, "answer", older)
        app = visit("new")
        assert not app.exception
        assert not [item for item in app.multiselect if item.label == "Together with"]


def test_a_draft_keeps_shares_and_combinations() -> None:
    methods = [
        {"name": "dkd", "label": "by share", "shares": {"nckd": 0.3}},
        {"name": "dist", "with": ["kd", {"name": "dkd", "params": {"beta": 2.0}, "shares": {"tckd": 0.1}}]},
    ]
    spec = digits_spec(methods=methods)
    written = {**spec.model_dump(mode="json"), "methods": methods}
    assert digits_spec(methods=spec_draft.to_spec(spec_draft.to_draft(written))["methods"]) == spec


def test_parameters_of_another_model_have_fields_once_it_is_chosen(backend: FakeBackend) -> None:
    app = opened(backend, "kd", "dml")
    field(app, "methods.1.params.peer").set_value("small_cnn").run()
    field(app, "methods.1.params.peer_params.width").set_value(8).run()
    assert not app.exception
    assert method(app, 1)["params"]["peer_params"] == {"width": 8}
