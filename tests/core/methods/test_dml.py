from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog.methods.dml import DMLParams
from core.distill.logits.dml import DML
from core.distill.objective import PEER, NetworkShape, Outputs, Setting, Step
from core.distill.rows import Rows
from core.events import JOURNAL_NAME, Metrics, Started, read_journal
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, ModelRef, SpecError, parse_experiment
from core.testing import MethodContract
from core.train import TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME, load_checkpoint

Array = NDArray[np.float64]


def dml(params: DMLParams, asked: list[ModelRef | None] | None = None) -> DML:
    def build(model: ModelRef | None) -> nn.Module:
        if asked is not None:
            asked.append(model)
        return nn.Linear(2, 2)

    return DML(params, Setting(NetworkShape(4), None, 8, build_network=build))


def logits(rows: int = 5, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one, two = 2 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return one.requires_grad_(), two.requires_grad_(), torch.randint(classes, (rows,), generator=generator)


def step(one: Tensor, two: Tensor, target: Tensor, weight: Tensor | None = None) -> Step:
    return Step(Rows(one, None, target, weight), Outputs(one, {PEER: two}))


def softmax(row: Array, temperature: float) -> Array:
    powers = np.exp(row / temperature - (row / temperature).max())
    result: Array = powers / powers.sum()
    return result


def oracle(own: Array, other: Array, target: Array, weights: list[float], params: DMLParams) -> float:
    """The loss of one network as a plain sum; the other network's logits are constants."""
    total = 0.0
    for row, weight in enumerate(weights):
        p, q = (softmax(values[row], params.temperature) for values in (own, other))
        divergence = sum(q_c * math.log(q_c / p_c) for q_c, p_c in zip(q, p, strict=True))
        loss = -params.ce_weight * math.log(softmax(own[row], 1.0)[target[row]])
        total += weight / sum(weights) * (loss + params.weight * params.temperature**2 * divergence)
    return total


@pytest.mark.parametrize("params", [DMLParams(), DMLParams(weight=0.5, ce_weight=0.3, temperature=3.0)])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5, 1.0]])
def test_both_losses_and_their_gradients_equal_a_slow_oracle(params: DMLParams, weights: list[float] | None) -> None:
    one, two, target = logits()
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    terms = dml(params)(step(one, two, target, weight))
    gradients = [gradient.numpy() for gradient in torch.autograd.grad(terms.total, (one, two))]
    values, each = [one.detach().numpy(), two.detach().numpy()], weights or [1.0] * len(target)
    losses = [oracle(values[i], values[1 - i], target.numpy(), each, params) for i in range(2)]
    assert float(terms.total.detach()) == pytest.approx(sum(losses), rel=1e-10)
    h = 1e-6
    for network, place in ((i, place) for i in range(2) for place in np.ndindex(*values[0].shape)):
        sides = []
        for move in (h, -h):
            moved = values[network].copy()
            moved[place] += move
            sides.append(oracle(moved, values[1 - network], target.numpy(), each, params))
        assert gradients[network][place] == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=1e-8)


def test_exchanging_the_networks_exchanges_their_terms() -> None:
    one, two, target = logits()
    terms, exchanged = (dml(DMLParams())(step(*pair, target)) for pair in ((one, two), (two, one)))
    for name in ("ce", "kl"):
        assert float(terms.values[name]) == float(exchanged.values[f"peer_{name}"])


def test_batch_of_one_and_equal_networks_are_finite() -> None:
    one, _, target = logits(1)
    terms = dml(DMLParams())(step(one, one.detach().clone().requires_grad_(), target))
    assert float(terms.values["kl"]) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(terms.total, one)[0].isfinite().all()


def test_16_bit_logits_are_near_those_in_float32() -> None:
    one, two, target = logits()
    totals = []
    for dtype in (torch.float32, torch.bfloat16):
        pair = [values.detach().to(dtype).requires_grad_() for values in (one, two)]
        totals.append(float(dml(DMLParams())(step(pair[0], pair[1], target)).total.detach()))
    assert totals[1] == pytest.approx(totals[0], rel=0.02)


def test_network_is_the_students_unless_another_is_named() -> None:
    asked: list[ModelRef | None] = []
    dml(DMLParams(), asked)
    dml(DMLParams(peer="small_cnn", peer_params={"width": 4}), asked)
    assert asked == [None, ModelRef(name="small_cnn", params={"width": 4})]


def experiment(params: dict[str, Any] | None = None, **training: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "mutual",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 96, "test_size": 40},
            },
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": ["ce", {"name": "dml", "params": params or {}}],
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": 32, "optimizer": {"lr": 0.05}} | training,
        }
    )


class TestTraining:
    def run(self, folder: Path, params: dict[str, Any] | None = None, **training: Any) -> list[Any]:
        spec = experiment(params, **training).plan()[-1].spec
        settings = TrainingSettings(cache_dir=folder / "cache", threads=1)
        assert run_training(spec, folder, settings=settings) == "finished"
        return [record.event for record in read_journal(folder / JOURNAL_NAME)]

    def test_both_networks_learn_and_the_second_is_tested_at_the_end(self, tmp_path: Path) -> None:
        events = self.run(tmp_path, {"peer": "resnet8"}, epochs=6, optimizer={"lr": 0.1})
        metrics = [event.values for event in events if isinstance(event, Metrics)]
        for name in ("train/ce", "train/peer_ce"):
            assert metrics[-1][name] < 0.9 * metrics[0][name]
        assert metrics[-1]["test/peer_top1"] > 40
        assert "test/peer_top1" not in metrics[0]
        (started,) = (event for event in events if isinstance(event, Started))
        assert int(started.environment["method_parameters"]) > 50_000  # resnet8

    def test_weights_of_the_two_networks_differ_at_the_start_and_the_students_are_those_of_ce(
        self, tmp_path: Path
    ) -> None:
        states = []
        for planned in experiment().plan():
            folder = tmp_path / planned.label
            options = TrainOptions(stop_requested=lambda: True)
            assert run_training(planned.spec, folder, options=options) == "stopped"
            states.append(load_checkpoint(folder / CHECKPOINT_NAME, planned.spec.fingerprint()))
        ce, mutual = states
        assert all(torch.equal(ce.model[name], mutual.model[name]) for name in ce.model)
        assert mutual.objective.keys() == {f"_peer.{name}" for name in ce.model}
        first = next(name for name in ce.model if name.endswith("weight"))
        assert not torch.equal(mutual.model[first], mutual.objective[f"_peer.{first}"])

    def test_batch_norm_of_both_is_frozen_and_labels_may_be_mixed(self, tmp_path: Path) -> None:
        params = {"peer": "resnet8"}
        self.run(tmp_path, params, freeze_batch_norm_after=1, augment=["standard", "mixup"], accumulate=2)


class TestBadInput:
    def problems(self, params: dict[str, Any]) -> dict[str, str]:
        with pytest.raises(SpecError) as refused:
            experiment(params)
        return {problem.path: problem.message for problem in refused.value.problems}

    def test_unknown_model_is_refused_with_the_path(self) -> None:
        found = self.problems({"peer": "resnet_8"})
        assert "unknown model 'resnet_8'; did you mean resnet8" in found["methods.1.params.peer"]

    def test_unknown_parameter_of_the_model_is_refused_with_the_path(self) -> None:
        assert "methods.1.params.peer_params.widht" in self.problems({"peer": "small_cnn", "peer_params": {"widht": 4}})

    def test_parameters_without_a_model_are_refused(self) -> None:
        assert "without peer" in self.problems({"peer_params": {"width": 4}})["methods.1.params.peer_params"]

    def test_model_that_cannot_read_the_images_is_refused(self) -> None:
        assert "at least 16 px" in self.problems({"peer": "mobilenet_v2_half"})["methods.1.params.peer"]


class TestDML(MethodContract):
    method: ClassVar[Any] = "dml"
    has_exact_gradient = False  # each network is a constant in the other's loss
