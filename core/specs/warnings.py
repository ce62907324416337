"""Warnings about settings that are valid but do not have the effect that they seem to have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.catalog import DATASETS, DatasetFacts
from core.catalog.methods import DecoupledParams, DKDAlignParams, RLDParams
from core.catalog.optimizers import LR
from core.specs.components import ModelRef
from core.specs.experiment import ExperimentSpec
from core.specs.labels import misleading_label
from core.specs.presets import preset_deviations
from core.specs.problems import Problem
from core.specs.training import Optimizer, Training
from core.specs.weights import size_warning

# The alignment term has no effect if its greatest factor, ramp times decay, stays below this: with the ramp of 20
# epochs and the decay of 0.3 of Decoupled Gradient KD the factor peaks at 0.015.
_PEAK_THAT_ACTS = 0.05
_SHARE_THAT_ACTS = 0.005  # of the gradient
_AVERAGE_THAT_ACTS = 0.25
"""Span of a moving average as a share of the training, up to which e⁻⁴ (2 %) of the first weights are left in it."""
_RATE_THAT_BREAKS = 20
_FLOOR_THAT_MATTERS = 0.01  # nats of distillation loss left at the end


def warnings_of(spec: ExperimentSpec) -> list[Problem]:
    """Return warnings about a valid spec, each with the path of its field."""
    found: list[Problem] = []
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.parsed_params)
    if facts:
        for path, model in _models(spec):
            if text := size_warning(model, facts):
                found.append(Problem(path, text))
    epochs, schedule = spec.training.epochs, spec.training.schedule
    if late := [milestone for milestone in schedule.milestones if milestone >= epochs]:
        text = f"the training ends after {epochs} epochs, before {_of_all(late, schedule.milestones)} milestones"
        found.append(Problem("training.schedule.milestones", text))
    found.extend(_training(spec.training, facts))
    if apart := preset_deviations(spec.preset, spec.model_dump(mode="json")):
        text = f"this is not {spec.preset} as published: {', '.join(apart)} of its own"
        found.append(Problem("preset", text))
    for index, method in enumerate(spec.methods):
        path = f"methods.{index}"
        params = method.parsed_params
        if text := misleading_label(method.name, method.params, method.label):
            found.append(Problem(f"{path}.label", text))
        if isinstance(params, DecoupledParams | RLDParams) and (top := _ramp(params, epochs - 1)) < 1:
            text = f"the ramp does not end within the training: distillation reaches {100 * top:.3g} % of its weight"
            found.append(Problem(f"{path}.params.ramp_epochs", text))
        if isinstance(params, DKDAlignParams):
            found.extend(_alignment(path, params, epochs, facts.num_classes if facts else None, spec))
    if len(spec.seeds) < 3 and len(spec.methods) > 1:
        text = f"{len(spec.seeds)} seed(s) give no usable interval; {_fewest_seeds(len(spec.methods) - 1)}"
        found.append(Problem("seeds", text))
    return found


def _training(training: Training, facts: DatasetFacts | None) -> Iterator[Problem]:
    """Yield warnings about an average that never forgets the first weights, and about the optimiser."""
    if training.ema is not None and facts:
        steps = -(-facts.train_size // training.batch_size) * training.epochs
        span = round(1 / (1 - training.ema))
        if span > steps * _AVERAGE_THAT_ACTS:
            text = f"averages over about {span:,} steps, and the training has {steps:,}: the first weights stay in it"
            yield Problem("training.ema", text)
    optimizer = training.optimizer
    if optimizer.entry.lr < LR and optimizer.lr >= _RATE_THAT_BREAKS * optimizer.entry.lr:
        text = f"{optimizer.lr:g} is {optimizer.lr / optimizer.entry.lr:.3g} times the usual rate of {optimizer.name}"
        yield Problem("training.optimizer.lr", text)
    if not optimizer.entry.sgd_momentum:
        for name in ("momentum", "nesterov"):
            if getattr(optimizer, name) != Optimizer.model_fields[name].default:
                yield Problem(f"training.optimizer.{name}", f"{optimizer.name} does not read this")


def _fewest_seeds(comparisons: int) -> str:
    """Return the number of pairs that an exact sign-flip test needs after Holm's correction; its p is at "
    "least 2^(1−n)."""
    needed = 6
    while comparisons * 2.0 ** (1 - needed) >= 0.05:
        needed += 1
    over = f" over {comparisons} comparisons with the first method" if comparisons > 1 else ""
    return f"at least {needed} are needed for p < 0.05{over}"


def _of_all(some: Sequence[int], every: Sequence[int]) -> str:
    return f"all {len(every)}" if len(some) == len(every) else f"{len(some)} of {len(every)}"


def _models(spec: ExperimentSpec) -> list[tuple[str, ModelRef]]:
    student = [("student.model", spec.student.model)]
    return [("teacher.model", spec.teacher.model), *student] if spec.teacher else student


def _alignment(
    path: str, params: DKDAlignParams, epochs: int, num_classes: int | None, spec: ExperimentSpec
) -> list[Problem]:
    found: list[Problem] = []
    # A share is relative to the other terms, so the ramp does not reduce it.
    shared = params.epsilon_share is not None
    ramps = [_ramp(params, e) for e in range(min(epochs, 1000))]
    peak = max((bool(r) if shared else r) * params.decay**e for e, r in enumerate(ramps))
    if peak < _PEAK_THAT_ACTS:
        text = f"ramp × decay never exceeds {peak:.2g}: the alignment term does not act in any epoch"
        found.append(Problem(f"{path}.params.decay", text))
    if params.epsilon:
        classes, size = num_classes, spec.training.batch_size
        if params.reduction == "log":
            found.extend(_log(f"{path}.params.epsilon", params, params.epsilon, classes, spec.training))
        elif classes is not None:
            found.extend(_weight(path, params, params.epsilon, classes, size))
        elif params.reduction == "batch":
            text = f"batch is {size**2} times smaller than sample at this batch size"
            found.append(Problem(f"{path}.params.reduction", text))
    return found


def _log(
    path: str, params: DKDAlignParams, epsilon: float, num_classes: int | None, training: Training
) -> list[Problem]:
    """Return a warning if the log reduction keeps the student away from the teacher."""
    last = epsilon * params.decay ** (training.epochs - 1)
    # With a floor the term near the teacher is ε/(floor·B²) times ``sample``, which has its own stability bound.
    harmless = (num_classes or 0) * min(params.alpha, params.beta) * params.log_floor * training.batch_size**2
    if last <= max(harmless, _FLOOR_THAT_MATTERS):
        return []
    upto = "up to" if params.log_floor else "about a third of it up to"
    text = f"log repels ever harder near the teacher: α·TCKD + β·NCKD settles above 0, at {upto} ε = {last:.3g}"
    return [Problem(path, text)]


def _weight(path: str, params: DKDAlignParams, epsilon: float, num_classes: int, batch_size: int) -> list[Problem]:
    """Return a warning if ε is too large for the teacher to be an optimum, or too small to have an effect."""
    literal = params.reduction == "batch"
    scale = batch_size**2 if literal else 1
    # To second order around z = v the loss is a minimum there for every teacher exactly while this holds: the largest
    # eigenvalue of diag(q̂) − q̂q̂ᵀ is 1/2, that of the target part 1/4 (docs/method.md).
    stable = num_classes * min(params.alpha, params.beta) * scale
    if epsilon > stable:
        bound = "C·min(α, β)·B²" if literal else "C·min(α, β)"
        text = f"ε is beyond the stability bound {bound} = {stable:g}: matching the teacher is no optimum"
        return [Problem(f"{path}.params.epsilon", text)]
    # Near p = q = 1/C both of A's parts have 2/C² of TCKD's and NCKD's gradients. Measured on random logits it is that
    # or less while the student is far from the teacher; near a very sure one a hundred times that, yet below 2 %.
    share = 2 * epsilon / (num_classes**2 * min(params.alpha, params.beta) * scale)
    if share >= _SHARE_THAT_ACTS:
        return []
    text = f"the term is about {100 * share:.2g} % of the gradient while probabilities are soft: consider epsilon_share"
    if literal:
        text = f"batch is {scale} times smaller than sample at this batch size: {text}"
        return [Problem(f"{path}.params.reduction", text)]
    return [Problem(f"{path}.params.epsilon", f"with {num_classes} classes {text}")]


def _ramp(params: DecoupledParams | RLDParams, epoch: int) -> float:
    start = params.ramp_start if isinstance(params, DecoupledParams) else 1
    return min((epoch + start) / params.ramp_epochs, 1.0) if params.ramp_epochs else 1.0
