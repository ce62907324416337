"""The audit log: every change that a person or a program requests is recorded in the transaction of the change."""

from backend.audit.changes import Change, about, current, note
from backend.audit.refusals import Refusals

__all__ = ["Change", "Refusals", "about", "current", "note"]
