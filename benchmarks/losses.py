"""Duration of the losses, forward and backward, and of autograd's double backward; medians of alternating rounds.

With ``--paper-code DIR``, a checkout of the code of "Decoupled Gradient Knowledge Distillation" (2025), the function of
that code is timed too. It computes its diagnostics in every step, so ``dkd_align`` is also timed with diagnostics.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import machine
from core.distill.gradients import measure_gradients
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.specs import MethodRef

ROUNDS = 200
PAPER_NAME = "decoupled_gradient_distillation"  # the name of DKD-Align in the code of the paper
SHAPES = ((64, 100), (64, 300), (64, 1000), (128, 100), (256, 100), (512, 100), (512, 1000))


def double_backward(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Compute DKD-Align with autograd: both gradients with a graph, and their distance differentiated again."""
    temperature = 4.0
    hit = F.one_hot(target, student.shape[1]).bool()
    log_p, log_q = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    log_p_t, log_q_t = log_p[hit], log_q[hit]
    log_p_o, log_q_o = torch.log1p(-log_p_t.exp()), torch.log1p(-log_q_t.exp())
    tckd = temperature**2 * (log_q_t.exp() * (log_q_t - log_p_t) + log_q_o.exp() * (log_q_o - log_p_o)).sum()
    others_p = F.log_softmax((student / temperature)[~hit].view(len(student), -1), 1)
    others_q = F.log_softmax((teacher / temperature)[~hit].view(len(student), -1), 1)
    nckd = temperature**2 * (others_q.exp() * (others_q - others_p)).sum()
    (first,) = torch.autograd.grad(tckd, student, create_graph=True)
    (second,) = torch.autograd.grad(nckd, student, create_graph=True)
    distance = (first - second).square().mean()
    size = len(student)
    return F.cross_entropy(student, target) + tckd / size + 8 * nckd / size - 6 * distance


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def built(name: str, **params: Any) -> Loss:
    """Return a method as the engine calls it, with its parameters bound."""
    method = build_loss(MethodRef(name=name, params=params))
    return lambda *batch: method(Rows(*batch), None).total


def with_diagnostics() -> Loss:
    """Return DKD-Align as the engine calls it, with the diagnostics of its gradients."""
    method = build_loss(MethodRef(name="dkd_align", params={"reduction": "log", "epsilon": 6.0}))

    def loss(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        batch = Rows(student, teacher, target)
        terms = method(batch, None)
        measure_gradients(terms, batch)
        return terms.total

    return loss


def paper_loss(folder: Path) -> Loss:
    """Return the function of the paper's code, from a checkout, plus cross-entropy, as that code trains."""
    sys.path.insert(0, str(folder))
    function = importlib.import_module("distillation.utils").dkd_loss

    def loss(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        distilled: Tensor = function(student, teacher, target, 1.0, 8.0, 6.0, 4.0, PAPER_NAME)[0]
        return F.cross_entropy(student, target) + distilled

    return loss


def milliseconds(loss: Loss, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    """Return the duration of one forward and backward pass."""
    began = time.perf_counter()
    loss(*batch).backward()  # type: ignore[no-untyped-call]
    return (time.perf_counter() - began) * 1000


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--paper-code", "--author", dest="paper_code", type=Path, help="a checkout of the code of the DKD-Align paper"
    )
    options = parser.parse_args(arguments)
    losses: dict[str, Loss] = {
        "dkd": built("dkd"),
        "dkd_align": built("dkd_align", reduction="log", epsilon=6.0),
        "double backward": double_backward,
        "with diagnostics": with_diagnostics(),
    }
    if options.paper_code:
        losses["paper's code"] = paper_loss(options.paper_code)

    print(f"\nForward and backward at the logits, ms, median of {ROUNDS} in turn; {machine.describe()}")
    compared = ["dkd", *(["paper's code"] if options.paper_code else [])]
    print("| B | C | " + " | ".join([*losses, *(f"dkd_align / {name}" for name in compared)]) + " |")
    print("|---|---|" + "---|" * (len(losses) + len(compared)))
    for size, classes in SHAPES:
        random = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, size, classes, generator=random) * 3
        batch = student.requires_grad_(), teacher, torch.randint(classes, (size,), generator=random)
        times: dict[str, list[float]] = {name: [] for name in losses}
        for _ in range(ROUNDS + 10):
            for name, loss in losses.items():
                times[name].append(milliseconds(loss, batch))
        medians = {name: statistics.median(values[10:]) for name, values in times.items()}
        numbers = [*medians.values(), *(medians["dkd_align"] / medians[name] for name in compared)]
        print(f"| {size} | {classes} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |")


if __name__ == "__main__":
    main()
