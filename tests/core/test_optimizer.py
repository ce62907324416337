"""Optimisers by name with their parameters, and gradient descent with a momentum for each term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.catalog import OPTIMIZERS
from core.specs import Optimizer
from core.train.optimizer import build_optimizer
from core.train.term_momentum import TermMomentum


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


class TestBuiltFromTheCatalog:
    @pytest.mark.parametrize("name", [entry.name for entry in OPTIMIZERS])
    def test_optimizer_lowers_a_loss(self, name: str) -> None:
        model = network()
        optimizer = build_optimizer(model, Optimizer(name=name), fused=True)
        inputs, target = torch.randn(16, 1, 8, 8).double(), torch.arange(16) % 3
        losses = []
        for _ in range(30):
            loss = nn.functional.cross_entropy(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize(
        ("spec", "kind", "expected"),
        [
            ({}, "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "dampening": 0}),
            ({"nesterov": True, "momentum": 0.8}, "SGD", {"nesterov": True, "momentum": 0.8}),
            ({"name": "adamw"}, "AdamW", {"lr": 0.05, "weight_decay": 5e-4, "betas": (0.9, 0.999), "eps": 1e-8}),
            (
                {"name": "adam", "params": {"beta1": 0.8, "amsgrad": True}},
                "Adam",
                {"lr": 1e-3, "weight_decay": 0.0, "betas": (0.8, 0.999), "amsgrad": True},
            ),
            ({"name": "rmsprop", "params": {"momentum": 0.5, "centered": True}}, "RMSprop", {"momentum": 0.5}),
            ({"name": "adafactor", "params": {"beta2_decay": -0.5}}, "Adafactor", {"beta2_decay": -0.5, "d": 1.0}),
        ],
    )
    def test_optimizer_gets_the_parameters_of_the_spec(
        self, spec: dict[str, Any], kind: str, expected: dict[str, Any]
    ) -> None:
        optimizer = build_optimizer(network(), Optimizer(**spec))
        assert type(optimizer) is getattr(torch.optim, kind)
        assert {name: optimizer.param_groups[0][name] for name in expected} == expected

    @pytest.mark.parametrize("name", [entry.name for entry in OPTIMIZERS if entry.name != "adafactor"])
    def test_defaults_of_the_catalog_equal_those_of_torch(self, name: str) -> None:
        entry = OPTIMIZERS[name]
        theirs = entry.load()(network().parameters()).defaults
        for parameter, value in entry.params().arguments().items():
            assert theirs[parameter] == value, parameter


def random_gradients(parameters: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in ((3, 4), (5,))]


def dot_momenta(momentum: float, delta: float) -> dict[str, float]:
    """Return the momenta of DOT."""
    return {"task": momentum - delta, "distillation": momentum + delta}


class TestTermMomentum:
    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_term_momentum_of_one_term_equals_sgd_bit_for_bit(self, nesterov: bool, dtype: torch.dtype) -> None:
        ours, theirs = parameters(dtype), parameters(dtype)
        one = TermMomentum(ours, 0.1, {"task": 0.9}, weight_decay=0.01, nesterov=nesterov)
        sgd = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
        for seed in range(6):
            gradients = random_gradients(ours, seed)
            one.step({"task": gradients})
            for parameter, gradient in zip(theirs, gradients, strict=True):
                parameter.grad = gradient.clone()
            sgd.step()
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_term_momentum_with_equal_momenta_equals_sgd_of_the_sum(self, nesterov: bool) -> None:
        ours, theirs = parameters(), parameters()
        dot = TermMomentum(ours, 0.1, dot_momenta(0.9, 0.0), weight_decay=0.01, nesterov=nesterov)
        sgd = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
        for seed in range(20):
            task, distillation = random_gradients(ours, seed), random_gradients(ours, 100 + seed)
            dot.step({"task": task, "distillation": distillation})
            for parameter, a, b in zip(theirs, task, distillation, strict=True):
                parameter.grad = a + b
            sgd.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_dot_equals_its_formula(self) -> None:
        """Zhao et al. 2023: v_task ← (μ − Δ)·v_task + g_task, v_kd ← (μ + Δ)·v_kd + g_kd, θ ← θ − γ·(v_task + v_kd)."""
        ours = parameters()
        theta = [parameter.detach().clone().numpy() for parameter in ours]
        buffers = {name: [0.0 * array for array in theta] for name in ("task", "distillation")}
        optimizer = TermMomentum(ours, 0.1, dot_momenta(0.9, 0.075), weight_decay=0.02)
        for seed in range(15):
            gradients = {"task": random_gradients(ours, seed), "distillation": random_gradients(ours, 100 + seed)}
            optimizer.step(gradients)
            for index, array in enumerate(theta):
                task = gradients["task"][index].numpy() + 0.02 * array
                buffers["task"][index] = (0.9 - 0.075) * buffers["task"][index] + task
                kd = gradients["distillation"][index].numpy()
                buffers["distillation"][index] = (0.9 + 0.075) * buffers["distillation"][index] + kd
                theta[index] = array - 0.1 * (buffers["task"][index] + buffers["distillation"][index])
        for parameter, array in zip(ours, theta, strict=True):
            torch.testing.assert_close(parameter.detach(), torch.from_numpy(array), rtol=0, atol=1e-12)

    def test_term_momentum_continues_from_its_state_dict(self) -> None:
        momenta = {"task": 0.9, "target": 0.85, "others": 0.0}

        def steps(optimizer: TermMomentum, seeds: range) -> None:
            for seed in seeds:
                optimizer.step(
                    {name: random_gradients(optimizer.parameters, 10 * seed + k) for k, name in enumerate(momenta)}
                )

        uninterrupted = TermMomentum(parameters(), 0.1, momenta)
        steps(uninterrupted, range(6))
        first = TermMomentum(parameters(), 0.1, momenta)
        steps(first, range(3))
        resumed = TermMomentum([p.detach().clone().requires_grad_() for p in first.parameters], 0.1, momenta)
        resumed.load_state_dict(first.state_dict())
        steps(resumed, range(3, 6))
        assert all(torch.equal(a, b) for a, b in zip(resumed.parameters, uninterrupted.parameters, strict=True))
        assert len(first.state_dict()["state"][0]) == 2, "no buffer without a momentum"

    def test_term_may_have_no_gradient_for_a_parameter(self) -> None:
        ours = parameters()
        before = [parameter.detach().clone() for parameter in ours]
        optimizer = TermMomentum(ours, 0.1, {"task": 0.9, "distillation": 0.9})
        first, second = random_gradients(ours, 0)
        optimizer.step({"task": [first, None], "distillation": [None, None]})
        assert torch.equal(ours[1], before[1])
        torch.testing.assert_close(ours[0].detach(), before[0] - 0.1 * first)
        optimizer.step({"task": [first, second], "distillation": [None, None]})
        torch.testing.assert_close(ours[1].detach(), before[1] - 0.1 * second)

    @pytest.mark.parametrize(
        ("gradients", "words"),
        [
            ({"task": 2}, "'distillation' has no gradient"),
            ({"task": 2, "distillation": 2, "more": 2}, "'more' has no momentum"),
            ({"task": 2, "distillation": 1}, "'distillation' has 1 gradients for 2 parameters"),
        ],
    )
    def test_gradients_that_do_not_match_the_terms_are_refused(self, gradients: dict[str, int], words: str) -> None:
        optimizer = TermMomentum(parameters(), 0.1, dot_momenta(0.9, 0.05))
        with pytest.raises(ValueError, match=words):
            optimizer.step(
                {name: random_gradients(optimizer.parameters, 0)[:count] for name, count in gradients.items()}
            )

    def test_weight_decay_is_counted_once_by_the_first_term_that_reaches_a_parameter(self) -> None:
        ours = parameters()
        before = [parameter.detach().clone() for parameter in ours]
        optimizer = TermMomentum(ours, 0.1, {"task": 0.5, "distillation": 0.9}, weight_decay=0.2)
        first, second = random_gradients(ours, 0)
        optimizer.step({"task": [first, None], "distillation": [first, second]})
        torch.testing.assert_close(ours[0].detach(), before[0] - 0.1 * (2 * first + 0.2 * before[0]))
        torch.testing.assert_close(ours[1].detach(), before[1] - 0.1 * (second + 0.2 * before[1]))
        decayed = optimizer.state[ours[1]]["momentum_buffer/distillation"]
        torch.testing.assert_close(decayed, second + 0.2 * before[1])

    def test_momenta_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match="in \\[0, 1\\)"):
            TermMomentum(parameters(), 0.1, {"task": 1.0})
        with pytest.raises(ValueError, match="at least one term"):
            TermMomentum(parameters(), 0.1, {})
