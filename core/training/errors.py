"""Why a training cannot go on."""

from __future__ import annotations

from typing import Literal

FailureKind = Literal["spec", "nan", "oom", "error"]


class TrainingError(Exception):
    """A reason that a person can act on.

    Attributes:
        kind: ``spec`` (it could never have worked), ``nan``, ``oom`` or ``error``.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
