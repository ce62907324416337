"""Terms that pass back through the network one by one: their shares, in whole and in divided batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from core.catalog.taps import STRONG_LOGITS, Taps
from core.distill.objective import Objective, Outputs, Step
from core.distill.terms import LossTerms, label_term, with_gradient
from core.launch import RankInfo
from core.tasks.classification.data import Batch
from core.tasks.classification.models.taps import Tapped
from core.train.rank_loss import average_gradients
from core.train.ranks import SINGLE_PROCESS, Ranks
from core.train.termwise import Termwise, TermwiseStep
from tests.core.task_of import task_of
from tests.core.test_accumulation import SIZE, network, problem
from tests.services import free_port

SHARES = {"hint": 0.3, "gram": 0.2}


class Three(Objective):
    """CE, the square of the scaled first map, and the Gram matrix of the last one: a term for each kind of scope."""

    taps = Taps(student=("1", "2"))

    def __init__(self, scope: Any = "batch", shares: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.scope, self.shares = scope, shares or {}

    def forward(self, step: Step) -> LossTerms:
        rows, (first, last) = step.rows, step.student.taps.values()
        ce = label_term(rows)
        hint = rows.weigh((self.scale * first).square().flatten(1).sum(1)).mean()
        if self.scope == "batch":
            flat = rows.weigh(last.flatten(1))
            gram = (flat @ flat.T).square().mean()
        else:
            gram = rows.weigh(last.flatten(1).square().sum(1)).mean()
        parts = {"ce": with_gradient(rows.student, ce.value, ce.gradient), "hint": hint, "gram": 5 * gram}
        return LossTerms(torch.stack(list(parts.values())).sum(), {"ce": ce.value}, parts=parts)


def deep() -> nn.Sequential:
    torch.manual_seed(3)
    layers = network(nn.Conv2d(3, 3, 1))
    assert isinstance(layers, nn.Sequential)
    return layers


def tapped(model: nn.Module) -> Tapped:
    return Tapped(model, ("1", "2"))


def step_of(
    model: nn.Module,
    objective: Objective,
    *,
    wrapped: nn.Module | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    groups: Mapping[str, str] | None = None,
) -> Termwise:
    task, called = task_of(), wrapped or tapped(model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def forward(batch: Any) -> Outputs:
        layers = set(objective.taps.student) - {STRONG_LOGITS}
        return task.forward(called, batch, objective.student_outputs, first_tap=bool(layers))

    return Termwise(task, model, objective, ranks, forward, called, scaler, groups or {})


def expected(model: nn.Sequential, objective: Objective, batch: Batch, teacher: Outputs) -> dict[str, Any]:
    """The same by plain autograd on the whole batch, from the definition of a share."""
    first = model[:2](batch.images)
    last = model[2](first)
    logits = model[3:](last)
    taps = {"1": first.float(), "2": last.float()}  # as the task gives them
    step = task_of().step(Outputs(logits, taps), teacher, batch, 2)
    parts = objective(step).parts
    norms = {name: torch.autograd.grad(part, first, retain_graph=True)[0].norm().item() for name, part in parts.items()}
    shares = dict(objective.shares)
    total = sum(norm for name, norm in norms.items() if name not in shares) / (1 - sum(shares.values()))
    factors = {name: share * total / norms[name] for name, share in shares.items()}
    weighted = {name: factors.get(name, 1.0) * part for name, part in parts.items()}
    parameters = [*model.parameters(), *objective.parameters()]
    gradients = {
        name: torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
        for name, part in weighted.items()
    }
    norms = {name: norm * factors.get(name, 1.0) for name, norm in norms.items()}
    return {
        "total": sum(part.item() for part in weighted.values()),
        "factors": factors,
        "shares": {f"grad/share_{name}": 100 * norm / sum(norms.values()) for name, norm in norms.items()},
        "gradients": gradients,
    }


def compare(actual: Sequence[Tensor | None], wanted: dict[str, Any], terms: Sequence[str] | None = None) -> None:
    """Compare gradients with the sum over terms of those of plain autograd; None is zero."""
    chosen = [wanted["gradients"][name] for name in (terms or wanted["gradients"])]
    for ours, *theirs in zip(actual, *chosen, strict=False):
        found = [gradient for gradient in theirs if gradient is not None]
        if ours is None:
            assert not found
        else:
            gradient = torch.stack(found).sum(0) if found else torch.zeros_like(ours)
            torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6)


def check(step: TermwiseStep, wanted: dict[str, Any]) -> None:
    assert step.loss.terms.total.item() == pytest.approx(wanted["total"], rel=1e-6)
    reported = {name: value.item() for name, value in step.loss.terms.values.items() if name.startswith("weight_")}
    assert reported == pytest.approx({f"weight_{name}": value for name, value in wanted["factors"].items()}, rel=1e-6)
    assert {name: value.item() for name, value in step.metrics.items()} == pytest.approx(wanted["shares"], rel=1e-6)


@pytest.mark.parametrize("shares", [{}, SHARES])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_shares_are_those_of_the_whole_batch(shares: dict[str, float], mixed: bool, count: int) -> None:
    batch, teacher = problem(mixed)
    model, objective = deep(), Three(shares=shares)
    wanted = expected(model, objective, batch, teacher)
    step = step_of(model, objective).backward(batch, count, teacher, 2, measure=True)
    check(step, wanted)
    for name, share in shares.items():
        assert wanted["shares"][f"grad/share_{name}"] == pytest.approx(100 * share)
    compare([parameter.grad for parameter in (*model.parameters(), *objective.parameters())], wanted)


@pytest.mark.parametrize("count", [1, 3])
def test_groups_of_terms_have_gradients_of_their_own(count: int) -> None:
    batch, teacher = problem()
    model, objective = deep(), Three(shares={"gram": 0.2})
    wanted = expected(model, objective, batch, teacher)
    groups = {"ce": "ce", "hint": "rest", "gram": "rest"}
    step = step_of(model, objective, groups=groups).backward(batch, count, teacher, 2, measure=True)
    check(step, wanted)
    own = len(list(model.parameters()))
    assert step.gradients["ce"][own] is None, "cross-entropy does not reach the method's parameter"
    for name, terms in (("ce", ["ce"]), ("rest", ["hint", "gram"])):
        compare(step.gradients[name], wanted, terms)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("count", [1, 3])
def test_gradient_at_the_logits_of_a_second_view_counts(count: int) -> None:
    class Views(Objective):
        taps = Taps(student=(STRONG_LOGITS,))
        shares: Mapping[str, float] = {"apart": 0.4}

        def forward(self, step: Step) -> LossTerms:
            ce = label_term(step.rows)
            apart = (step.rows.student - step.student.taps[STRONG_LOGITS]).square().mean()
            parts = {"ce": with_gradient(step.rows.student, ce.value, ce.gradient), "apart": apart}
            return LossTerms(ce.value + apart, {"ce": ce.value}, parts=parts)

    batch, teacher = problem()
    batch = replace(batch, strong=batch.images.flip(3))
    model, objective = deep(), Views()
    step = step_of(model, objective, wrapped=Tapped(model, (STRONG_LOGITS,)))
    found = step.backward(batch, count, teacher, 2, measure=True)
    views = [model(images).detach().requires_grad_() for images in (batch.images, batch.strong)]
    ce = nn.functional.cross_entropy(views[0], batch.labels)
    apart = (views[0] - views[1]).square().mean()
    (at_ce,) = torch.autograd.grad(ce, views[0])
    at_apart = torch.cat(torch.autograd.grad(apart, views))
    factor = 0.4 / 0.6 * float(at_ce.norm() / at_apart.norm())
    assert float(found.loss.terms.values["weight_apart"]) == pytest.approx(factor, rel=1e-6)
    assert float(found.metrics["grad/share_apart"]) == pytest.approx(40.0, rel=1e-6)


def test_term_that_does_not_reach_the_network_has_no_share() -> None:
    class Constant(Three):
        def forward(self, step: Step) -> LossTerms:
            terms = super().forward(step)
            return LossTerms(terms.total, terms.values, parts={**terms.parts, "gram": terms.total.detach()})

    batch, teacher = problem()
    model, objective = deep(), Constant(shares={"gram": 0.5})
    step = step_of(model, objective).backward(batch, 1, teacher, 2, measure=True)
    assert step.loss.terms.values["weight_gram"] == 0
    assert step.metrics["grad/share_gram"] == 0


def test_passes_draw_the_same_dropout_and_count_each_micro_batch_once() -> None:
    batch, teacher = problem()
    layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)).double()
    model, seen = network(layers), []
    recording = model.register_forward_hook(lambda *parts: seen.append(parts[2].detach()))
    step_of(model, Three(shares=SHARES)).backward(batch, 4, teacher, 0, measure=True)
    recording.remove()
    first, second, third = (torch.cat(seen[start : start + 4]) for start in (0, 4, 8))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert len(seen) == 12, "outputs for the loss, then norms, then the gradient"
    norm = layers[1]
    assert norm.num_batches_tracked == 4


def _rank(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results: dict[Any, Any] = {}
    for scope, mixed, count, grouped in itertools.product(("row", "batch"), (False, True), (1, 3), (False, True)):
        batch, teacher = problem(mixed)
        part = slice(0, 6) if rank == 0 else slice(6, SIZE)
        model, objective = deep(), Three(scope, SHARES)
        parallel = nn.parallel.DistributedDataParallel(tapped(model))
        ranks = Ranks(RankInfo(rank, 2, Path(out)))
        groups = {"ce": "ce", "hint": "rest", "gram": "rest"} if grouped else {}
        steps = step_of(model, objective, wrapped=parallel, ranks=ranks, groups=groups)
        step = steps.backward(batch.part(part), count, Outputs(teacher.logits[part]), 2, measure=True)
        if scope == "row" and not grouped:
            average_gradients(objective, ranks)
        gradients = {name: list(parts) for name, parts in step.gradients.items()} or {
            "all": [parameter.grad for parameter in (*model.parameters(), *objective.parameters())]
        }
        scalars = {name: value.item() for name, value in {**step.metrics, **step.loss.terms.values}.items()}
        results[scope, mixed, count, grouped] = (step.loss.terms.total.item(), scalars, gradients)
    torch.save(results, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_shares_and_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(free_port(), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    for rank in range(2):
        for (scope, mixed, _, grouped), (total, scalars, gradients) in torch.load(tmp_path / f"rank{rank}.pt").items():
            batch, teacher = problem(mixed)
            wanted = expected(deep(), Three(scope, SHARES), batch, teacher)
            assert total == pytest.approx(wanted["total"], rel=1e-6), (scope, mixed, grouped)
            for name, value in wanted["shares"].items():
                assert scalars[name] == pytest.approx(value, rel=1e-6), name
            for name, terms in (("ce", ["ce"]), ("rest", ["hint", "gram"])) if grouped else (("all", None),):
                compare(gradients[name], wanted, terms)
