"""The public package of DKD Lab for scripts: the client of a backend, and the losses.

``from dkd_lab import Client`` needs no torch. A loss is imported when it is first used, and needs the extra ``train``::

    from dkd_lab import Client, dkd_align

Names that are not exported here may change in any release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from client import (
    ApiError,
    BackendSilent,
    BackendUnreachable,
    Client,
    ClientSettingsError,
    Experiment,
    InsecureConnection,
    Metrics,
    NotABackend,
    Run,
    ServerEvent,
    SpecError,
)

if TYPE_CHECKING:
    from core.methods import alignment, ce, dist, dkd, dkd_align, dkd_divergence, kd, nckd, nkd, rld, tckd

_LOSSES = frozenset(
    {"alignment", "ce", "dist", "dkd", "dkd_align", "dkd_divergence", "kd", "nckd", "nkd", "rld", "tckd"}
)

__all__ = [
    "ApiError",
    "BackendSilent",
    "BackendUnreachable",
    "Client",
    "ClientSettingsError",
    "Experiment",
    "InsecureConnection",
    "Metrics",
    "NotABackend",
    "Run",
    "ServerEvent",
    "SpecError",
    "alignment",
    "ce",
    "dist",
    "dkd",
    "dkd_align",
    "dkd_divergence",
    "kd",
    "nckd",
    "nkd",
    "rld",
    "tckd",
]


def __getattr__(name: str) -> Any:
    """Import a loss, and torch with it, when it is first used."""
    if name in _LOSSES:
        return getattr(import_module("core.methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
