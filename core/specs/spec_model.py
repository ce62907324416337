"""The base of everything in a spec."""

from __future__ import annotations

from pydantic import ConfigDict

from core.catalog.registry import StrictModel


class SpecModel(StrictModel):
    """Base of everything in a spec. Unknown fields are refused, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
