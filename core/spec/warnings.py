"""Settings that are allowed but cannot do what they seem to: a sentence with the number."""

from __future__ import annotations

from core.catalog import DATASETS
from core.catalog.methods import DecoupledParams, DKDAlignParams
from core.spec.experiment import ExperimentSpec
from core.spec.parts import ModelChoice
from core.spec.problems import Problem
from core.spec.weights import size_warning

# What is left of the alignment term at its best moment, below which it does not act: the author's ramp of 20 with
# decay 0.3 peaks at 0.015.
_PEAK_THAT_ACTS = 0.05


def warnings_of(spec: ExperimentSpec) -> list[Problem]:
    """What a person should know before running the spec; nothing here stops it."""
    found: list[Problem] = []
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.typed_params)
    if facts:
        for path, model in _models(spec):
            if text := size_warning(model, facts):
                found.append(Problem(path, text))
    epochs = spec.training.epochs
    for index, method in enumerate(spec.methods):
        path = f"methods.{index}"
        params = method.typed_params
        if isinstance(params, DecoupledParams) and params.ramp_epochs > epochs:
            top = (epochs - 1 + params.ramp_start) / params.ramp_epochs
            text = f"the ramp is not over in {epochs} epochs: distillation reaches {100 * top:.0f} % of its weight"
            found.append(Problem(f"{path}.params.ramp_epochs", text))
        if isinstance(params, DKDAlignParams):
            found.extend(_alignment(path, params, epochs, facts.num_classes if facts else None, spec))
    if len(spec.seeds) < 3 and len(spec.methods) > 1:
        text = f"{len(spec.seeds)} seed(s) give no usable interval; 6 are the fewest that can show p < 0.05"
        found.append(Problem("seeds", text))
    return found


def _models(spec: ExperimentSpec) -> list[tuple[str, ModelChoice]]:
    student = [("student.model", spec.student.model)]
    return [("teacher.model", spec.teacher.model), *student] if spec.teacher else student


def _alignment(
    path: str, params: DKDAlignParams, epochs: int, num_classes: int | None, spec: ExperimentSpec
) -> list[Problem]:
    found: list[Problem] = []
    peak = max(_ramp(params, e) * params.decay**e for e in range(min(epochs, 1000)))
    if peak < _PEAK_THAT_ACTS:
        text = f"ramp × decay never exceeds {peak:.2g}: the alignment term does not act in any epoch"
        found.append(Problem(f"{path}.params.decay", text))
    if params.epsilon is not None:
        found.extend(_weight(f"{path}.params.epsilon", params, params.epsilon, num_classes, spec.training.batch_size))
    if params.reduction == "batch" and params.epsilon is not None:
        scale = spec.training.batch_size**2
        text = f"batch is {scale} times smaller than sample at this batch size: the term has no measurable effect"
        found.append(Problem(f"{path}.params.reduction", text))
    return found


def _weight(
    path: str, params: DKDAlignParams, epsilon: float, num_classes: int | None, batch_size: int
) -> list[Problem]:
    """Where ε is too large for the student to come to rest at the teacher, or too small to matter."""
    if params.reduction == "log" and epsilon > 0:
        text = f"log repels ever harder near the teacher: α·TCKD + β·NCKD will not fall much below ε = {epsilon:g}"
        return [Problem(path, text)]
    if num_classes is None:
        return []
    # To second order around z = v the loss is a minimum there for every teacher exactly while this holds: the largest
    # eigenvalue of diag(q̂) − q̂q̂ᵀ is 1/2, that of the target part 1/4 (docs/method.md).
    stable = num_classes * min(params.alpha, params.beta) * (batch_size**2 if params.reduction == "batch" else 1)
    if epsilon > stable:
        text = f"ε is beyond the stability bound C·min(α, β) = {stable:g}: matching the teacher is no optimum"
        return [Problem(path, text)]
    # s < 6 a sample, so this bounds the term.
    bound = epsilon * 6 * params.temperature**2 / num_classes
    if params.reduction == "sample" and bound < 0.1:
        return [Problem(path, f"ε·A cannot exceed {bound:.2g} with {num_classes} classes: consider epsilon_share")]
    return []


def _ramp(params: DecoupledParams, epoch: int) -> float:
    return min((epoch + params.ramp_start) / params.ramp_epochs, 1.0) if params.ramp_epochs else 1.0
