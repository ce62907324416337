"""The error for data sets that cannot be read."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set is missing, incomplete or damaged. The message says which files are needed and where."""
