"""The embedded stack: backend, worker and dashboard as processes on one machine, with their data in one folder."""

from client.stack.lock import HomeBusyError, HomeLock
from client.stack.services import StackOptions, embedded_plan
from client.stack.signals import StackStopRequested, StopSignals
from client.stack.supervisor import Stack, StackError

__all__ = [
    "HomeBusyError",
    "HomeLock",
    "Stack",
    "StackError",
    "StackOptions",
    "StackStopRequested",
    "StopSignals",
    "embedded_plan",
]
