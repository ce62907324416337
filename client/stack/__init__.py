"""The embedded stack: backend, worker and dashboard as processes of one folder on one machine."""

from client.stack.lock import HomeBusyError, HomeLock
from client.stack.services import StackOptions, embedded_plan
from client.stack.signals import StopRequested, StopSignals
from client.stack.supervisor import Stack, StackError

__all__ = [
    "HomeBusyError",
    "HomeLock",
    "Stack",
    "StackError",
    "StackOptions",
    "StopRequested",
    "StopSignals",
    "embedded_plan",
]
