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

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the student returns, and the peer's logits at the end."""
        result: Any = self.student(inputs)
        outputs = (result,) if isinstance(result, Tensor) else result
        return (*outputs, self.peer(inputs))
