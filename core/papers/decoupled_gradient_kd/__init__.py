"""DKD-Align: *Decoupled Gradient Knowledge Distillation* (2025), and the code that its authors published in 2026."""

from __future__ import annotations

from core.papers.decoupled_gradient_kd.loss_claims import judge_loss_claims, notes
from core.papers.decoupled_gradient_kd.presets import PRESETS
from core.papers.decoupled_gradient_kd.results import PUBLISHED
from core.papers.paper import Paper, RunClaim

PAPER = Paper(
    name="decoupled-gradient-kd-2025",
    title="Decoupled Gradient Knowledge Distillation (2025)",
    presets=PRESETS,
    published=PUBLISHED,
    method="dkd_align",
    method_title="DKD-Align",
    baseline="dkd",
    baseline_title="DKD",
    run_claims=(
        RunClaim(
            3,
            "The features of a class become more compact: neural collapse is faster (NC1 is lower).",
            "lower",
            "NC1",
            "collapse/nc1",
        ),
        RunClaim(4, "It converges faster: fewer epochs to the target accuracy.", "earlier", "accuracy"),
        RunClaim(
            5,
            "It gains nothing on small mobile students.",
            "no_gain",
            "accuracy",
            students=("mobilenet", "shufflenet"),
            students_title="small mobile network",
        ),
    ),
    loss_claims=judge_loss_claims,
    notes=notes,
    is_control=lambda params: params.get("sign") == "added",
)
