"""The typed client of DKD Lab's backend, and the ``dkd`` command line built on it.

Scripts import it as ``from dkd_lab import Client``.
"""

from client.client import Client
from client.errors import (
    ApiError,
    BackendSilent,
    BackendUnreachable,
    ClientSettingsError,
    InsecureConnection,
    NotABackend,
)
from client.models import Metrics
from client.resources import ServerEvent
from client.worker import WorkerClient
from core.protocol.public import Experiment, Run
from core.specs import SpecError, YamlDumper, load_text

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
    "WorkerClient",
    "YamlDumper",
    "load_text",
]
