"""Why a data set cannot be read."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set that is missing, incomplete or damaged; the message says what to put where."""
