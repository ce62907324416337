"""A moving average of the weights, which is evaluated beside the weights themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedWeights:
    """The exponential moving average of a network's parameters: w̄ ← decay·w̄ + (1 − decay)·w after every step.

    The first update copies the parameters. Buffers, such as the statistics of batch norm, are always copies of the
    network's: they are averages already.

    Args:
        network: The network that is trained; it is copied.
        decay: In [0, 1); with 0 the average is the network itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)  # type: ignore[no-untyped-call]
        self._average.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """A network with the averaged weights. It is in the mode that the network was in when it was copied."""
        network: nn.Module = self._average.module
        return network

    def update(self, network: nn.Module) -> None:
        """Include the parameters of a network after a step. Nothing waits for the device."""
        self._average.update_parameters(network)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs to continue."""
        return dict(self._average.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._average.load_state_dict(state)
