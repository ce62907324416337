"""Specs: every problem named at once with its path, defaults filled in once, one fingerprint for one training."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.catalog import METHODS
from core.specs import (
    MethodRef,
    RunSpec,
    SpecError,
    dump_text,
    load_file,
    load_text,
    parse_experiment,
    parse_text,
    read_experiment,
    to_yaml,
    warnings_of,
)
from core.specs.loading import MAX_BYTES
from core.specs.warnings import other_defaults

EXAMPLES = Path(__file__).parents[2] / "examples"


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "name": "pair",
        "dataset": "digits",
        "teacher": {"model": "resnet20"},
        "student": {"model": "resnet8"},
        "methods": ["dkd", {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}}],
        "seeds": [0, 1, 2],
        "training": {"epochs": 30},
    } | changes


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_experiment(spec(**changes))
    return {problem.path: problem.message for problem in caught.value.problems}


ALIGN: dict[str, Any] = {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}}


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"methods": ["dkd_aling"]}, "methods.0.name", "dkd_align"),
        ({"student": {"model": "resnet21"}}, "student.model.name", "resnet20"),
        ({"dataset": "digit"}, "dataset.name", "digits"),
        (
            {"methods": [{"name": "dkd", "params": {"alpha": -1}}]},
            "methods.0.params.alpha",
            "greater than or equal to 0",
        ),
        (
            {"methods": [{"name": "dkd", "params": {"temperature": 0}}]},
            "methods.0.params.temperature",
            "greater than 0",
        ),
        ({"methods": [{"name": "dkd", "params": {"beta": "much"}}]}, "methods.0.params.beta", "number"),
        ({"methods": [{"name": "dkd", "params": {"gamma": 1}}]}, "methods.0.params.gamma", "unknown field"),
        ({"methods": [{"name": "dkd_align", "params": {"epsilon": 6}}]}, "methods.0.params.reduction", "missing"),
        ({"methods": [{"name": "dkd_align", "params": {"reduction": "log"}}]}, "methods.0.params", "exactly one"),
        ({"methods": []}, "methods", "at least 1"),
        ({"methods": ["dkd", "dkd"]}, "methods.1.label", "two methods"),
        ({"name": ".."}, "name", "means a folder"),
        ({"name": "a/./b"}, "name", "means a folder"),
        ({"name": "a\x1b[31mred"}, "name", "not shown, U+001B"),
        ({"name": "a\u202eb"}, "name", "not shown, U+202E"),
        ({"notes": "two\nlines\x1b"}, "notes", "not shown, U+001B"),
        ({"tags": ["a", "b\u200b"]}, "tags.1", "not shown, U+200B"),
        ({"methods": [{"name": "dkd", "label": "a\nb"}]}, "methods.0.label", "not shown, U+000A"),
        ({"methods": [{"name": "dkd", "label": "teacher"}]}, "methods.0.label", "label of the teacher's run"),
        ({"training": {"epochs": 0}}, "training.epochs", "greater than or equal to 1"),
        ({"training": {"epochs": "many"}}, "training.epochs", "integer"),
        ({"training": {"epochs": 1, "schedule": {"name": "step"}}}, "training.schedule.milestones", "at least one"),
        ({"seeds": [1, 1]}, "seeds", "twice"),
        ({"seeds": [-1]}, "seeds.0", "greater than or equal to 0"),
        ({"teacher": None}, "methods.0", "needs a teacher"),
        ({"dataset": {"name": "synthetic", "params": {"num_classes": 2}}}, "methods.0", "at least 3 classes"),
        ({"dataset": {"name": "synthetic", "params": {"image_size": 4}}}, "student.model", "at least 8 px"),
        ({"name": ""}, "name", "at least 1 character"),
        ({"epoch": 3}, "epoch", "unknown field"),
    ],
)
def test_bad_input_is_named_by_its_path(changes: dict[str, Any], path: str, says: str) -> None:
    messages = problems(**changes)
    assert path in messages
    assert says in messages[path]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"training": {"epochs": True}}, "training.epochs"),
        ({"seeds": [True]}, "seeds"),
        ({"methods": [{"name": "dkd", "params": {"alpha": False}}]}, "methods.0.params.alpha"),
    ],
)
def test_booleans_are_not_accepted_as_numbers(changes: dict[str, Any], path: str) -> None:
    messages = problems(**changes)
    assert list(messages) == [path]
    assert messages[path].startswith("takes neither true nor false")


def test_duplicate_field_is_refused() -> None:
    with pytest.raises(SpecError, match=r"line 3, column 1: 'methods' is given twice"):
        parse_text("name: a\nmethods: [dkd]\nmethods: [ce]\n")


def test_all_problems_are_named_at_once() -> None:
    messages = problems(
        methods=["dkd_aling", {"name": "dkd", "params": {"alpha": -1}}], training={"epochs": 0}, name=""
    )
    assert set(messages) == {"methods.0.name", "methods.1.params.alpha", "training.epochs", "name"}


@pytest.mark.parametrize("text", ["a: [", "\x00", "- a", "", "just text", "{"])
def test_text_that_is_not_a_yaml_mapping_is_one_problem(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_text(text)
    (problem,) = caught.value.problems
    assert "\n" not in str(problem)


def test_unreadable_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(SpecError, match=r"cannot read|not YAML"):
            read_experiment(path)


def test_defaults_are_filled_in_and_kept_in_a_round_trip() -> None:
    parsed = parse_experiment(spec())
    assert parsed.methods[0].params["beta"] == 8.0
    assert [method.label for method in parsed.methods] == ["dkd", "dkd_align (log)"]
    assert parse_text(to_yaml(parsed)) == parsed


def test_plan_has_the_teacher_first_and_runs_of_a_seed_together() -> None:
    plan = parse_experiment(spec(methods=["dkd", ALIGN, "ce"], seeds=[5, 7])).plan()
    assert [(run.label, run.spec.seed) for run in plan] == [
        ("teacher", 0),
        ("dkd", 5),
        ("dkd_align (log)", 5),
        ("ce", 5),
        ("dkd", 7),
        ("dkd_align (log)", 7),
        ("ce", 7),
    ]
    teacher = plan[0].spec.fingerprint()
    assert [run.spec.teacher for run in plan[1:4]] == [teacher, teacher, None]
    assert {run.spec.data_seed for run in plan if run.spec.seed == 7} == {7}


def test_spec_without_a_distilling_method_plans_no_teacher() -> None:
    assert [run.label for run in parse_experiment(spec(methods=["ce"], seeds=[0])).plan()] == ["ce"]


def test_yaml_on_and_off_are_texts_in_a_switch() -> None:
    training = load_text("{epochs: 3, speed: {compile: off, cuda_graphs: on, reuse_teacher: off}}")
    chosen = parse_experiment(spec(training=training)).training.speed
    assert (chosen.compile, chosen.cuda_graphs, chosen.reuse_teacher) == ("off", "on", False)


class TestFingerprint:
    def of(self, **changes: Any) -> list[str]:
        return [planned.spec.fingerprint() for planned in parse_experiment(spec(**changes)).plan()]

    def test_fingerprint_ignores_names_priority_and_resources(self) -> None:
        same = self.of(name="other", notes="n", tags=["t"], priority=5, resources={"device": "gpu"})
        assert same == self.of()
        assert self.of(methods=[{"name": "dkd", "label": "mine"}]) == self.of(methods=["dkd"])

    def test_fingerprint_ignores_explicit_defaults(self) -> None:
        assert self.of(training={"epochs": 30, "batch_size": 64}) == self.of()

    @pytest.mark.parametrize(
        "changes",
        [
            {"training": {"epochs": 31}},
            {"dataset": {"name": "synthetic"}},
            {"teacher": {"model": "resnet14"}},
            {"teacher": {"model": "resnet20", "seed": 1}},
        ],
    )
    def test_fingerprint_changes_with_the_training(self, changes: dict[str, Any]) -> None:
        assert not set(self.of(**changes)) & set(self.of())

    def test_fingerprint_contains_only_explicit_choices_of_speed(self) -> None:
        def with_speed(**speed: Any) -> list[str]:
            return self.of(training={"epochs": 30, "speed": speed})

        assert with_speed(precision="auto", compile="auto") == self.of()
        assert not set(with_speed(precision="bfloat16")) & set(self.of())
        # The teacher reads no teacher, so whether its students reuse its logits does not make it another one.
        (teacher, *students), (same, *others) = with_speed(reuse_teacher=False), self.of()
        assert teacher == same
        assert len(students) == len(others)

    def test_fingerprint_is_kept_in_json(self) -> None:
        for planned in parse_experiment(spec()).plan():
            assert (
                RunSpec.model_validate_json(planned.spec.model_dump_json()).fingerprint() == planned.spec.fingerprint()
            )

    def test_fingerprint_has_its_recorded_value(self) -> None:
        # Changing what a RunSpec holds changes this on purpose: raise FINGERPRINT_VERSION when meaning changes.
        teacher = parse_experiment(spec()).teacher_run()
        assert teacher
        assert teacher.fingerprint() == "v1-3bb37e2a711365480d539886a173e702"


class TestWarnings:
    def about(self, **changes: Any) -> dict[str, str]:
        return {warning.path: warning.message for warning in warnings_of(parse_experiment(spec(**changes)))}

    def test_plain_spec_has_no_warnings(self) -> None:
        share = {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}
        assert self.about(methods=["dkd", share]) == {}

    def test_defaults_for_other_tasks_are_named(self) -> None:
        assert other_defaults(MethodRef(name="fitnet"), "classification") is None
        assert other_defaults(MethodRef(name="nkd"), "detection") is None
        text = other_defaults(MethodRef(name="mgd", params={"mask": "positions", "weight": 1e-6}), "detection")
        assert text
        assert text.startswith('some defaults of mgd are for other tasks; for detection write params: {"masked": 0.45')
        assert '"student_tap": "stages"' in text
        assert "weight" not in text

    def test_share_in_place_of_a_weight_for_other_tasks_is_named(self) -> None:
        text = other_defaults(MethodRef(name="fitnet"), "detection")
        assert text
        assert text.endswith('and shares: {"fitnet": 0.1}')
        layers = {"student_tap": "stages", "teacher_tap": "stages"}
        assert other_defaults(MethodRef(name="fitnet", params=layers, shares={"fitnet": 0.2}), "detection") is None
        assert other_defaults(MethodRef(name="fitnet", params=layers | {"weight": 0.01}), "detection") is None

    def test_parameters_that_have_no_effect_are_not_named(self) -> None:
        added = MethodRef.model_validate({"name": "pkd", "with": ["kd"]}).members[1]
        text = other_defaults(added, "detection")
        assert text
        assert "ce_weight" not in text, "an added method has none"
        shared = MethodRef(name="dkd", params={"temperature": 1, "ramp_epochs": 0}, shares={"nckd": 0.3})
        assert other_defaults(shared, "detection") is None

    def test_parameters_for_other_tasks_are_valid_and_no_defaults(self) -> None:
        for entry in METHODS:
            for task, params in entry.task_params.items():
                assert all(entry.params.model_fields[name].default != value for name, value in params.items())
                required = {"reduction": "log", "epsilon_share": 0.1} if entry.name == "dkd_align" else {}
                shares = dict(entry.task_shares.get(task, {}))
                usual = MethodRef(name=entry.name, params={**params, **required}, shares=shares)
                assert other_defaults(usual, task) is None

    def test_log_reduction_warns_about_epsilon(self) -> None:
        assert "ε = 6" in self.about()["methods.1.params.epsilon"]

    @pytest.mark.parametrize(("epsilon", "warned"), [(9.9, False), (10.1, True)])
    def test_epsilon_above_the_stability_bound_is_warned_of(self, epsilon: float, warned: bool) -> None:
        params = {"reduction": "sample", "epsilon": epsilon}  # digits: C = 10, and α = 1 < β
        about = self.about(methods=["dkd", {"name": "dkd_align", "params": params}])
        assert ("methods.1.params.epsilon" in about) == warned

    def test_ramp_and_decay_that_suppress_the_term_are_warned_of(self) -> None:
        # The paper's own pair of settings: ramp 20 from 0, decay 0.3: the product peaks at 0.015.
        method = {"name": "dkd_align", "params": ALIGN["params"] | {"decay": 0.3, "ramp_start": 0}}
        assert "0.015" in self.about(methods=["dkd", method])["methods.1.params.decay"]

    def test_literal_reduction_is_warned_of(self) -> None:
        method = {"name": "dkd_align", "params": {"reduction": "batch", "epsilon": 6.0}}
        about = self.about(methods=["dkd", method])["methods.1.params.reduction"]
        assert "4096 times" in about
        assert "about 0.0029 % of the gradient" in about

    @pytest.mark.parametrize(("classes", "says"), [(20, None), (100, "about 0.12 % "), (1000, "about 0.0012 % ")])
    def test_sample_reduction_with_many_classes_is_warned_of(self, classes: int, says: str | None) -> None:
        dataset = {"name": "synthetic", "params": {"num_classes": classes}}
        method = {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}}
        about = self.about(dataset=dataset, methods=["dkd", method]).get("methods.1.params.epsilon")
        assert (about is None) == (says is None)
        assert (says or "") in (about or "")

    def test_literal_reduction_with_a_compensating_epsilon_has_no_warning(self) -> None:
        method = {"name": "dkd_align", "params": {"reduction": "batch", "epsilon": 6.0 * 4096}}
        assert self.about(methods=["dkd", method]) == {}

    def test_log_reduction_with_decay_or_large_floor_has_no_warning(self) -> None:
        for gentle in ({"decay": 0.5, "ramp_epochs": 0}, {"log_floor": 1.0}):
            method = {"name": "dkd_align", "params": ALIGN["params"] | gentle}
            assert self.about(methods=["dkd", method]) == {}

    def test_epsilon_share_is_warned_of_only_with_ramp_from_zero_and_decay(self) -> None:
        params = {"reduction": "log", "epsilon_share": 0.1, "decay": 0.3}
        assert self.about(methods=["dkd", {"name": "dkd_align", "params": params}]) == {}
        # From 0 the first epoch has no term, and by the second the decay has taken most of it.
        late = params | {"decay": 0.01, "ramp_start": 0}
        assert "0.01" in self.about(methods=["dkd", {"name": "dkd_align", "params": late}])["methods.1.params.decay"]

    def test_ramp_longer_than_the_training_is_warned_of(self) -> None:
        assert "50 %" in self.about(training={"epochs": 10})["methods.0.params.ramp_epochs"]
        rld = {"name": "rld", "params": {"ramp_epochs": 40}}
        assert "25 %" in self.about(methods=["dkd", rld], training={"epochs": 10})["methods.1.params.ramp_epochs"]
        # Counted from 0, a ramp as long as the training comes one epoch short.
        late = {"name": "dkd", "params": {"ramp_epochs": 10, "ramp_start": 0}}
        assert "90 %" in self.about(methods=[late], training={"epochs": 10})["methods.0.params.ramp_epochs"]

    def test_label_smoothing_without_cross_entropy_is_warned_of(self) -> None:
        methods = ["ce", "simkd", {"name": "simkd", "label": "both", "with": ["kd"]}]
        methods.append({"name": "kd", "label": "soft", "params": {"ce_weight": 0}})
        training = spec()["training"]
        assert "training.label_smoothing" not in self.about(methods=methods)
        warnings = self.about(methods=methods, training={**training, "label_smoothing": 0.1})
        text = "has no effect in simkd, both, soft: no cross-entropy with the labels"
        assert warnings["training.label_smoothing"] == text

    def test_milestones_after_the_last_epoch_are_warned_of(self) -> None:
        """A preset's, in a training made shorter: the rate would stay at its peak, and nothing would say so."""
        schedule = {"name": "step", "milestones": [150, 180, 210]}
        for epochs, words in ((240, None), (210, "1 of 3 milestones"), (30, "all 3 milestones")):
            about = self.about(training={"epochs": epochs, "schedule": schedule})
            assert (words or "") in about.get("training.schedule.milestones", "")
            assert (words is None) == ("training.schedule.milestones" not in about)

    def test_too_few_seeds_are_warned_of(self) -> None:
        assert "interval" in self.about(seeds=[0])["seeds"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("08", 8),
        ("1e-3", 0.001),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2025-01-01", "2025-01-01"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("~", None),
    ],
)
def test_yaml_follows_the_core_schema_of_1_2_and_is_written_for_both_versions(written: str, read: Any) -> None:
    assert load_text(f"field: {written}") == {"field": read}
    for value in (written, read):
        text = dump_text({"field": value})
        assert load_text(text) == yaml.safe_load(text) == {"field": value}


def test_merge_keys_are_read() -> None:
    text = "{base: &base {a: 1, b: 1}, more: {deep: &more {<<: *base, a: 2}}, last: {<<: *more, c: 3}}"
    assert load_text(text)["last"] == {"a": 2, "b": 1, "c": 3}


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "a: {b: 1, c: 2, b: 3}", "- {x: 1, 'x': 2}"])
def test_repeated_key_of_a_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is given twice"):
        load_text(text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: é".encode("latin-1"), "it may be ISO-8859-1 or Windows-1252; save it as UTF-8"),
        ("name: é".encode("utf-16"), "it is written in UTF-16; save it as UTF-8"),
        ("name: x".encode("utf-16-le"), "it is written in UTF-16 or UTF-32; save it as UTF-8"),
        ("name: x".encode("utf-32"), "it is written in UTF-32; save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is a binary file"),
        (b"#" * (MAX_BYTES + 1), "longer than 4,194,304 bytes"),
    ],
    ids=["latin-1", "utf-16", "utf-16 without a mark", "utf-32", "binary", "long"],
)
def test_spec_in_another_encoding_is_refused_with_its_name(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as refused:
        load_file(path)
    assert str(refused.value).startswith(f"cannot read {path}: ")
    assert str(refused.value).endswith(expected)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: é", encoding="utf-8-sig")
    assert load_file(path) == {"name": "é"}


def test_spec_is_read_from_a_pipe_and_not_from_a_folder(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("name: x",), kwargs={"encoding": "utf-8"})
    writer.start()
    try:
        assert load_file(pipe) == {"name": "x"}
    finally:
        writer.join()
    with pytest.raises(SpecError, match="Is a directory"):
        load_file(tmp_path)


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"methods": ["DKD"]}, "methods.0.name", "did you mean dkd?"),
        ({"methods": ["dkd-align"]}, "methods.0.name", "did you mean dkd_align?"),
        ({"methods": ["cross entropy"]}, "methods.0.name", "did you mean ce?"),
        ({"dataset": "CIFAR100"}, "dataset.name", "did you mean cifar100?"),
        ({"dataset": "cifar-100"}, "dataset.name", "did you mean cifar100?"),
        ({"student": {"model": "ResNet-20"}}, "student.model.name", "did you mean resnet20?"),
        ({"student": {"model": "wrn-40-2"}}, "student.model.name", "did you mean wrn_40_2?"),
        ({"student": {"model": "MobileNetV2"}}, "student.model.name", "mobilenet_v2?"),
        ({"student": {"model": "vit_small_patch16_224"}}, "student.model.name", "timm:vit_small_patch16_224?"),
        ({"preset": "DKD CIFAR100"}, "preset", "did you mean dkd-cifar100?"),
        ({"training": {"epochs": 1, "learning_rate": 1}}, "training.learning_rate", "did you mean optimizer.lr?"),
        ({"training": {"epochs": 1, "batchsize": 1}}, "training.batchsize", "did you mean batch_size?"),
        ({"epochs": 1}, "epochs", "did you mean training.epochs?"),
        ({"methods": [{"name": "kd", "temperature": 1}]}, "methods.0.temperature", "did you mean params.temperature?"),
        ({"methods": [{"name": "kd", "params": {"T": 1}}]}, "methods.0.params.T", "did you mean temperature?"),
        ({"methods": [{"name": "ce", "params": {"T": 1}}]}, "methods.0.params.T", "it takes none"),
        ({"colour": 1}, "colour", "known: name, preset, notes"),
    ],
)
def test_unknown_name_or_field_gets_suggestions(changes: dict[str, Any], path: str, expected: str) -> None:
    spec: dict[str, Any] = {
        "name": "x",
        "dataset": "digits",
        "student": {"model": "small_cnn"},
        "teacher": {"model": "resnet20"},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": 1},
    }
    with pytest.raises(SpecError) as refused:
        parse_experiment(spec | changes)
    (problem,) = refused.value.problems
    assert problem.path == path
    assert expected in problem.message


def test_suggestions_do_not_change_the_other_problems() -> None:
    spec = {"name": "x", "dataset": "digits", "student": {"model": "small_cnn"}, "methods": ["ce"], "seeds": [0, 0]}
    with pytest.raises(SpecError) as refused:
        parse_experiment(spec | {"training": {"epochs": 0, "optimizer": {"lr": 1000, "momentun": 0.9}}})
    assert {problem.path: problem.message for problem in refused.value.problems} == {
        "seeds": "seed 0 is given twice; equal seeds are one run, not two",
        "training.epochs": "should be greater than or equal to 1",
        "training.optimizer.lr": "should be less than or equal to 100",
        "training.optimizer.momentun": "unknown field; did you mean momentum?",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 0}, "seed: unknown field; did you mean seeds?"),
        ({"optimizer": "AdamW"}, "training.optimizer.name: unknown optimizer 'AdamW'; did you mean adamw?"),
        ({"student": "small-cnn"}, "student: should be a mapping of fields; did you mean {model: small_cnn}?"),
        ({"teacher": "ResNet-20"}, "teacher: should be a mapping of fields; did you mean {model: resnet20}?"),
        ({"augment": "flips"}, "training.augment: unknown augmentation 'flips'; did you mean flip?"),
        ({"resources": {"device": "cuda"}}, "resources.device: should be 'any', 'cpu' or 'gpu'; did you mean 'gpu'?"),
    ],
)
def test_error_suggests_the_probable_value(changes: dict[str, Any], message: str) -> None:
    training = {name: changes.pop(name) for name in ("optimizer", "augment") if name in changes}
    data = {
        "name": "suggested",
        "dataset": "digits",
        "teacher": {"model": "resnet20"},
        "student": {"model": "small_cnn"},
        "methods": ["kd"],
        "seeds": [0],
        "training": {"epochs": 1} | training,
    }
    with pytest.raises(SpecError) as raised:
        parse_experiment(data | changes)
    assert message in [str(problem) for problem in raised.value.problems]
