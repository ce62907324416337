"""The embedded stack: backend, worker and dashboard as processes of one folder on one machine."""

from client.stack.lock import HomeBusyError, HomeLock
from client.stack.services import Options, embedded
from client.stack.signals import Signals, StopRequested
from client.stack.supervisor import Stack, StackError

__all__ = [
    "HomeBusyError",
    "HomeLock",
    "Options",
    "Signals",
    "Stack",
    "StackError",
    "StopRequested",
    "embedded",
]
