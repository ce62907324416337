"""The New experiment page against a real backend, without a browser."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from core.catalog import describe
from core.specs import Weights, parse_experiment, read_experiment
from tests.dashboard.conftest import SCRIPT, button, field, texts, visit
from tests.dashboard.fakes import digits_spec
from tests.dashboard.form import backend, form, made, running
from tests.dashboard.recorded import run_of
from tests.dashboard.stand import Stand

__all__ = ["backend", "form", "running"]

EXAMPLE = SCRIPT.parents[1] / "examples" / "digits.yaml"


def duplicate_last(app: AppTest) -> None:
    """Press the button of the last method that adds it once more."""
    [item for item in app.button if item.label == "Duplicate"][-1].click().run()


class TestNewExperiment:
    def test_form_lists_the_methods_of_the_task(self, backend: Stand) -> None:
        app = visit("new")
        assert not app.exception
        methods = next(item for item in app.selectbox if item.label == "Method 1")
        assert sorted(option.partition(" · ")[2] for option in methods.options) == sorted(
            entry["title"] for entry in describe()["methods"] if entry["tasks"] in ([], ["classification"])
        )
        families = [option.partition(" · ")[0] for option in methods.options]
        assert list(dict.fromkeys(families))[:3] == ["Labels", "Logits", "Decoupled"], "family by family"
        assert families == sorted(families, key=list(dict.fromkeys(families)).index)
        assert "Decoupled · DKD-Align" in methods.options
        assert "name" in texts(app).lower()

    def test_example_with_a_taken_name_gets_a_free_one(self, form: AppTest, backend: Stand) -> None:
        button(form, "Start 10 runs").click().run()
        again = visit("new")
        button(again, "Digits demo").click().run()
        assert [item.value for item in again.text_input if item.label == "Name"] == ["digits-dkd-vs-dkd-align-2"]
        assert not again.error

    def test_demo_is_previewed_and_submitted(self, form: AppTest, backend: Stand) -> None:
        assert "**This experiment has 10 runs.**" in texts(form)
        assert "seeds: [0, 1, 2]" in texts(form)
        button(form, "Start 10 runs").click().run()
        assert made(backend) == {"digits-dkd-vs-dkd-align": read_experiment(EXAMPLE)}
        assert "is queued: 10 runs" in texts(form)
        assert not form.exception

    def test_repeated_start_creates_one_experiment(self, form: AppTest, backend: Stand) -> None:
        start = button(form, "Start 10 runs")
        start.click().run()
        start.click().run()
        assert len(made(backend)) == 1

    def test_invalid_value_is_shown_at_its_field_and_in_the_summary(self, form: AppTest) -> None:
        field(form, "methods.1.params.alpha").set_value(-1.0).run()
        errors = [item.value for item in form.markdown if "greater than or equal to 0" in item.value]
        assert len(errors) == 1, "at the field"
        assert errors[0].startswith(":small[:red[")
        assert "Method 2 (dkd\\_align): Alpha" in form.error[0].value
        assert button(form, "Start").disabled

    def test_method_is_combined_with_another_and_its_error_is_at_its_field(self, form: AppTest, backend: Stand) -> None:
        together = next(item for item in form.multiselect if item.label == "Together with")
        assert "CE" not in together.options
        together.set_value(["dist"]).run()
        assert not form.exception
        assert not any("with.0.params.ce_weight" in str(item.key) for item in form.number_input)
        field(form, "methods.0.with.0.params.beta").set_value(3.0).run()
        button(form, "Start 10 runs").click().run()
        (spec,) = made(backend).values()
        assert [(item.name, item.params["beta"]) for item in spec.methods[0].added] == [("dist", 3.0)]
        assert spec.methods[0].label == "DKD + DIST"
        field(form, "methods.0.with.0.params.beta").set_value(-1.0).run()
        assert "Method 1 (dkd + dist): Beta" in form.error[0].value

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("methods.0.params.temperature", 0.0, "greater than 0"),
            (".training.epochs", 0, "greater than or equal to 1"),
            (".seeds", "0-x", "neither a whole number"),
            (".seeds", "1, 1", "seed 1 is given twice"),
        ],
    )
    def test_invalid_input_disables_start(self, form: AppTest, key: str, value: Any, words: str) -> None:
        field(form, key).set_value(value).run()
        assert words in form.error[0].value
        assert button(form, "Start").disabled
        assert not form.exception

    def test_parameters_of_the_chosen_optimizer_and_augmentations_are_drawn(self, backend: Stand) -> None:
        form = visit("new")
        assert field(form, "training.optimizer.momentum").value == 0.9
        field(form, "training.optimizer.name").set_value("adam").run()
        field(form, "training.optimizer.params.beta1").set_value(0.8).run()
        field(form, "training.augment").set_value(["flip", "mixup"]).run()
        training = yaml.safe_load(field(form, "new.yaml").value)["training"]
        assert training["optimizer"]["params"] == {"beta1": 0.8}
        assert "momentum" not in training["optimizer"]
        assert training["augment"] == ["flip", {"name": "mixup", "params": {"alpha": 0.2}}]
        assert "accumulate" not in training
        assert not form.error
        field(form, "training.accumulate").set_value(7).run()
        assert "do not divide" in form.error[0].value
        assert not form.exception

    def test_form_without_a_name_previews_its_runs_and_requires_a_name(self, backend: Stand) -> None:
        app = visit("new")
        assert "**This experiment has 4 runs.**" in texts(app)
        assert "name" in app.info[0].value
        assert not app.error
        assert button(app, "Start 4 runs").disabled

    def test_taken_name_is_shown_at_the_name_field(self, form: AppTest, backend: Stand) -> None:
        backend.client.submit(digits_spec())
        button(form, "Start 10 runs").click().run()
        assert "exists already" in form.error[0].value
        assert len(made(backend)) == 1
        field(form, ".name").set_value("another").run()
        assert not form.error
        button(form, "Start 10 runs").click().run()
        assert len(made(backend)) == 2

    def test_edited_yaml_updates_the_form(self, form: AppTest) -> None:
        field(form, "new.yaml").set_value("{name: short, preset: quick, seeds: 0..3}").run()
        assert field(form, ".name").value == "short"
        assert field(form, ".seeds").value == "0-3"
        assert field(form, ".training.epochs").value == 10
        assert "epsilon_share: 0.1" in field(form, "new.yaml").value, "the preset is filled in"
        assert button(form, "Start 9 runs")
        field(form, ".seeds").set_value("5").run()
        assert "seeds: [5]" in field(form, "new.yaml").value
        assert "preset: quick" in field(form, "new.yaml").value

    def test_start_with_the_former_yaml_of_a_slow_browser_submits_the_input(
        self, form: AppTest, backend: Stand
    ) -> None:
        former = field(form, "new.yaml").value
        field(form, ".name").set_value("renamed").run()
        assert "name: renamed" in field(form, "new.yaml").value
        # The browser sends the click before it has received the new YAML.
        field(form, "new.yaml").set_value(former)
        button(form, "Start 10 runs").click().run()
        assert not form.exception
        assert [*made(backend)] == ["renamed"]

    def test_input_with_the_former_yaml_of_a_slow_browser_keeps_earlier_input(self, form: AppTest) -> None:
        former = field(form, "new.yaml").value
        field(form, ".name").set_value("renamed").run()
        for seeds, shown in (("0, 1", "seeds: [0, 1]"), ("5", "seeds: [5]")):
            field(form, "new.yaml").set_value(former)
            field(form, ".seeds").set_value(seeds).run()
            assert field(form, ".name").value == "renamed"
            assert shown in field(form, "new.yaml").value
        assert not form.exception

    def test_yaml_can_be_edited_back_to_a_former_text(self, form: AppTest) -> None:
        former = field(form, "new.yaml").value
        field(form, ".name").set_value("renamed").run()
        form.run()  # the browser has received the new YAML
        field(form, "new.yaml").set_value(former).run()
        assert field(form, ".name").value == "digits-dkd-vs-dkd-align"

    def test_selected_example_is_loaded_once(self, backend: Stand) -> None:
        app = visit("new")
        examples = field(app, ".example")
        examples.set_value("digits-dkd-vs-dkd-align").run()
        assert not app.exception
        # A browser that still sends the selection refers to the former list.
        assert field(app, ".example").key != examples.key
        assert field(app, ".example").value is None

    @pytest.mark.parametrize("name", ["cifar100-born-again", "cifar100-several-teachers", "cifar100-teacher-assistant"])
    def test_teachers_of_teachers_and_several_teachers_have_fields(self, backend: Stand, name: str) -> None:
        app = visit("new")
        field(app, ".example").set_value(name).run()
        assert not app.exception
        path = EXAMPLE.with_name(f"{name}.yaml")
        assert parse_experiment(yaml.safe_load(field(app, "new.yaml").value)) == read_experiment(path)

    def test_invalid_value_in_yaml_is_shown_at_its_field(self, form: AppTest) -> None:
        text = field(form, "new.yaml").value
        field(form, "new.yaml").set_value(text.replace("epochs: 40", "epochs: 0")).run()
        students = [item for item in form.number_input if item.label == "Epochs" and "teacher" not in str(item.key)]
        assert [item.value for item in students] == [0]
        assert "Training: Epochs" in form.error[0].value

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name: [", "not YAML at line 1"),
            ("just words", "a mapping of fields"),
            ("{name: x, dataset: digit, student: {model: small_cnn}, methods: [ce], training: {epochs: 1}}", "digits"),
            ("{name: x, preset: quick, training: {epochs: many}}", "integer"),
        ],
    )
    def test_yaml_that_the_form_cannot_show_is_kept_with_an_error(
        self, form: AppTest, backend: Stand, text: str, words: str
    ) -> None:
        before = field(form, "new.yaml").value
        field(form, "new.yaml").set_value(text).run()
        assert not form.exception
        assert words in form.error[0].value
        assert field(form, "new.yaml").value == text
        assert button(form, "Start 10 runs").disabled, "it would start what the field does not say"
        button(form, "Discard changes").click().run()
        assert field(form, "new.yaml").value == before
        assert not form.error

    def test_rows_of_the_paper_are_examples(self, backend: Stand) -> None:
        app = visit("new")
        chosen = "decoupled-gradient-kd-2025-02-cifar100-vit-s-resnet18"
        field(app, ".example").set_value(chosen).run()
        assert not app.exception
        assert field(app, ".name").value == chosen
        assert field(app, "teacher.model.name").value == "timm:vit_small_patch16_224", "which the catalog does not list"
        assert "Row 2 of the table of Decoupled Gradient Knowledge Distillation" in texts(app)
        button(app, "Start 4 runs").click().run()
        example = EXAMPLE.parent / "decoupled-gradient-kd-2025" / "02-cifar100-vit-s-resnet18.yaml"
        assert made(backend)[chosen] == read_experiment(example)

    def test_link_clones_an_experiment(self, backend: Stand) -> None:
        original = backend.client.submit(digits_spec(tags=["first"], priority=3))
        app = visit("new", clone=original.id)
        assert field(app, ".name").value == "digits-dkd-vs-dkd-align-2"
        field(app, ".seeds").set_value("7").run()
        assert field(app, ".seeds").value == "7", "the link is followed once"
        button(app, "Start 3 runs").click().run()
        copy = made(backend)["digits-dkd-vs-dkd-align-2"]
        assert (copy.tags, copy.priority, copy.seeds) == (("first",), 3, (7,))

    def test_copy_keeps_its_teacher_until_another_is_chosen(self, backend: Stand) -> None:
        original = backend.client.submit(digits_spec())
        teacher = run_of(original, "teacher")
        app = visit("new", clone=original.id)
        assert f"The teacher is run {teacher} (resnet20 on digits, seed 0, 30 epochs; queued)" in texts(app)
        assert not [item for item in app.number_input if "teacher.training" in str(item.key)]
        field(app, ".training.epochs").set_value(5).run()
        duplicate_last(app)
        field(app, "methods.3.label").set_value("again").run()
        button(app, "Start 12 runs").click().run()
        copy = backend.client.experiment("digits-dkd-vs-dkd-align-2")
        assert run_of(copy, "teacher") == teacher
        assert copy.spec["training"]["epochs"] == 5

        app = visit("new", clone=original.id)
        next(item for item in app.button_group if "teacher.keep" in str(item.key)).set_value("Train a new one").run()
        epochs = field(app, "teacher.training.epochs")
        assert epochs.value == 30, "begun with what the kept one was trained with"
        epochs.set_value(7).run()
        duplicate_last(app)
        field(app, "methods.3.label").set_value("again").run()
        button(app, "Start 13 runs").click().run()
        other = made(backend)["digits-dkd-vs-dkd-align-3"].teacher
        assert other is not None
        assert other.training is not None
        assert other.training.epochs == 7

    def test_the_label_of_a_copys_method_follows_its_reduction(self, backend: Stand) -> None:
        original = backend.client.submit(digits_spec())
        app = visit("new", clone=original.id)
        assert field(app, "methods.1.label").value == ""
        assert "label" not in field(app, "new.yaml").value
        field(app, "methods.1.params.reduction").set_value("batch").run()
        button(app, "Start 9 runs").click().run()
        copy = backend.client.experiment("digits-dkd-vs-dkd-align-2")
        assert copy.methods == ["dkd", "dkd_align (batch)", "dkd_align (log)"]

    def test_pasted_yaml_sets_no_label_that_it_does_not_contain(self, form: AppTest, backend: Stand) -> None:
        text = yaml.safe_dump(digits_spec(name="pasted").model_dump(mode="json"))
        field(form, "new.yaml").set_value(text).run()
        assert field(form, "methods.2.label").value == ""

    def test_clone_link_of_a_deleted_experiment_shows_an_empty_form(self, backend: Stand) -> None:
        app = visit("new", clone="gone")
        assert "no experiment 'gone' to clone" in texts(app)
        assert button(app, "Start 4 runs").disabled

    def test_a_link_to_uploaded_weights_sets_the_teacher(self, backend: Stand) -> None:
        app = visit("new", teacher="resnet110")
        assert "source: upload:resnet110" in field(app, "new.yaml").value

    def test_preview_without_a_time_estimate_shows_that(self, form: AppTest) -> None:
        assert "No time estimate" in texts(form)

    def test_warnings_do_not_disable_start(self, form: AppTest) -> None:
        field(form, ".seeds").set_value("0").run()
        assert "no usable interval" in form.warning[0].value
        assert not button(form, "Start 4 runs").disabled

    def test_a_duplicate_has_the_values_and_a_free_label(self, form: AppTest) -> None:
        duplicate_last(form)
        duplicate_last(form)
        assert not form.error
        assert [field(form, f"methods.{index}.label").value for index in (3, 4)] == ["dkd_align 2", "dkd_align 3"]
        assert field(form, "methods.4.params.epsilon_share").value == 0.1
        assert "**This experiment has 16 runs.**" in texts(form)

    def test_every_method_of_the_list_can_be_added_twice(self, form: AppTest) -> None:
        for name in ("dkd", "dkd", "dkd_align"):
            button(form, "Add a method").click().run()
            form.button(key=f"new.methods.{name}").click().run()
        assert not form.error
        assert [field(form, f"methods.{index}.label").value for index in (3, 4, 5)] == ["dkd 2", "dkd 3", "dkd_align 2"]

    def test_dkd_align_begins_without_an_error(self, backend: Stand) -> None:
        form = visit("new")
        field(form, "methods.0.name").set_value("dkd_align").run()
        assert not form.error
        spec = yaml.safe_load(field(form, "new.yaml").value)
        assert spec["methods"][0]["params"]["epsilon_share"] == 0.1
        form = visit("new")
        button(form, "Add a method").click().run()
        form.button(key="new.methods.dkd_align").click().run()
        assert not form.error
        field(form, "methods.1.share.align").set_value(False).run()
        assert "give exactly one of" in form.error[0].value, "what a person chooses is not corrected"

    def test_methods_are_reordered_because_the_first_is_the_baseline(self, form: AppTest) -> None:
        def labels() -> list[str]:
            methods = yaml.safe_load(field(form, "new.yaml").value)["methods"]
            return [f"{item['name']} {item['params'].get('reduction', '')}".strip() for item in methods]

        field(form, "methods.1.params.alpha").set_value(0.5).run()
        assert labels() == ["dkd", "dkd_align sample", "dkd_align log"]
        ups = [item for item in form.button if item.label == "Up"]
        assert [item.disabled for item in ups] == [True, False, False]
        ups[1].click().run()
        assert labels() == ["dkd_align sample", "dkd", "dkd_align log"]
        assert field(form, "methods.0.params.alpha").value == 0.5, "with what was entered"
        [item for item in form.button if item.label == "Down"][1].click().run()
        assert labels() == ["dkd_align sample", "dkd_align log", "dkd"]
        assert not form.error

    def test_preview_says_what_the_seeds_can_show(self, form: AppTest) -> None:
        shown = "3 seeds: the smallest possible p of a comparison is 0.25, 0.5 after Holm over 2 comparisons."
        assert shown in texts(form)
        assert "No difference can be significant (p \\< 0.05) with fewer than 7 seeds." in texts(form)
        field(form, ".seeds").set_value("0-7").run()
        assert "8 seeds: the smallest possible p of a comparison is 0.0078" in texts(form)
        assert "No difference can be significant" not in texts(form)

    def test_a_changed_draft_that_a_template_replaced_comes_back(self, form: AppTest) -> None:
        assert not [item for item in form.button if item.label == "Bring it back"]
        field(form, ".seeds").set_value("4").run()
        button(form, "Empty form").click().run()
        button(form, "Keep my draft").click().run()
        assert field(form, ".seeds").value == "4"
        assert not [item for item in form.button if item.label == "Bring it back"]
        button(form, "Empty form").click().run()
        button(form, "Replace").click().run()
        assert field(form, ".seeds").value == "0-2"
        button(form, "Bring it back").click().run()
        assert not form.exception
        assert field(form, ".seeds").value == "4"
        assert field(form, ".name").value == "digits-dkd-vs-dkd-align"
        assert not [item for item in form.button if item.label == "Bring it back"]

    @pytest.mark.parametrize("text", ["name: [", "name: mine\nmethods: [unknown_method]\n"])
    def test_yaml_that_the_form_cannot_show_comes_back(self, form: AppTest, text: str) -> None:
        form.text_area(key="new.yaml").set_value(text).run()
        (error,) = (item.value for item in form.error)
        button(form, "Empty form").click().run()
        button(form, "Replace").click().run()
        assert not form.error
        assert form.text_area(key="new.yaml").value != text
        button(form, "Bring it back").click().run()
        assert form.text_area(key="new.yaml").value == text
        assert [item.value for item in form.error] == [error]

    def test_an_unchanged_template_is_replaced_without_a_word(self, form: AppTest) -> None:
        button(form, "Empty form").click().run()
        assert not [item for item in form.button if item.label == "Replace"]
        assert field(form, ".name").value == ""
        assert not [item for item in form.button if item.label == "Bring it back"]

    def test_a_method_is_removed(self, form: AppTest) -> None:
        field(form, "methods.1.params.alpha").set_value(0.5).run()
        next(item for item in form.button if item.key and item.key.endswith("methods.0.x")).click().run()
        assert "**This experiment has 7 runs.**" in texts(form)
        assert field(form, "methods.0.params.alpha").value == 0.5, "the others keep what was entered"

    def test_choosing_another_method_shows_its_parameters(self, form: AppTest) -> None:
        field(form, "methods.0.name").set_value("kd").run()
        assert field(form, "methods.0.params.kd_weight").value == 0.9
        assert not form.exception
        assert "**This experiment has 10 runs.**" in texts(form)

    def test_teachers_are_added_and_removed(self, form: AppTest) -> None:
        def spec() -> dict[str, Any]:
            text: dict[str, Any] = yaml.safe_load(field(form, "new.yaml").value)
            return text

        button(form, "Add a teacher").click().run()
        teachers = [(teacher["model"]["name"], teacher.get("seed", 0)) for teacher in spec()["teachers"]]
        assert teachers == [("resnet20", 0), ("resnet20", 1)]
        assert not form.error
        field(form, "teachers.1.model.name").set_value("resnet14").run()
        field(form, "ensemble.by").set_value("confidence").run()
        assert not form.error
        assert spec()["teachers"][1]["model"]["name"] == "resnet14"
        assert spec()["ensemble"] == "confidence"
        next(item for item in form.button if str(item.key).endswith("teachers.0.x")).click().run()
        assert not form.exception
        assert spec()["teacher"]["model"]["name"] == "resnet14"
        assert not {"teachers", "ensemble"} & spec().keys()

    def test_teacher_gets_a_method_and_a_teacher_of_its_own(self, form: AppTest) -> None:
        field(form, "teacher.distilled").set_value(True).run()
        assert not form.exception
        field(form, "teacher.teacher.model.name").set_value("resnet56").run()
        teacher = yaml.safe_load(field(form, "new.yaml").value)["teacher"]
        assert (teacher["method"]["name"], teacher["teacher"]["model"]["name"]) == ("kd", "resnet56")
        field(form, "teacher.method.name").set_value("ce").run()
        teacher = yaml.safe_load(field(form, "new.yaml").value)["teacher"]
        assert (teacher["method"]["name"], "teacher" in teacher) == ("ce", False)
        field(form, "teacher.distilled").set_value(False).run()
        assert "method" not in yaml.safe_load(field(form, "new.yaml").value)["teacher"]
        assert not form.error

    def test_problem_of_a_teacher_is_shown_at_its_field(self, form: AppTest) -> None:
        button(form, "Add a teacher").click().run()
        field(form, "ensemble.by").set_value("weighted").run()
        assert "weights belong to by: weighted" in form.error[0].value
        field(form, "ensemble.weights").set_value("1, 2").run()
        assert not form.error

    def test_without_a_teacher_only_ce_can_run(self, form: AppTest) -> None:
        field(form, ".teacher").set_value(False).run()
        assert "needs a teacher" in form.error[0].value

    def test_teacher_weights_can_be_named_and_their_error_is_at_the_field(self, form: AppTest, backend: Stand) -> None:
        field(form, ".teacher.elsewhere").set_value(True).run()
        assert "resnet20 has no published weights" in form.error[0].value
        assert "Teacher: Weights" in form.error[0].value
        field(form, "teacher.weights.source").set_value("resnet20.safetensors").run()
        assert not form.error
        field(form, "teacher.weights.sha256").set_value("not a checksum").run()
        assert "Teacher: Weights: SHA-256" in form.error[0].value
        assert [item.value for item in form.markdown if item.value.startswith(":small[:red[")], "at the field"
        field(form, "teacher.weights.sha256").set_value("").run()
        field(form, "teacher.weights.fine_tune").set_value(True).run()
        next(item for item in form.button if item.label.startswith("Start ")).click().run()
        (spec,) = made(backend).values()
        assert spec.teacher
        assert spec.teacher.weights == Weights(source="resnet20.safetensors", fine_tune=True)
        assert not form.exception

    def test_preview_is_requested_only_after_a_change(self, form: AppTest, backend: Stand) -> None:
        previews = backend.requests.count("POST /api/v1/experiments/preview")
        form.run()
        assert backend.requests.count("POST /api/v1/experiments/preview") == previews
