"""Gradient descent with a momentum of its own for each term of the loss.

Distillation-Oriented Trainer (DOT; Zhao et al., ICCV 2023) gives the gradient of distillation a larger momentum than
that of the task, DeepKD (Huang et al. 2025) does so for three parts. Where the gradients of the terms are averaged over
different numbers of steps, one momentum of their sum cannot give the same update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class TermMomentum(torch.optim.Optimizer):
    """SGD with one momentum buffer per parameter and term: v_k ← μ_k·v_k + g_k, θ ← θ − lr·Σ_k v_k.

    The buffers are part of the state dict. With equal momenta it is SGD of the summed gradients, except for rounding;
    with a single term it is SGD bit for bit.

    Args:
        params: The parameters, or groups of them.
        lr: Learning rate.
        momenta: The momentum of each term, by name.
        weight_decay: L2 penalty. Its gradient is counted once: it belongs to the first term of ``momenta`` that reaches
            the parameter in a step.
        nesterov: Whether each term's step is g_k + μ_k·v_k in place of v_k.

    Raises:
        ValueError: A value is out of range, or there is no term.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momenta: Mapping[str, float],
        *,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if not momenta:
            raise ValueError("at least one term is needed")
        if lr < 0 or weight_decay < 0 or not all(0 <= momentum < 1 for momentum in momenta.values()):
            raise ValueError("lr and weight_decay should not be negative, and a momentum should be in [0, 1)")
        if nesterov and not all(momenta.values()):
            raise ValueError("Nesterov momentum needs a momentum above 0")
        defaults = {"lr": lr, "momenta": dict(momenta), "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Sequence[Tensor | None]]) -> None:  # type: ignore[override]
        """Take one step.

        Args:
            gradients: For each term the gradients of all parameters, in the order of ``parameters``; None for a
                parameter that the term does not reach.

        Raises:
            ValueError: The names are not those of the momenta, or there are not as many gradients as parameters.
        """
        parameters = self.parameters
        for name in {name for group in self.param_groups for name in group["momenta"]} ^ set(gradients):
            raise ValueError(f"the term {name!r} has {'no gradient' if name not in gradients else 'no momentum'}")
        if wrong := {name for name, of_term in gradients.items() if len(of_term) != len(parameters)}:
            raise ValueError(
                f"{min(wrong)!r} has {len(gradients[min(wrong)])} gradients for {len(parameters)} parameters"
            )
        first = 0
        for group in self.param_groups:
            count = len(group["params"])
            self._step_group(group, {name: of_term[first : first + count] for name, of_term in gradients.items()})
            first += count

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups, in the order in which ``step`` takes their gradients."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _step_group(self, group: dict[str, Any], gradients: Mapping[str, Sequence[Tensor | None]]) -> None:
        decayed: set[int] = set()
        for name, momentum in group["momenta"].items():
            pairs = zip(group["params"], gradients[name], strict=True)
            reached = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
            if not reached:
                continue
            parameters, moved = [parameter for parameter, _ in reached], [gradient for _, gradient in reached]
            if group["weight_decay"]:
                moved = self._with_decay(parameters, moved, decayed, group["weight_decay"])
            if momentum:
                moved = self._with_momentum(name, momentum, parameters, moved, nesterov=group["nesterov"])
            # One update per term, not one of their sum: the sum would need another copy of all weights.
            torch._foreach_add_(parameters, moved, alpha=-group["lr"])

    @staticmethod
    def _with_decay(
        parameters: list[Tensor], gradients: list[Tensor], decayed: set[int], weight_decay: float
    ) -> list[Tensor]:
        """Return the gradients, with that of the penalty for the parameters that are reached for the first time."""
        fresh = [index for index, parameter in enumerate(parameters) if id(parameter) not in decayed]
        if not fresh:
            return gradients
        decayed.update(map(id, parameters))
        penalised = torch._foreach_add(
            [gradients[index] for index in fresh], [parameters[index] for index in fresh], alpha=weight_decay
        )
        by_index = dict(zip(fresh, penalised, strict=True))
        return [by_index.get(index, gradient) for index, gradient in enumerate(gradients)]

    def _with_momentum(
        self, name: str, momentum: float, parameters: list[Tensor], gradients: list[Tensor], *, nesterov: bool
    ) -> list[Tensor]:
        """Update the term's buffers; return the direction of the step."""
        key = f"momentum_buffer/{name}"
        old = [(self.state[parameter], gradient) for parameter, gradient in zip(parameters, gradients, strict=True)]
        known = [(state[key], gradient) for state, gradient in old if key in state]
        if known:
            buffers, moved = [buffer for buffer, _ in known], [gradient for _, gradient in known]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, moved)
        for state, gradient in old:
            if key not in state:  # as in torch's SGD, the first buffer is the gradient
                state[key] = gradient.clone()
        buffers = [state[key] for state, _ in old]
        return list(torch._foreach_add(gradients, buffers, alpha=momentum)) if nesterov else buffers
