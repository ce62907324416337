"""A comparison of a method with public code: values and gradients of both on the same tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.checkout import Checkout, running_public_code
from benchmarks.parity.inputs import Inputs, build, random_inputs, step_of
from core.catalog import METHODS
from core.distill.objective import Objective
from core.specs import MethodRef

ROUNDING = 1e-9
"""Up to this relative difference, two results in float64 differ by the order of their operations."""

_NOTHING = 1e-12
"""A gradient below this part of the largest one is 0 but for rounding, such as that of a bias before batch norm."""


@dataclass(frozen=True)
class Public:
    """The loss of public code.

    Attributes:
        loss: Its distillation terms with their weights; without the cross-entropy.
        adapters: Pairs of tensors that have the same part in both codes: the public one, and this package's.
    """

    loss: Tensor
    adapters: list[tuple[Tensor, Tensor]] = field(default_factory=list)


PublicLoss = Callable[[Checkout, Inputs, Any], Public]
"""Maps a checkout, the outputs of both networks and this package's objective to the public loss of these outputs."""


@dataclass(frozen=True)
class Comparison:
    """A method beside the code of one repository.

    Attributes:
        method: Its name.
        repository: The name of the option of ``REPOSITORIES``.
        loss: Computes the public loss.
        params: This package's parameters that give the same loss. Cross-entropy has the weight 0.
        shapes: The shapes that it is computed for.
        epoch: Counted from 0; None for the full strength of every schedule.
        reason: Why the results differ by more than rounding; empty if they should not.
        part: What of the method is compared, if it is not all.
    """

    method: str
    repository: str
    loss: PublicLoss
    params: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[str, ...] = ("equal",)
    epoch: int | None = None
    reason: str = ""
    part: str = ""

    def measure(self, checkout: Checkout) -> Measured:
        """Compute both losses and their gradients, for all shapes."""
        found = [_measure(self, checkout, random_inputs(shapes)) for shapes in self.shapes]
        values, gradients = [one.value for one in found], [one.gradient for one in found]
        return Measured(found[0].public, found[0].own, max(values), max(gradients))


@dataclass(frozen=True)
class Measured:
    """What a comparison found.

    Attributes:
        public: The value of the public loss, of the first shapes.
        own: That of this package.
        value: The largest relative difference of the values.
        gradient: The largest relative difference of a gradient: the largest absolute difference of two gradients of
            one tensor, divided by the largest absolute number in them.
    """

    public: float
    own: float
    value: float
    gradient: float

    @property
    def is_rounding(self) -> bool:
        """Whether both codes compute the same numbers."""
        return self.value <= ROUNDING and self.gradient <= ROUNDING


def copied(public: nn.Module | Iterable[Tensor], own: nn.Module | Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Give public layers this package's weights, and return the pairs of tensors.

    Args:
        public: A public module, or some of its tensors.
        own: The module or tensors of this package, in the same order.

    Raises:
        ValueError: The numbers or shapes of the tensors differ.
    """
    theirs, ours = (list(one.parameters() if isinstance(one, nn.Module) else one) for one in (public, own))
    if [tensor.numel() for tensor in theirs] != [tensor.numel() for tensor in ours]:
        shapes = [[tuple(tensor.shape) for tensor in side] for side in (theirs, ours)]
        raise ValueError(f"the layers differ: {shapes[0]} and {shapes[1]}")
    with torch.no_grad():
        for one, other in zip(theirs, ours, strict=True):
            one.copy_(other.view_as(one))
    return list(zip(theirs, ours, strict=True))


def _measure(comparison: Comparison, checkout: Checkout, inputs: Inputs) -> Measured:
    method = MethodRef.model_validate(
        {"name": comparison.method, "params": without_labels(comparison.method, comparison.params)}
    )
    own, other = inputs.copy(), inputs.copy()
    objective = build(method, own)
    with running_public_code(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        public = comparison.loss(checkout, other, objective)
        public.loss.backward()  # type: ignore[no-untyped-call]
    total = objective(step_of(method, own, comparison.epoch)).total
    total.backward()
    pairs = list(zip(other.student.tensors(), own.student.tensors(), strict=True))
    gradients = [(_gradient(one), _gradient(two)) for one, two in pairs + public.adapters]
    least = _NOTHING * max(_largest(*both) for both in gradients)
    differences = [difference(*both) for both in gradients if _largest(*both) > least]
    values = public.loss.detach(), total.detach()
    return Measured(float(values[0]), float(values[1]), difference(*values), max(differences))


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def difference(public: Tensor, own: Tensor) -> float:
    """Return the largest absolute difference of two tensors, divided by the largest number in them; 0 if all are 0."""
    largest = _largest(public, own)
    return float((public.flatten() - own.flatten()).abs().max()) / largest if largest else 0.0


def _largest(public: Tensor, own: Tensor) -> float:
    return max(float(public.abs().max()), float(own.abs().max()))


def gradients_of(objective: Objective, method: MethodRef, inputs: Inputs, epoch: int | None) -> tuple[Tensor, Tensor]:
    """Return the value of an objective, and its gradients with respect to all outputs of the student as one vector."""
    own = inputs.copy()
    total = objective(step_of(method, own, epoch)).total
    total.backward()
    return total.detach(), torch.cat([_gradient(tensor).flatten() for tensor in own.student.outputs.values()])


def without_labels(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a method with the weight 0 for cross-entropy, where it has one."""
    has_labels = "ce_weight" in METHODS[method].params.model_fields
    return ({"ce_weight": 0} if has_labels else {}) | dict(params)
