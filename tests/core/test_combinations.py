"""Methods whose terms are added: specs, losses, whole trainings, and the contract of every method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog import METHODS, MethodEntry, load_plugins
from core.catalog.metrics import METRICS
from core.distill.loss import build_loss
from core.distill.objective import Combination, NetworkShape, ObjectiveError, Setting
from core.distill.rows import Rows
from core.events import JOURNAL_NAME, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import (
    MethodRef,
    RunSpec,
    SpecError,
    editable_copy,
    parse_experiment,
    parse_sweep,
    parse_text,
    to_yaml,
    warnings_of,
)
from core.specs.sweep import expand
from core.tasks.task import TeacherSource
from core.testing import MethodContract, build_problem
from core.train import TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME, load_checkpoint
from tests.core.hint_objective import Hint
from tests.core.hint_plugin import HintParams
from tests.core.test_objective import events, experiment

load_plugins(["tests.core.hint_plugin"])

CNNS = ({"name": "small_cnn", "params": {"width": 8}}, {"name": "small_cnn", "params": {"width": 4}})
PLUGIN = ("tests.core.hint_plugin",)


class TestLogitsWithLogits(MethodContract):
    method: ClassVar[Any] = {"name": "kd", "with": ["dist", {"name": "nkd", "params": {"gamma": 0.5}}]}


class TestLayerWithLogits(MethodContract):
    method: ClassVar[Any] = {"name": "test_hint", "with": [{"name": "dkd", "params": {"ramp_epochs": 1}}]}
    plugins = PLUGIN
    networks = CNNS


class TestMeansOverRows(MethodContract):
    method: ClassVar[Any] = {"name": "test_hint", "with": ["at"], "shares": {"hint": 0.2}}
    plugins = PLUGIN
    networks = CNNS


def rows() -> Rows:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    return Rows(student.requires_grad_(), 2 * teacher, torch.randint(10, (8,), generator=generator))


class TestLoss:
    def test_terms_are_added_and_cross_entropy_is_that_of_the_first(self) -> None:
        batch = rows()
        method = MethodRef.model_validate({"name": "dkd", "params": {"ce_weight": 0.7}, "with": ["kd", "dist"]})
        terms = build_loss(method)(batch, None)
        alone = [build_loss(MethodRef(name=name))(batch, None) for name in ("dkd", "kd", "dist")]
        (gradient,) = torch.autograd.grad(terms.total, batch.student)
        expected = sum((of[name] for of in (one.gradients for one in alone) for name in of if name != "ce"), start=0.0)
        ce = alone[0].gradients["ce"]
        torch.testing.assert_close(gradient, expected + 0.7 * ce, rtol=1e-10, atol=1e-14)
        assert set(terms.values) == {"ce", "tckd", "nckd", "kd", "inter", "intra"}
        for one in alone:
            for name, value in one.values.items():
                assert float(terms.values[name]) == float(value), name

    def test_shares_are_of_the_sum_over_all_members(self) -> None:
        batch = rows()
        added = {"name": "kd", "shares": {"kd": 0.25}}
        method = MethodRef.model_validate({"name": "dkd", "shares": {"nckd": 0.5}, "with": [added]})
        terms = build_loss(method)(batch, None)
        assert terms.diagnostics
        measured = terms.diagnostics(terms.gradients)
        norms = {name: gradient.norm() for name, gradient in terms.gradients.items()}
        total = torch.stack(list(norms.values())).sum()
        for name, norm in norms.items():
            assert float(measured[f"grad/share_{name}"]) == pytest.approx(100 * float(norm / total), rel=1e-10)
        assert float(measured["grad/share_kd"]) == pytest.approx(25.0, rel=1e-10)
        assert float(measured["grad/share_nckd"]) == pytest.approx(50.0, rel=1e-10)
        assert "grad/similarity" in measured, "what the first method measures"

    def test_combination_with_a_layer_is_the_sum_of_its_members(self) -> None:
        vectors = {"name": "test_hint", "params": {"student_tap": "features", "teacher_tap": "features"}}
        whole, inputs = build_problem(spec_of(vectors | {"with": ["at", "kd"]}))
        hint, at, kd = (build_problem(spec_of(method))[0] for method in (vectors, "at", "kd"))
        assert isinstance(whole, Combination)
        assert whole.taps.student == ("features", "stage1")
        seen: list[tuple[str, ...]] = []
        for member in whole.members:
            member.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].student.taps)))
        step = inputs.step()
        terms = whole(step)
        assert seen == [("features",), ("stage1",), ()], "each member sees its own layers"
        alone = hint(step), at(step), kd(step)
        kd_term = 0.9 * alone[2].values["kd"]
        expected = alone[0].total + alone[1].parts["at"] + kd_term
        assert float(terms.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        assert list(terms.parts) == ["ce", "hint", "at", "kd"]

    @pytest.mark.parametrize("method", ["norm", "simkd"])
    @pytest.mark.parametrize("first", [True, False])
    def test_added_terms_read_the_logits_of_the_exported_network(self, method: str, first: bool) -> None:
        combined = {"name": method, "with": ["kd"]} if first else {"name": "kd", "with": [method]}
        whole, inputs = build_problem(spec_of(combined))
        alone, _ = build_problem(spec_of(method))
        step = inputs.step()
        own, terms = alone(step), whole(step)
        assert own.logits is not None
        kd = build_loss(MethodRef(name="kd"))(replace(step.rows, student=own.logits), None)
        assert float(terms.values["kd"]) == pytest.approx(float(kd.values["kd"]), rel=1e-12)
        left_out = own.parts.get("ce", 0.0) if not first else 0.1 * kd.values["ce"]
        expected = own.total + kd.total - left_out
        assert float(terms.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        (tap,) = step.student.taps.values()
        gradients = [torch.autograd.grad(total, tap, retain_graph=True)[0] for total in (terms.total, expected)]
        # What is left out of the expected value has no graph if it is the value of a term.
        difference = 0.1 * _gradient_of_ce(step.rows, own.logits, tap) if first else 0.0
        torch.testing.assert_close(gradients[0], gradients[1] - difference, rtol=1e-8, atol=1e-12)
        assert terms.logits is not None
        torch.testing.assert_close(terms.logits, own.logits)
        assert whole.trains(0) == alone.trains(0)

    def test_two_methods_that_change_the_logits_are_refused(self) -> None:
        """A plug-in's entry may not say that it changes them."""
        members = [build_problem(spec_of(name))[0] for name in ("norm", "simkd")]
        with pytest.raises(ObjectiveError, match="two of the methods change what the student's classifier reads"):
            Combination(members)

    def test_weights_that_two_members_read_are_read_once(self) -> None:
        objective, _ = build_problem(spec_of({"name": "cat_kd", "with": ["norm"]}))
        assert [parameter.shape for parameter in objective.student_parameters()] == [(5, 8), (5,)]

    def test_members_export_the_student_one_after_the_other(self) -> None:
        class Exporting(Hint):
            def exported(self, student: nn.Module) -> nn.Module:
                return nn.Sequential(student, self.adapter)

        members = [Exporting(HintParams(), shapes()) for _ in range(2)]
        student = nn.Identity()
        inner, last = Combination(members).exported(student).children()
        assert list(inner.children()) == [student, members[0].adapter]
        assert last is members[1].adapter


def _gradient_of_ce(batch: Rows, logits: Tensor, tap: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, batch.target), tap, retain_graph=True)
    return gradient


def shapes() -> Setting:
    shape = NetworkShape(5, {"stage1": torch.Size((4, 2, 2))})
    return Setting(shape, shape, 8)


def spec_of(method: Any) -> dict[str, Any]:
    data: dict[str, Any] = experiment(method).model_dump(mode="json")
    return data


class TestSpec:
    def test_label_and_name_follow_from_the_members(self) -> None:
        align = {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 1.0}}
        spec = experiment("kd", {"name": "at", "with": ["kd"]}, {"name": "at", "with": [align], "label": "ours"})
        assert [method.label for method in spec.methods] == ["kd", "AT + KD", "ours"]
        assert [method.full_name for method in spec.methods] == ["kd", "at+kd", "at+dkd_align"]
        copy = editable_copy(spec.model_dump(mode="json"))
        assert [method.get("label") for method in copy["methods"]] == [None, None, "ours"]
        copy["methods"][1]["with"] = [align]
        assert parse_experiment(copy).methods[1].label == "AT + DKD-Align (log)"

    def test_spec_comes_back_from_yaml_json_and_the_plan(self) -> None:
        added = {"name": "kd", "params": {"kd_weight": 0.5}, "shares": {}}
        spec = experiment({"name": "at", "with": [added, "dist"], "shares": {"at": 0.3}})
        assert parse_text(to_yaml(spec)) == spec
        assert parse_experiment(spec.model_dump(mode="json")) == spec
        run = spec.plan()[-1].spec
        assert RunSpec.model_validate_json(run.model_dump_json()).fingerprint() == run.fingerprint()
        assert "ce_weight" in run.method.params
        assert "ce_weight" not in run.model_dump(mode="json")["method"]["with"][0]["params"]

    def test_specs_without_added_methods_keep_their_form(self) -> None:
        plain, empty = experiment("kd"), experiment({"name": "kd", "with": []})
        assert list(plain.methods[0].model_dump(mode="json")) == ["name", "params", "label"]
        assert empty == plain
        fingerprints = {
            experiment(method).plan()[-1].spec.fingerprint() for method in ("kd", {"name": "kd", "with": ["at"]})
        }
        assert len(fingerprints) == 2

    def test_sweep_varies_a_parameter_of_an_added_method(self) -> None:
        sweep = parse_sweep(
            {
                "name": "s",
                "experiment": {
                    key: value for key, value in spec_of({"name": "at", "with": ["kd"]}).items() if key != "name"
                },
                "grid": {"methods.0.with.0.params.temperature": [2.0, 8.0]},
            }
        )
        specs = expand(sweep)
        assert [spec.methods[0].added[0].params["temperature"] for spec in specs] == [2.0, 8.0]
        assert [spec.methods[0].label for spec in specs] == ["AT + KD"] * 2

    def test_warnings_of_all_members_have_their_paths(self) -> None:
        spec = experiment({"name": "dkd", "with": [{"name": "rld", "params": {"ramp_epochs": 9}}]})
        paths = {problem.path for problem in warnings_of(spec)}
        assert {"methods.0.params.ramp_epochs", "methods.0.with.0.params.ramp_epochs"} <= paths

    def test_label_of_one_member_alone_is_misleading(self) -> None:
        spec = experiment(
            "ce", {"name": "at", "with": ["kd"], "label": "kd"}, {"name": "at", "with": ["kd"], "label": "AT with KD"}
        )
        labels = {problem.path: problem.message for problem in warnings_of(spec) if problem.path.endswith("label")}
        assert list(labels) == ["methods.1.label"]
        assert labels["methods.1.label"].endswith("this one is AT + KD")

    @pytest.mark.parametrize(
        ("method", "path", "message"),
        [
            (
                {"name": "at", "with": [{"name": "kd", "params": {"ce_weight": 0.5}}]},
                "methods.0.with.0.params.ce_weight",
                "cross-entropy is counted once",
            ),
            ({"name": "at", "with": ["ce"]}, "methods.0.with.0", "no term besides cross-entropy"),
            ({"name": "dkd", "with": ["dkd_divergence"]}, "methods.0.with.0", "both report tckd"),
            ({"name": "kd", "with": ["kd"]}, "methods.0.with.0", "kd and kd both report kd"),
            ({"name": "kd", "with": ["norm", "simkd"]}, "methods.0.with.1", "norm changes what the student's"),
            (
                {"name": "at", "with": [{"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}]},
                "methods.0.with.0.params.epsilon_share",
                "in a combination write shares: {align: …}",
            ),
            (
                {"name": "at", "shares": {"at": 0.5}, "with": [{"name": "kd", "shares": {"kd": 0.5}}]},
                "methods.0.shares",
                "the shares add up to 1",
            ),
            (
                {"name": "at", "with": [{"name": "kd", "shares": {"kdd": 0.5}}]},
                "methods.0.with.0.shares.kdd",
                "kd has no term 'kdd'; did you mean kd",
            ),
            (
                {"name": "at", "with": [{"name": "kd", "shares": {"ce": 0.5}}]},
                "methods.0.with.0.shares.ce",
                "kd has no term 'ce'",
            ),
            (
                {"name": "at", "with": [{"name": "kd", "params": {"kd_weight": 3.0}, "shares": {"kd": 0.5}}]},
                "methods.0.with.0.shares.kd",
                "kd_weight gives this term a weight already, of 3",
            ),
            ({"name": "at", "with": [{"name": "kd", "label": "x"}]}, "methods.0.with.0.label", "unknown field"),
            ({"name": "at", "with": [{"name": "kd", "with": ["dist"]}]}, "methods.0.with.0.with", "unknown field"),
            ({"name": "at", "wiht": ["kd"]}, "methods.0.wiht", "did you mean with?"),
            ({"name": "at", "with": ["kdd"]}, "methods.0.with.0.name", "unknown method 'kdd'"),
            (
                {"name": "kd", "with": [{"name": "test_hint", "params": {"teacher_tap": "stage9"}}]},
                "methods.0.with.0.params.teacher_tap",
                "there is no tap 'stage9'",
            ),
        ],
    )  # fmt: skip
    def test_bad_combination_is_refused_with_its_path(self, method: Any, path: str, message: str) -> None:
        with pytest.raises(SpecError) as refused:
            experiment(method)
        assert path in [problem.path for problem in refused.value.problems]
        assert message in next(problem.message for problem in refused.value.problems if problem.path == path)

    def test_needs_of_all_members_are_checked(self) -> None:
        with pytest.raises(SpecError) as refused:
            experiment({"name": "ce", "with": ["kd"]}, teacher=None)
        assert [problem.path for problem in refused.value.problems] == ["methods.0.with.0"]
        two = {"name": "synthetic", "params": {"num_classes": 2}}
        with pytest.raises(SpecError, match="needs at least 3 classes") as refused:
            experiment({"name": "kd", "with": ["dkd"]}, dataset=two)
        assert [problem.path for problem in refused.value.problems] == ["methods.0.with.0"]

    def test_every_share_that_a_combination_reports_is_described(self) -> None:
        for entry in METHODS:
            assert isinstance(entry, MethodEntry)
            for term in entry.terms:
                metric = METRICS[f"grad/share_{term}"]
                assert metric.unit == "%"
                assert metric.panel


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    spec = experiment("kd").plan()[0].spec
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


TRAINING: dict[str, Any] = {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.02}}


def train(
    method: Any, folder: Path, teacher: TeacherSource, options: TrainOptions | None = None, **training: Any
) -> str:
    settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
    spec = experiment(method, training=TRAINING | training).plan()[-1].spec
    return run_training(spec, folder, teacher, options=options, settings=settings)


def metrics(folder: Path) -> dict[str, float]:
    found = [record.event.values for record in read_journal(folder / JOURNAL_NAME) if isinstance(record.event, Metrics)]
    return found[-1]


class TestTraining:
    @pytest.mark.parametrize(
        "training",
        [
            {},
            {"accumulate": 2},
            {"speed": {"precision": "bfloat16"}},
            {"augment": ["standard", "mixup"]},
            {"clip_grad_norm": 0.5},
        ],
        ids=["plain", "micro-batches", "16 bits", "mixtures", "clipped"],
    )
    def test_terms_of_all_members_and_their_shares_are_reported(
        self, tmp_path: Path, teacher: TeacherSource, training: dict[str, Any]
    ) -> None:
        method = {"name": "test_hint", "shares": {"hint": 0.3}, "with": ["kd"]}
        assert train(method, tmp_path, teacher, **training) == "finished", events(tmp_path)[-1]
        values = metrics(tmp_path)
        assert {"train/ce", "train/hint", "train/kd", "train/weight_hint"} <= values.keys()
        shares = {name: value for name, value in values.items() if name.startswith("grad/share_")}
        assert set(shares) == {"grad/share_ce", "grad/share_hint", "grad/share_kd"}
        assert sum(shares.values()) == pytest.approx(100.0, rel=1e-4)
        assert shares["grad/share_hint"] == pytest.approx(30.0, rel=1e-4)
        assert min(shares.values()) > 1.0

    def test_shares_of_logits_alone_are_measured_in_every_step(self, tmp_path: Path, teacher: TeacherSource) -> None:
        assert train({"name": "kd", "with": ["dist"]}, tmp_path, teacher) == "finished"
        values = metrics(tmp_path)
        names = ("ce", "kd", "inter", "intra")
        assert sum(values[f"grad/share_{name}"] for name in names) == pytest.approx(100.0, rel=1e-6)

    @pytest.mark.parametrize("others", [["kd"], ["kd", "test_hint"]], ids=["logits alone", "with a layer"])
    def test_share_of_a_term_on_the_logits_of_regions(
        self, tmp_path: Path, teacher: TeacherSource, others: list[str]
    ) -> None:
        method = {"name": "sd_dkd", "shares": {"nckd": 0.3}, "with": others}
        assert train(method, tmp_path, teacher) == "finished", events(tmp_path)[-1]
        values = metrics(tmp_path)
        shares = {name: value for name, value in values.items() if name.startswith("grad/share_")}
        assert sum(shares.values()) == pytest.approx(100.0, rel=1e-4)
        assert shares["grad/share_nckd"] == pytest.approx(30.0, rel=1e-4)

    def test_a_combination_with_weight_zero_trains_as_its_first_method(
        self, tmp_path: Path, teacher: TeacherSource
    ) -> None:
        zero = {"name": "test_hint", "params": {"weight": 0.0}}
        assert train("kd", tmp_path / "alone", teacher) == "finished"
        assert train({"name": "kd", "with": [zero]}, tmp_path / "both", teacher) == "finished"
        alone, both = metrics(tmp_path / "alone"), metrics(tmp_path / "both")
        assert both["train/kd"] == pytest.approx(alone["train/kd"], rel=1e-5)
        assert both["grad/share_hint"] == 0

    def test_parameters_of_a_member_start_as_they_do_alone(self, tmp_path: Path, teacher: TeacherSource) -> None:
        starts = []
        for name, method in (("alone", "test_hint"), ("added", {"name": "at", "with": ["test_hint"]})):
            options = TrainOptions(stop_requested=lambda: True)
            assert train(method, tmp_path / name, teacher, options) == "stopped"
            spec = experiment(method, training=TRAINING).plan()[-1].spec
            state = load_checkpoint(tmp_path / name / CHECKPOINT_NAME, spec.fingerprint()).objective
            starts.append(next(value for key, value in state.items() if key.endswith("adapter.weight")))
        assert torch.equal(*starts)

    def test_member_that_returns_one_sum_fails_before_the_first_step(
        self, tmp_path: Path, teacher: TeacherSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward = Hint.forward
        monkeypatch.setattr(Hint, "forward", lambda self, step: replace(forward(self, step), parts={}))
        assert train({"name": "kd", "with": ["test_hint"]}, tmp_path, teacher) == "failed"
        reason = events(tmp_path)[-1].reason
        assert "kd+test_hint cannot compute its loss of these networks: it returns its loss as one sum" in reason


def test_catalog_knows_which_methods_change_the_logits() -> None:
    """Two of them are refused at submission by the catalog, and before the first step by the methods."""
    changing = {entry.name for entry in METHODS if getattr(entry.load(), "changes_logits", False)}
    assert {entry.name for entry in METHODS if entry.changes_classifier} == changing
