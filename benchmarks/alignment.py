"""Effect of the alignment term on free logits: its share of the gradient, its direction, and the final student.

The student's logits are the parameters, so the loss alone determines their path: DKD-Align with α = 1, β = 8, T = 4, no
cross-entropy, B = 64, teacher logits with standard deviation 3, and the teacher's own classes as targets.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch

from core.distill.gradients import measure_gradients
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.specs import MethodRef

SIZE, TEMPERATURE, STEPS, SEEDS = 64, 4.0, 2000, 5


@dataclass(frozen=True)
class Outcome:
    """The result of an optimisation: shares in %, cosine with TCKD + NCKD, final distillation loss, agreement in %."""

    share_early: float
    share_late: float
    cosine_late: float
    distillation: float
    agreement: float


def optimise(classes: int, params: dict[str, Any], seed: int = 0) -> Outcome:
    """Optimise the logits with Adam, from almost zero.

    Early values are means of the first 1 % of the steps, late values of the last 1 %.
    """
    random = torch.Generator().manual_seed(seed)
    teacher = 3 * torch.randn(SIZE, classes, generator=random, dtype=torch.float64)
    target = teacher.argmax(1)
    student = (0.1 * torch.randn(SIZE, classes, generator=random, dtype=torch.float64)).requires_grad_()
    common = {"alpha": 1.0, "beta": 8.0, "temperature": TEMPERATURE, "ce_weight": 0.0, "ramp_epochs": 0}
    loss = build_loss(MethodRef(name="dkd_align", params=common | params))
    optimizer = torch.optim.Adam([student], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    shares, cosines = [], []
    for _ in range(STEPS):
        batch = Rows(student, teacher, target)
        terms = loss(batch, None)
        optimizer.zero_grad()
        terms.total.backward()  # type: ignore[no-untyped-call]
        metrics = measure_gradients(terms, batch)
        shares.append(metrics["grad/align_share"])
        cosines.append(metrics["grad/align_cosine"])
        optimizer.step()
        schedule.step()
    few = STEPS // 100
    values = loss(Rows(student, teacher, target), None).values
    return Outcome(
        share_early=torch.stack(shares[:few]).mean().item(),
        share_late=torch.stack(shares[-few:]).mean().item(),
        cosine_late=torch.stack(cosines[-few:]).nanmean().item(),
        distillation=(values["tckd"] + 8 * values["nckd"]).item(),
        agreement=100 * (student.argmax(1) == target).double().mean().item(),
    )


def main() -> None:
    """Print the table of docs/method.md."""
    cases: dict[str, dict[str, Any]] = {
        "batch, ε = 6": {"reduction": "batch", "epsilon": 6.0},
        "sample, ε = 6": {"reduction": "sample", "epsilon": 6.0},
        "log, ε = 6": {"reduction": "log", "epsilon": 6.0},
        "log, share 10 %": {"reduction": "log", "epsilon_share": 0.1},
    }
    print("\nThe alignment term on free logits (B = 64, T = 4, α = 1, β = 8, no cross-entropy)")
    print(f"Mean over {SEEDS} seeds, with the smallest and the largest value if they differ.")
    print("| C | term | share early, % | share late, % | cosine late | α·TCKD + β·NCKD | agreement, % |")
    print("|---|---|---|---|---|---|---|")
    for classes in (10, 100, 1000):
        for name, params in cases.items():
            outcomes = [optimise(classes, params, seed) for seed in range(SEEDS)]
            cells = [
                spread([outcome.share_early for outcome in outcomes], ".2g"),
                spread([outcome.share_late for outcome in outcomes], ".2g"),
                spread([outcome.cosine_late for outcome in outcomes], ".2f"),
                spread([outcome.distillation for outcome in outcomes], ".2g"),
                spread([outcome.agreement for outcome in outcomes], ".0f"),
            ]
            print(f"| {classes} | {name} | {' | '.join(cells)} |", flush=True)


def spread(values: list[float], form: str) -> str:
    """Return ``mean (smallest to largest)``, or one number if all are equal when formatted."""
    mean, smallest, largest = (format(number, form) for number in (statistics.mean(values), min(values), max(values)))
    return (mean if smallest == largest else f"{mean} ({smallest} to {largest})").replace("-", "−")


if __name__ == "__main__":
    main()
