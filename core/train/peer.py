"""The student together with a network of the method that sees the same batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class WithPeer(nn.Module):
    """Two networks in one pass, so that the second is compiled, divided and averaged over ranks as the student is.

    Args:
        student: Returns logits, or logits and taps.
        peer: Returns logits.
    """

    def __init__(self, student: nn.Module, peer: nn.Module) -> None:
        super().__init__()
        self.student, self.peer = student, peer

    def forward(self, inputs: Tensor, *, first: bool = False) -> tuple[Any, ...]:
        """Return the student's outputs, the peer's logits, and if ``first`` the place of the first tap in the graph.

        Args:
            inputs: What both networks see.
            first: Whether to return where the first tapped layer's output is in the graph.
        """
        result: Any = self.student(inputs, first=True) if first else self.student(inputs)
        outputs = (result,) if isinstance(result, Tensor) else result
        *taps, place = outputs if first else (*outputs, None)
        return (*taps, self.peer(inputs), place) if first else (*taps, self.peer(inputs))
