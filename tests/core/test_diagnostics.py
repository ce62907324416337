"""Diagnostics against references by their definitions, and on inputs with known results."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from core.catalog import METRICS
from core.distill.gradients import measure_gradients
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.events import JOURNAL_NAME, Failed, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import DatasetRef, MethodRef, PlannedRun, parse_experiment
from core.tasks.classification import models
from core.tasks.classification.data import Dataset, Split, load
from core.tasks.classification.diagnostics import robustness as robustness_module
from core.tasks.classification.diagnostics.accuracy import top_accuracies
from core.tasks.classification.diagnostics.calibration import expected_calibration_error, negative_log_likelihood
from core.tasks.classification.diagnostics.collapse import Features, neural_collapse
from core.tasks.classification.diagnostics.fidelity import fidelity
from core.tasks.classification.diagnostics.inference import eval_mode, predict_logits, to_floats
from core.tasks.classification.diagnostics.perturbations import (
    perturbations,
)
from core.tasks.classification.diagnostics.report import collapse_report, epoch_report, final_report
from core.tasks.classification.diagnostics.robustness import (
    RobustnessInputs,
    read_stylised,
    robustness,
    stylised_accuracy,
)
from core.train import TeacherSource, run_training
from core.train.metric_means import RunningMeans


def logits(batch: int = 40, classes: int = 7, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, classes, generator=random) * scale
    return student, teacher, torch.randint(classes, (batch,), generator=random)


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def measured(
    student: Tensor, teacher: Tensor | None, target: Tensor, name: str = "dkd", epoch: int | None = None
) -> dict[str, float]:
    params = {"reduction": "log", "epsilon": 6.0} if name == "dkd_align" else {}
    batch = Rows(student.requires_grad_(), teacher, target)
    return numbers(measure_gradients(build_loss(MethodRef(name=name, params=params))(batch, epoch), batch))


class TestGradients:
    def reference(self, student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's autograd gradients (B, C) of the two DKD terms in float64."""
        z = student.detach().double().requires_grad_()
        p, q = F.softmax(z / 4, 1), F.softmax(teacher.double() / 4, 1)
        hit = F.one_hot(target, z.shape[1]).bool()
        p_t, q_t = p[hit], q[hit]
        tckd = q_t * (q_t / p_t).log() + (1 - q_t) * ((1 - q_t) / (1 - p_t)).log()
        p_hat = p[~hit].view(len(z), -1) / (1 - p_t).unsqueeze(1)
        q_hat = q[~hit].view(len(z), -1) / (1 - q_t).unsqueeze(1)
        nckd = q_hat * (q_hat / p_hat).log()
        (first,) = torch.autograd.grad(tckd.sum(), z, retain_graph=True)
        (second,) = torch.autograd.grad(nckd.sum(), z)
        return first, second

    def test_covariance_is_the_cosine_of_the_summed_gradients(self) -> None:
        student, teacher, target = logits()
        first, second = self.reference(student, teacher, target)
        expected = F.cosine_similarity(first.sum(0), second.sum(0), dim=0)
        assert measured(student, teacher, target)["grad/covariance"] == pytest.approx(float(expected), abs=1e-5)

    def test_similarity_is_the_mean_cosine_over_samples(self) -> None:
        student, teacher, target = logits()
        first, second = self.reference(student, teacher, target)
        expected = F.cosine_similarity(first, second, dim=1).mean()
        assert measured(student, teacher, target)["grad/similarity"] == pytest.approx(float(expected), abs=1e-5)

    def test_samples_with_a_zero_gradient_are_skipped_and_counted(self) -> None:
        student, teacher, target = logits()
        teacher[:10] = student[:10]  # nothing to learn: both gradients are zero
        teacher[torch.arange(5), target[:5]] += 1  # only the target's share to learn: NCKD's gradient is zero
        metrics = measured(student, teacher, target)
        assert metrics["grad/skipped"] == pytest.approx(25)
        others = measured(student.detach()[10:], teacher[10:], target[10:])
        assert others["grad/skipped"] == 0
        assert metrics["grad/similarity"] == pytest.approx(others["grad/similarity"], abs=1e-6)

    def test_undefined_metrics_of_a_step_are_nan(self) -> None:
        student, teacher, target = logits()
        same = measured(student, student.detach().clone(), target)
        assert math.isnan(same["grad/covariance"])
        assert math.isnan(same["grad/similarity"])
        params = {"ramp_start": 0, "ramp_epochs": 10}
        batch = Rows(student, teacher, target)
        off = numbers(measure_gradients(build_loss(MethodRef(name="dkd", params=params))(batch, 0), batch))
        assert math.isnan(off["grad/skipped"])  # the ramp is at 0, so the gradients are, whatever the samples

    def test_logit_norms_equal_their_definition(self) -> None:
        student = torch.tensor([[3.0, 4.0, -12.0], [-1.0, 0.0, 2.0]])
        metrics = measured(student, 2 * student, torch.tensor([1, 0]))
        assert metrics["logits/student_target"] == pytest.approx((4 + 1) / 2)
        assert metrics["logits/student_others"] == pytest.approx((math.hypot(3, 12) + 2) / 2)
        assert metrics["logits/teacher_target"] == pytest.approx(4 + 1)
        assert metrics["logits/teacher_others"] == pytest.approx(math.hypot(3, 12) + 2)

    def test_only_student_logits_are_measured_without_a_teacher(self) -> None:
        student, _, target = logits()
        assert set(measured(student, None, target, "ce")) == {"logits/student_target", "logits/student_others"}

    @pytest.mark.parametrize("name", ["kd", "dkd", "dkd_align"])
    def test_metrics_do_not_depend_on_batch_size_and_order(self, name: str) -> None:
        student, teacher, target = logits()
        once = measured(student, teacher, target, name)
        order = torch.randperm(80, generator=torch.Generator().manual_seed(1)) % 40
        twice = measured(student.detach()[order], teacher[order], target[order], name)
        assert twice == pytest.approx(once, rel=1e-4, abs=1e-6)
        assert set(once) <= set(METRICS)


class TestAccuracy:
    def test_top_accuracies_equal_a_sort(self) -> None:
        scores, _, labels = logits(200, 12)
        order = scores.numpy().argsort(1)[:, ::-1]
        hits = order == labels.numpy()[:, None]
        metrics = numbers(top_accuracies(scores, labels))
        assert metrics == pytest.approx({"top1": 100 * hits[:, 0].mean(), "top5": 100 * hits[:, :5].any(1).mean()})
        assert metrics["top1"] < metrics["top5"] < 100

    def test_top_5_is_100_for_five_classes_or_fewer(self) -> None:
        scores, _, labels = logits(50, 4)
        assert float(top_accuracies(scores, labels)["top5"]) == 100


class TestFidelity:
    def test_fidelity_equals_a_numpy_reference(self) -> None:
        student, teacher, labels = logits(300)
        p, q = (np.exp(x - x.max(1, keepdims=True)) for x in (student.numpy(), teacher.numpy()))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        kl = (q * np.log(q / p)).sum(1)
        same = 100.0 * (p.argmax(1) == q.argmax(1))
        right = q.argmax(1) == labels.numpy()
        assert numbers(fidelity(student, teacher, labels)) == pytest.approx(
            {
                "fidelity/agreement": same.mean(),
                "fidelity/agreement_right": same[right].mean(),
                "fidelity/agreement_wrong": same[~right].mean(),
                "fidelity/kl": kl.mean(),
                "fidelity/kl_right": kl[right].mean(),
                "fidelity/kl_wrong": kl[~right].mean(),
                "fidelity/images_right": right.sum(),
                "fidelity/images_wrong": (~right).sum(),
            },
            rel=1e-4,
        )

    def test_copy_of_a_teacher_without_errors(self) -> None:
        teacher = 200 * F.one_hot(torch.arange(6), 6).float()  # saturated: q underflows to 0 in float32
        metrics = to_floats(fidelity(teacher, teacher, torch.arange(6)), may_miss={"fidelity/kl_wrong"})
        assert "fidelity/kl_wrong" not in metrics
        assert math.isnan(metrics["fidelity/agreement_wrong"])
        assert (metrics["fidelity/agreement"], metrics["fidelity/kl"], metrics["fidelity/kl_right"]) == (100, 0, 0)

    def test_kl_is_finite_if_the_student_is_certain_of_another_class(self) -> None:
        teacher = 200 * F.one_hot(torch.arange(6), 6).float()
        metrics = numbers(fidelity(teacher.flip(0), teacher, torch.arange(6)))
        assert metrics["fidelity/kl"] == pytest.approx(200)
        assert metrics["fidelity/agreement"] == 0


class TestCalibration:
    def test_ece_equals_a_loop_over_bins(self) -> None:
        scores, _, labels = logits(500, 5)
        probabilities = F.softmax(scores.double(), 1).numpy()
        modest = torch.from_numpy(probabilities.max(1) < 0.7)  # too sure above, too modest below: bins do not add up
        labels = torch.where(modest, scores.argmax(1), labels)
        confidence, hit = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
        expected = 0.0
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            if inside.any():
                expected += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
        assert float(expected_calibration_error(scores, labels)) == pytest.approx(100 * expected, rel=1e-9)

    def test_ece_of_a_calibrated_network_is_zero(self) -> None:
        # Confidence 0.75 and three of four right: calibrated. All right: 25 points too modest. All wrong: 75 too sure.
        scores = torch.tensor([[0.75, 0.25]]).log().expand(4, 2)
        for labels, error in (([0, 0, 0, 1], 0), ([0, 0, 0, 0], 25), ([1, 1, 1, 1], 75)):
            assert float(expected_calibration_error(scores, torch.tensor(labels))) == pytest.approx(error, abs=1e-5)

    def test_nll_is_the_mean_negative_log_probability(self) -> None:
        scores = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
        loss = negative_log_likelihood(scores, torch.tensor([0, 1]))
        assert float(loss) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


class Lookup(nn.Module):
    """A network with known predictions: the byte of the first pixel gives the class (8·c + 4 is class c)."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.mean, self.std = dataset.mean[0], dataset.std[0]

    def forward(self, images: Tensor) -> Tensor:
        pixel = (images[:, 0, 0, 0] * self.std + self.mean) * 255
        return F.one_hot((pixel / 8).long().clamp(0, 3), 4).float()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    params = {"num_classes": 6, "image_size": 8, "train_size": 120, "test_size": 90}
    return load(DatasetRef(name="synthetic", params=params), TrainingSettings.from_environment())


@pytest.fixture(scope="module")
def network(dataset: Dataset) -> models.Network:
    torch.manual_seed(0)
    return models.build("small_cnn", num_classes=6, image_size=8, width=4)


@pytest.fixture(scope="module")
def other(dataset: Dataset) -> models.Network:
    torch.manual_seed(1)
    return models.build("small_cnn", num_classes=6, image_size=8, width=4)


class TestRobustness:
    def test_accuracies_and_drops_of_student_and_teacher(
        self, dataset: Dataset, network: models.Network, other: models.Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("core.tasks.classification.diagnostics.inference._BATCH", 40)
        metrics = robustness(network, other, dataset, dataset.test)
        assert set(metrics) == {name for name in METRICS if name.startswith("robustness/") and "stylised" not in name}
        for who, model in (("", network), ("_teacher", other)):
            clean = float(
                (predict_logits(model, dataset, dataset.test).argmax(1) == dataset.test.labels).double().mean()
            )
            for kind, perturb in perturbations().items():
                images = perturb(dataset.test.images, np.arange(90), 0)
                with eval_mode(model):
                    hits = model(dataset.normalise(images)).argmax(1) == dataset.test.labels
                accuracy = 100 * float(hits.double().mean())
                assert metrics[f"robustness/{kind}{who}"] == pytest.approx(accuracy)
                assert metrics[f"robustness/{kind}{who}_drop"] == pytest.approx(100 * clean - accuracy)

    def test_only_the_student_is_measured_without_a_teacher(self, dataset: Dataset, network: models.Network) -> None:
        assert not [name for name in robustness(network, None, dataset, dataset.test) if "teacher" in name]

    def test_stylised_folder_is_measured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        test = Split(
            torch.full((4, 1, 8, 8), 4, dtype=torch.uint8) + 8 * torch.arange(4).view(-1, 1, 1, 1).byte(),
            torch.arange(4),
        )
        dataset = load(
            DatasetRef(name="synthetic", params={"num_classes": 4, "channels": 1, "image_size": 8}),
            TrainingSettings.from_environment(),
        )
        dataset = Dataset(dataset.train, test, 4, dataset.mean, dataset.std, dataset.augmentation)
        for label, name in enumerate(("ape", "bee", "cat", "dog")):
            (tmp_path / name).mkdir()
            for number in range(2):  # the second of each is painted as the next class
                grey = 8 * ((label + number) % 4) + 4
                Image.new("RGB", (24, 16), (grey, grey, grey)).save(tmp_path / name / f"{number}.png")
            (tmp_path / name / "notes.txt").write_text("no image")
            (tmp_path / name / "._0.png").write_bytes(b"what macOS leaves beside 0.png")
        (tmp_path / ".thumbnails").mkdir()
        (tmp_path / "labels.csv").write_text("no folder")
        stylised = read_stylised(tmp_path, dataset, tmp_path / "unused")
        assert stylised.images.shape == (8, 1, 8, 8)
        model = Lookup(dataset)
        assert stylised_accuracy(model, None, dataset, stylised) == pytest.approx(
            {"robustness/stylised": 50, "robustness/stylised_drop": 50}
        )
        both = stylised_accuracy(model, model, dataset, stylised)
        assert both["robustness/stylised_teacher_drop"] == pytest.approx(50)
        # Many images lie in a file that has no name, so nothing of it is left.
        scratch = tmp_path / "packs"
        monkeypatch.setattr(robustness_module, "_IN_MEMORY", 0)
        (tmp_path / "packs").write_text("a file where the folder should be")
        with pytest.raises(OSError, match="packs"):
            read_stylised(tmp_path, dataset, scratch)
        (tmp_path / "packs").unlink()
        scratch = tmp_path.with_name(f"{tmp_path.name}-packs")
        mapped = read_stylised(tmp_path, dataset, scratch)
        assert torch.equal(mapped.images, stylised.images)
        assert stylised_accuracy(model, None, dataset, mapped)["robustness/stylised"] == 50
        assert list(scratch.iterdir()) == []

    def test_invalid_stylised_folder_is_explained(self, tmp_path: Path, dataset: Dataset) -> None:
        scratch = tmp_path / "unused"
        with pytest.raises(ValueError, match="not a folder"):
            read_stylised(tmp_path / "missing", dataset, scratch)
        with pytest.raises(ValueError, match="0 class folders; a class folder is needed for each of the 6"):
            read_stylised(tmp_path, dataset, scratch)
        for label in range(6):
            (tmp_path / str(label)).mkdir()
        with pytest.raises(ValueError, match="no images"):
            read_stylised(tmp_path, dataset, scratch)
        (tmp_path / "3" / "broken.png").write_bytes(b"\x89PNG\r\n")
        with pytest.raises(ValueError, match=r"3/broken\.png cannot be read"):
            read_stylised(tmp_path, dataset, scratch)
        # A header that promises 400 million pixels: Pillow raises something that is no OSError.
        (tmp_path / "3" / "broken.png").unlink()
        png = io.BytesIO()
        Image.new("L", (8, 8)).save(png, "PNG")
        header = b"IHDR" + (20_000).to_bytes(4) * 2 + png.getvalue()[24:29]
        image = png.getvalue()[:12] + header + zlib.crc32(header).to_bytes(4) + png.getvalue()[33:]
        (tmp_path / "3" / "other.png").write_bytes(image)
        with pytest.raises(ValueError, match=r"3/other\.png cannot be read"):
            read_stylised(tmp_path, dataset, scratch)


class TestReport:
    def test_epoch_report_with_teacher_and_validation_split(
        self, network: models.Network, other: models.Network
    ) -> None:
        params = {"num_classes": 6, "image_size": 8, "train_size": 120, "test_size": 90, "val_fraction": 0.25}
        dataset = load(DatasetRef(name="synthetic", params=params), TrainingSettings.from_environment())
        metrics = epoch_report(network, dataset, predict_logits(other, dataset, dataset.test))
        assert set(metrics) <= set(METRICS)
        assert {name.partition("/")[0] for name in metrics} == {"test", "val", "calibration", "fidelity"}
        assert dataset.val
        scores = predict_logits(network, dataset, dataset.val)
        assert metrics["val/loss"] == pytest.approx(float(F.cross_entropy(scores, dataset.val.labels)))
        assert metrics["val/top1"] == pytest.approx(
            100 * float((scores.argmax(1) == dataset.val.labels).float().mean())
        )

    def test_epoch_report_without_teacher_has_no_fidelity(self, dataset: Dataset, network: models.Network) -> None:
        assert set(epoch_report(network, dataset)) == {"test/top1", "test/top5", "test/loss", "calibration/ece"}

    def test_final_report_measures_collapse_on_training_images(self, dataset: Dataset, network: models.Network) -> None:
        metrics = final_report(network, None, dataset)
        with eval_mode(network):
            features = network.features(dataset.normalise(dataset.train.images))
            classes = network(dataset.normalise(dataset.train.images)).argmax(1)
        expected = neural_collapse(Features(features, classes, dataset.train.labels), network.linear.weight)
        assert metrics == pytest.approx(numbers(expected) | {"collapse/images": len(dataset.train)})
        assert set(metrics) == {name for name in METRICS if name.startswith("collapse/")}

    def test_robustness_is_measured_on_request(self, dataset: Dataset, network: models.Network) -> None:
        perturbed = RobustnessInputs(test_images=True, stylised=dataset.test)
        metrics = final_report(network, network, dataset, perturbed)
        assert {name for name in METRICS if name.startswith(("robustness/", "collapse/"))} == set(metrics)
        assert metrics["robustness/stylised_drop"] == 0

    def test_fixed_subset_of_many_training_images_is_used(
        self, dataset: Dataset, network: models.Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complete = collapse_report(network, dataset)
        monkeypatch.setattr("core.tasks.classification.diagnostics.report._FEATURE_IMAGES", 60)
        part = collapse_report(network, dataset)
        assert part == collapse_report(network, dataset)
        assert part != complete

    def test_reports_do_not_change_the_network(self, dataset: Dataset, network: models.Network) -> None:
        network.train()
        frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
        frozen.eval()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        modes = [module.training for module in network.modules()]
        epoch_report(network, dataset)
        final_report(network, network, dataset, RobustnessInputs(test_images=True))
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        frozen.train()

    def test_diverged_network_is_reported_without_error(self, dataset: Dataset, network: models.Network) -> None:
        class Diverged(nn.Module):
            linear = network.linear

            def features(self, images: Tensor) -> Tensor:
                return torch.full((len(images), 8), math.nan)

            def forward(self, images: Tensor) -> Tensor:
                return torch.full((len(images), 6), math.nan)

        metrics = epoch_report(Diverged(), dataset, predict_logits(network, dataset, dataset.test))
        assert math.isnan(metrics["test/loss"])
        assert math.isnan(metrics["calibration/ece"])
        assert math.isnan(final_report(Diverged(), None, dataset)["collapse/nc1"])  # type: ignore[arg-type]


class TestMeans:
    def test_weighted_means_with_and_without_nan(self) -> None:
        means = RunningMeans()
        for value, weight in ((1.0, 3.0), (math.nan, 5.0), (5.0, 1.0)):
            means.add({"skips": torch.tensor(value), "b": torch.tensor(2 * value).double()}, weight, skip_nan=True)
            means.add({"keeps": torch.tensor(value)}, weight)
        means.add({"never": torch.tensor(math.nan)}, 1.0, skip_nan=True)
        metrics = means.read()
        assert math.isnan(metrics.pop("keeps"))
        assert metrics == {"skips": 2, "b": 4}

    def test_means_of_names_that_are_not_in_every_step_survive_a_restart(self) -> None:
        def add(means: RunningMeans, part: int) -> None:
            means.add(
                {"a": torch.tensor(float(part)), "b": torch.tensor(1.0)} if part % 2 else {"a": torch.tensor(2.0)}, 2.0
            )

        complete = RunningMeans()
        for part in range(6):
            add(complete, part)
        first = RunningMeans()
        for part in range(3):
            add(first, part)
        second = RunningMeans(first.state())
        for part in range(3, 6):
            add(second, part)
        assert second.read() == complete.read() == {"a": (1 + 3 + 5 + 2 + 2 + 2) / 6, "b": 1}


class TestTraining:
    def plan(self, **training: object) -> list[PlannedRun]:
        return parse_experiment(
            {
                "name": "diagnostics",
                "dataset": {
                    "name": "synthetic",
                    "params": {"num_classes": 6, "image_size": 8, "train_size": 60, "test_size": 40},
                },
                "teacher": {"model": "small_cnn"},
                "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
                "methods": ["dkd"],
                "seeds": [0],
                "training": {"epochs": 2, "batch_size": 32} | training,
            }
        ).plan()

    def test_last_epoch_reports_collapse_and_robustness_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATA_DIR", str(tmp_path))
        for label in range(6):
            (tmp_path / "styled" / str(label)).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "styled" / str(label) / "0.png")
        teacher, student = self.plan(robustness=True, stylised="styled")
        assert run_training(teacher.spec, tmp_path / "teacher") == "finished"
        source = TeacherSource(teacher.spec, tmp_path / "teacher" / "weights.safetensors")
        assert run_training(student.spec, tmp_path / "student", source) == "finished"
        events = [record.event for record in read_journal(tmp_path / "student" / JOURNAL_NAME)]
        first, last = (event.values for event in events if isinstance(event, Metrics))
        at_the_end = {name for name in METRICS if name.startswith(("collapse/", "robustness/"))}
        assert {name for name in set(last) - set(first) if not name.startswith("machine/")} == at_the_end
        assert set(last) <= set(METRICS)
        assert {"train/top5", "test/top5", "grad/covariance", "logits/teacher_others", "fidelity/kl"} <= set(first)
        assert last["robustness/stylised"] == pytest.approx(100 / 6)  # six black images, one class

    def test_missing_stylised_folder_fails_before_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATA_DIR", str(tmp_path))
        (teacher,) = (planned for planned in self.plan() if planned.spec.role == "teacher")
        spec = teacher.spec.model_copy(update={"training": teacher.spec.training.model_copy(update={"stylised": "no"})})
        assert run_training(spec, tmp_path / "out") == "failed"
        *_, failed = (record.event for record in read_journal(tmp_path / "out" / JOURNAL_NAME))
        assert isinstance(failed, Failed)
        assert failed.kind == "spec"
        assert "stylised" in failed.reason

    def test_test_settings_of_students_do_not_change_the_teacher(self) -> None:
        plain, tested = self.plan(), self.plan(robustness=True, stylised="styled")
        assert plain[0].spec.fingerprint() == tested[0].spec.fingerprint()
        assert plain[1].spec.fingerprint() != tested[1].spec.fingerprint()
        assert plain[1].spec.fingerprint() == self.plan(robustness=False, stylised="")[1].spec.fingerprint()
