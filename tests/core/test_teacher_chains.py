"""Teachers that have teachers of their own, and several teachers: specs, and whole experiments in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.distill.mixed_labels import MixedLabels
from core.distill.objective import Outputs
from core.events import JOURNAL_NAME, Failed, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import Ensemble, ExperimentSpec, SpecError, editable_copy, parse_experiment, warnings_of
from core.standalone import Parallelism, run_experiment
from core.tasks.classification.data import Batch
from core.tasks.task import Batch as AnyBatch
from core.train import TeacherSource, TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.ensemble import EnsembleNetwork, EnsembleTeacher, confidence_weights
from tests.core.task_of import task_of

SMALL = {"name": "small_cnn", "params": {"width": 4}}
DEEP = {"model": {"name": "small_cnn", "params": {"width": 8}}}
CHAIN = {"teacher": {"model": SMALL, "method": "kd", "teacher": DEEP}}
SEVERAL: dict[str, Any] = {"teacher": None, "teachers": [DEEP, {"model": SMALL, "seed": 1}]}


def experiment(**changes: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "chain",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 96, "test_size": 40},
            },
            "student": {"model": SMALL},
            "methods": ["ce", "kd"],
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": 32, "optimizer": {"lr": 0.05}},
        }
        | changes
    )


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        experiment(**changes)
    return {problem.path: problem.message for problem in refused.value.problems}


class TestChainSpec:
    def test_plan_trains_the_first_of_the_chain_first(self) -> None:
        deepest, assistant, *students = experiment(**CHAIN).plan()
        assert [run.label for run in (deepest, assistant)] == ["teacher 2", "teacher"]
        assert (deepest.path, assistant.path) == (("teacher", "teacher"), ("teacher",))
        assert (deepest.spec.method.name, deepest.spec.teacher) == ("ce", None)
        assert (assistant.spec.role, assistant.spec.method.name) == ("teacher", "kd")
        assert assistant.spec.teacher == deepest.spec.fingerprint()
        assert [run.spec.teacher for run in students] == [None, assistant.spec.fingerprint()]

    def test_teacher_at_the_end_of_a_chain_is_the_teacher_that_it_is_alone(self) -> None:
        alone = experiment(teacher=DEEP).plan()[0].spec
        in_chain = experiment(**CHAIN).plan()[0].spec
        assert in_chain.fingerprint() == alone.fingerprint()

    def test_fingerprints_of_teachers_and_students_are_those_of_earlier_versions(self) -> None:
        teacher, _, student = experiment(teacher=DEEP).plan()
        assert teacher.spec.fingerprint() == "v1-68ccdfd7b3b07a7361d559ada22138e9"
        assert student.spec.fingerprint() == "v1-f88dcb38b17cf9374b69adb8886cd903"

    def test_generations_of_one_architecture_are_different_runs(self) -> None:
        generation = {"model": SMALL, "method": "kd"}
        spec = experiment(teacher=generation | {"teacher": generation | {"teacher": {"model": SMALL}}})
        runs = [run.spec for run in spec.plan()]
        assert len({run.fingerprint() for run in runs}) == len(runs) == 5
        assert [run.teacher for run in runs[1:3]] == [run.fingerprint() for run in runs[:2]]

    def test_copy_for_editing_keeps_all_fingerprints_when_the_students_training_changes(self) -> None:
        spec = experiment(**CHAIN)
        copy = editable_copy(spec.model_dump(mode="json"))
        copy["training"]["epochs"] = 7
        changed = parse_experiment(copy)
        assert [run.spec.fingerprint() for run in changed.teacher_runs()] == [
            run.spec.fingerprint() for run in spec.teacher_runs()
        ]

    def test_methods_without_a_teacher_need_no_chain(self) -> None:
        assert [run.label for run in experiment(methods=["ce"], **CHAIN).plan()] == ["ce"]

    def test_warnings_name_the_teacher_that_they_are_about(self) -> None:
        method = {"name": "dkd", "params": {"ramp_epochs": 20}}
        spec = experiment(teacher={"model": SMALL, "method": method, "teacher": DEEP})
        assert "teacher.method.params.ramp_epochs" in {warning.path for warning in warnings_of(spec)}

    @pytest.mark.parametrize(
        ("teacher", "path", "says"),
        [
            ({"model": SMALL, "method": "kd"}, "teacher.method", "kd needs a teacher, and this teacher has none"),
            ({"model": SMALL, "teacher": DEEP}, "teacher.teacher", "without a method, it is trained by cross-entropy"),
            ({"model": SMALL, "method": "ce", "teacher": DEEP}, "teacher.teacher", "ce reads no teacher"),
            (
                {"model": SMALL, "method": "kd", "teacher": DEEP, "weights": "a.safetensors"},
                "teacher.method",
                "used as they are",
            ),
            (
                {"model": SMALL, "method": "kd", "teacher": {"model": "resnet8x"}},
                "teacher.teacher.model.name",
                "did you mean",
            ),
            (
                {"model": SMALL, "method": {"name": "crd"}, "teacher": DEEP},
                "teacher.method.params.negatives",
                "16,384 negatives are more than the 76",
            ),
            (
                {"model": SMALL, "method": "kd", "teacher": {"model": "mobilenet_v2_half"}},
                "teacher.teacher.model",
                "at least 16 px",
            ),
        ],
    )
    def test_links_that_do_not_fit_are_refused_with_their_path(
        self, teacher: dict[str, Any], path: str, says: str
    ) -> None:
        found = problems(teacher=teacher)
        assert path in found, found
        assert says in found[path]

    @pytest.mark.parametrize(("own", "path"), [(True, "teacher.training"), (False, "training")])
    def test_optimizer_that_cannot_train_a_link_is_refused_with_its_path(self, own: bool, path: str) -> None:
        training = {"epochs": 2, "batch_size": 32, "optimizer": "adamw"}
        link = {"model": SMALL, "method": "dot", "teacher": DEEP}
        found = problems(teacher=link | {"training": training}) if own else problems(teacher=link, training=training)
        assert list(found) == [f"{path}.optimizer.name"]
        assert found[f"{path}.optimizer.name"].startswith("dot gives each term a momentum of its own")

    def test_label_of_a_link_is_reserved(self) -> None:
        found = problems(methods=["ce", {"name": "kd", "label": "teacher 2"}], **CHAIN)
        assert "is the label of the teacher's run" in found["methods.1.label"]

    def test_chain_has_a_greatest_length(self) -> None:
        link: dict[str, Any] = {"model": SMALL}
        for _ in range(10):
            link = {"model": SMALL, "method": "kd", "teacher": link}
        assert any("more than 10 teachers one after another" in text for text in problems(teacher=link).values())


class TestSeveralSpec:
    def test_students_name_all_teachers_and_how_they_are_combined(self) -> None:
        spec = experiment(**SEVERAL)
        runs = {run.label: run.spec for run in spec.plan()}
        assert runs["kd"].teachers == (runs["teacher"].fingerprint(), runs["teacher 2"].fingerprint())
        assert runs["kd"].ensemble == Ensemble()
        assert (runs["ce"].teachers, runs["ce"].ensemble) == ((), None)

    def test_combination_and_order_are_part_of_the_training(self) -> None:
        weighted = {"by": "weighted", "weights": [1, 2]}
        variants = [
            experiment(**SEVERAL),
            experiment(**SEVERAL, ensemble="confidence"),
            experiment(**SEVERAL, ensemble=weighted),
            experiment(teacher=None, teachers=SEVERAL["teachers"][::-1], ensemble=weighted),
        ]
        assert len({spec.plan()[-1].spec.fingerprint() for spec in variants}) == 4
        assert len({run.spec.fingerprint() for spec in variants for run in spec.teacher_runs()}) == 2

    def test_a_teacher_of_two_teachers_is_trained_once(self) -> None:
        assistants = [{"model": SMALL, "seed": seed, "method": "kd", "teacher": DEEP} for seed in (0, 1)]
        spec = experiment(teacher=None, teachers=assistants)
        assert [run.spec.model.params["width"] for run in spec.teacher_runs()] == [8, 4, 4]

    def test_preset_gives_no_teacher_beside_several(self) -> None:
        spec = parse_experiment({"name": "q", "preset": "quick", "teachers": SEVERAL["teachers"]})
        assert spec.teacher is None

    @pytest.mark.parametrize(
        ("changes", "path", "says"),
        [
            ({"teacher": DEEP}, "teachers", "exclude each other"),
            ({"teachers": [DEEP]}, "teachers", "one teacher is no ensemble"),
            ({"teachers": [DEEP, DEEP]}, "teachers.1", "the same teacher as teachers.0"),
            ({"ensemble": {"by": "weighted", "weights": [1, 2, 3]}}, "ensemble.weights", "3 weights for 2 teachers"),
            ({"ensemble": {"by": "weighted"}}, "ensemble", "weights belong to by: weighted"),
            ({"ensemble": {"by": "mean", "weights": [1, 2]}}, "ensemble", "weights belong to by: weighted"),
            ({"ensemble": "median"}, "ensemble.by", "'mean', 'weighted' or 'confidence'"),
            (
                {"methods": ["ce", {"name": "crd", "params": {"negatives": 8}}]},
                "methods.1",
                "reads inner layers of one",
            ),
            ({"methods": ["ce", "mlkd"]}, "methods.1", "mlkd reads logits of a second view of one teacher"),
            ({"methods": ["ce", {"name": "kd", "with": ["at"]}]}, "methods.1", "kd+at reads inner layers of one"),
            ({"teachers": [DEEP, {"model": SMALL, "method": "kd"}]}, "teachers.1.method", "kd needs a teacher"),
        ],
    )
    def test_what_cannot_be_combined_is_refused_with_its_path(
        self, changes: dict[str, Any], path: str, says: str
    ) -> None:
        found = problems(**SEVERAL | changes)
        assert path in found, found
        assert says in found[path]

    def test_ensemble_of_one_teacher_is_refused(self) -> None:
        assert "several teachers" in problems(teacher=DEEP, ensemble="mean")["ensemble"]


class Constant:
    """A teacher whose logits are given."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def outputs(self, batch: AnyBatch, epoch: int) -> Outputs:
        return Outputs(self.logits)

    def end_epoch(self) -> dict[str, float]:
        return {"speed/teacher_reused": float(self.logits.shape[1])}

    def finish(self) -> None:
        pass


class TestCombination:
    def logits(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [2 * torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(3)]

    def combined(self, ensemble: Ensemble, mixed: MixedLabels | None = None) -> Tensor:
        batch = Batch(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]), torch.arange(4), 4, mixed)
        teacher = EnsembleTeacher([Constant(logits) for logits in self.logits()], ensemble, task_of())
        return teacher.outputs(batch, 0).logits

    def test_mean_and_weights(self) -> None:
        one, two, three = self.logits()
        torch.testing.assert_close(self.combined(Ensemble()), (one + two + three) / 3)
        weighted = self.combined(Ensemble(by="weighted", weights=(1, 2, 5)))
        torch.testing.assert_close(weighted, (one + 2 * two + 5 * three) / 8)

    def test_confidence_is_the_formula_of_the_paper_for_each_image(self) -> None:
        result = self.combined(Ensemble(by="confidence"))
        for row in range(4):
            exponents = [
                1 / float(logits[row].softmax(0)[row])
                for logits in self.logits()  # exp(−log p) of the label
            ]
            weights = [(1 - e / sum(exponents)) / 2 for e in exponents]
            assert sum(weights) == pytest.approx(1)
            expected = sum(w * logits[row] for w, logits in zip(weights, self.logits(), strict=True))
            torch.testing.assert_close(result[row], expected)

    def test_confidence_in_a_mixture_is_that_in_both_labels(self) -> None:
        lam = torch.tensor([1.0, 0.0, 0.25, 0.5], dtype=torch.float64)
        target, partner = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0])
        result = self.combined(Ensemble(by="confidence"), MixedLabels(target, partner, lam))
        rows = torch.arange(4)
        losses = [-logits.log_softmax(1) for logits in self.logits()]
        mixtures = torch.stack([lam * loss[rows, target] + (1 - lam) * loss[rows, partner] for loss in losses])
        weights = confidence_weights(mixtures)
        torch.testing.assert_close(result, (weights.unsqueeze(2) * torch.stack(self.logits())).sum(0))

    def test_worst_teacher_has_no_weight_if_the_others_are_certain(self) -> None:
        weights = confidence_weights(torch.tensor([[0.0], [0.0], [40.0]]))
        torch.testing.assert_close(weights, torch.tensor([[0.5], [0.5], [0.0]]))

    def test_network_of_an_ensemble_averages_without_labels(self) -> None:
        members = [nn.Linear(3, 2) for _ in range(2)]
        images = torch.randn(4, 3)
        one, two = (member(images) for member in members)
        network = EnsembleNetwork(members, Ensemble(by="weighted", weights=(1, 3)))
        torch.testing.assert_close(network(images), (one + 3 * two) / 4)
        torch.testing.assert_close(EnsembleNetwork(members, Ensemble(by="confidence"))(images), (one + two) / 2)


def events(folder: Path) -> list[Any]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def settings(folder: Path) -> TrainingSettings:
    return TrainingSettings(cache_dir=folder / "cache", threads=1)


class TestTraining:
    def test_chain_is_trained_in_one_process_and_kept(self, tmp_path: Path) -> None:
        spec = experiment(**CHAIN)
        assert run_experiment(spec, tmp_path, settings=settings(tmp_path)) == 0
        assert {path.name for path in tmp_path.iterdir()} >= {"teacher-seed0", "teacher-2-seed0", "kd-seed0"}
        assistant = [event.values for event in events(tmp_path / "teacher-seed0") if isinstance(event, Metrics)]
        assert {"train/kd", "fidelity/agreement"} <= assistant[-1].keys()
        before = (tmp_path / "teacher-seed0" / JOURNAL_NAME).stat().st_mtime_ns
        assert run_experiment(spec, tmp_path, settings=settings(tmp_path)) == 0
        assert (tmp_path / "teacher-seed0" / JOURNAL_NAME).stat().st_mtime_ns == before

    @pytest.mark.parametrize("ensemble", ["mean", "confidence"])
    def test_students_learn_from_several_teachers_whose_logits_are_kept(self, tmp_path: Path, ensemble: str) -> None:
        training = {"epochs": 3, "batch_size": 32, "optimizer": {"lr": 0.1}}
        spec = experiment(**SEVERAL, ensemble=ensemble, training=training, methods=["kd", "dkd"])
        assert run_experiment(spec, tmp_path, settings=settings(tmp_path)) == 0
        metrics = [event.values for event in events(tmp_path / "kd-seed0") if isinstance(event, Metrics)]
        assert metrics[-1]["train/kd"] < metrics[0]["train/kd"]
        assert 0 <= metrics[-1]["fidelity/agreement"] <= 100
        second = [event.message for event in events(tmp_path / "dkd-seed0") if isinstance(event, Log)]
        kept = [text for text in second if text.startswith("teacher logits: 3 epochs were read from the disk")]
        assert len(kept) == 2, "each teacher's logits are read that the first method's run has cached"

    def test_run_with_several_teachers_continues_bit_for_bit(self, tmp_path: Path) -> None:
        spec = experiment(**SEVERAL, ensemble="confidence", methods=["kd"])
        *teachers, student = spec.plan()
        sources = []
        for planned in teachers:
            folder = tmp_path / planned.label
            assert run_training(planned.spec, folder, settings=settings(tmp_path)) == "finished"
            sources.append(TeacherSource(planned.spec, folder / "weights.safetensors"))
        assert run_training(student.spec, tmp_path / "whole", sources, settings=settings(tmp_path)) == "finished"
        polls = iter(range(9))
        options = TrainOptions(stop_requested=lambda: next(polls) == 4)
        run = tmp_path / "half"
        assert run_training(student.spec, run, sources, options=options, settings=settings(tmp_path)) == "stopped"
        resume = run / CHECKPOINT_NAME
        # In another order, because a run knows its teachers by their fingerprints.
        result = run_training(student.spec, tmp_path / "rest", sources[::-1], resume, settings=settings(tmp_path))
        assert result == "finished"
        whole, rest = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "rest"))
        assert whole == rest

    def test_run_without_one_of_its_teachers_fails_with_its_name(self, tmp_path: Path) -> None:
        *teachers, student = experiment(**SEVERAL, methods=["kd"]).plan()
        folder = tmp_path / "first"
        assert run_training(teachers[0].spec, folder, settings=settings(tmp_path)) == "finished"
        source = TeacherSource(teachers[0].spec, folder / "weights.safetensors")
        assert run_training(student.spec, tmp_path / "student", source, settings=settings(tmp_path)) == "failed"
        last = events(tmp_path / "student")[-1]
        assert isinstance(last, Failed)
        assert f"needs the teacher {teachers[1].spec.fingerprint()}" in last.reason or "was not given" in last.reason

    @pytest.mark.slow
    def test_several_teachers_on_two_ranks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        spec = experiment(**SEVERAL, methods=["kd"])
        results = []
        for ranks in (1, 2):
            out = tmp_path / str(ranks)
            assert run_experiment(spec, out, Parallelism(ranks), settings(tmp_path)) == 0
            results.append([event.values for event in events(out / "kd-seed0") if isinstance(event, Metrics)])
            described = json.loads((out / "kd-seed0" / "run.json").read_text(encoding="utf-8"))
            assert len(described["further_teachers"]) == 1
        one, two = results
        for name in ("train/kd", "train/loss"):
            assert [values[name] for values in one] == pytest.approx([values[name] for values in two], rel=1e-4)
