"""The error about weights that cannot be used."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights cannot be used. The message says what to do, or names the keys that do not match."""
