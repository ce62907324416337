"""Cost of the losses, forward and backward, against each other and against double backward, in turn; medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import machine
from core import methods

ROUNDS = 200
SHAPES = ((64, 10), (64, 100), (512, 100), (64, 1000))


def double_backward(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """DKD-Align as autograd gives it: both gradients with a graph, their distance differentiated again."""
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


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dkd": methods.dkd,
    "dkd_align": lambda *batch: methods.dkd_align(*batch, reduction="sample", epsilon=6.0),
    "double backward": double_backward,
}


def milliseconds(loss: Callable[[Tensor, Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor, Tensor]) -> float:
    began = time.perf_counter()
    loss(*batch).backward()  # type: ignore[no-untyped-call]
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Print the table."""
    print(f"\nForward and backward at the logits, ms, median of {ROUNDS} in turn; {machine.describe()}")
    print(f"  {'B':>4} {'C':>5}  " + "".join(f"{name:>17}" for name in LOSSES))
    for size, classes in SHAPES:
        random = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, size, classes, generator=random) * 3
        batch = student.requires_grad_(), teacher, torch.randint(classes, (size,), generator=random)
        times: dict[str, list[float]] = {name: [] for name in LOSSES}
        for _ in range(ROUNDS + 10):
            for name, loss in LOSSES.items():
                times[name].append(milliseconds(loss, batch))
        cells = "".join(f"{statistics.median(values[10:]):>17.2f}" for values in times.values())
        print(f"  {size:>4} {classes:>5}  {cells}")


if __name__ == "__main__":
    main()
