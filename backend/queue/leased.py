"""Runs that workers hold a lease of."""

from __future__ import annotations

from sqlalchemy import ColumnElement, bindparam

from backend.db.models import Run

LEASED_STATES = ("running", "cancelling")
"""States in which a worker holds a lease on the run."""


def is_leased() -> ColumnElement[bool]:
    """Return the condition for runs that workers hold, in the form of the index of these runs."""
    return Run.state.in_(bindparam("leased_states", LEASED_STATES, expanding=True, literal_execute=True))
