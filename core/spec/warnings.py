"""Settings that are allowed but cannot do what they seem to: a sentence with the number."""

from __future__ import annotations

from core.catalog import DATASETS
from core.catalog.methods import DecoupledParams, DKDAlignParams
from core.spec.experiment import ExperimentSpec
from core.spec.problems import Problem

# What is left of the alignment term at its best moment, below which it does not act: the author's ramp of 20 with
# decay 0.3 peaks at 0.015.
_PEAK_THAT_ACTS = 0.05


def warnings_of(spec: ExperimentSpec) -> list[Problem]:
    """What a person should know before running the spec; nothing here stops it."""
    found: list[Problem] = []
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.typed_params)
    epochs = spec.training.epochs
    for index, method in enumerate(spec.methods):
        path = f"methods.{index}"
        params = method.typed_params
        if isinstance(params, DecoupledParams) and params.ramp_epochs > epochs:
            top = (epochs - 1 + params.ramp_start) / params.ramp_epochs
            text = f"the ramp of {params.ramp_epochs} epochs is not over in {epochs}: distillation reaches {top:.0%}"
            found.append(Problem(f"{path}.params.ramp_epochs", text))
        if isinstance(params, DKDAlignParams):
            found.extend(_alignment(path, params, epochs, facts.num_classes if facts else None, spec))
    if len(spec.seeds) < 3 and len(spec.methods) > 1:
        text = f"{len(spec.seeds)} seed(s) give no usable interval; 6 are the fewest that can show p < 0.05"
        found.append(Problem("seeds", text))
    return found


def _alignment(
    path: str, params: DKDAlignParams, epochs: int, num_classes: int | None, spec: ExperimentSpec
) -> list[Problem]:
    found: list[Problem] = []
    peak = max(_ramp(params, e) * params.decay**e for e in range(min(epochs, 1000)))
    if peak < _PEAK_THAT_ACTS:
        text = f"ramp × decay never exceeds {peak:.2g}: the alignment term does not act in any epoch"
        found.append(Problem(f"{path}.params.decay", text))
    if params.reduction == "batch" and params.epsilon is not None:
        scale = spec.training.batch_size**2
        text = f"batch is {scale} times smaller than sample at this batch size: the term has no measurable effect"
        found.append(Problem(f"{path}.params.reduction", text))
    if params.reduction == "sample" and params.epsilon is not None and num_classes is not None:
        # s < 6 a sample (REFERENCES part 1), so ε·A is bounded by this.
        bound = params.epsilon * 6 * params.temperature**2 / num_classes
        if bound < 0.1:
            text = f"ε·A cannot exceed {bound:.2g} with {num_classes} classes: consider epsilon_share"
            found.append(Problem(f"{path}.params.epsilon", text))
    return found


def _ramp(params: DecoupledParams, epoch: int) -> float:
    return min((epoch + params.ramp_start) / params.ramp_epochs, 1.0) if params.ramp_epochs else 1.0
