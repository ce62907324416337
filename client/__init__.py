"""The typed client of DKD Lab's backend, and the ``dkd`` command line on it."""

from client.client import Client, ServerEvent
from client.errors import (
    ApiError,
    BackendSilent,
    BackendUnreachable,
    ClientSettingsError,
    InsecureConnection,
    NotABackend,
)
from client.models import Experiment, Metrics, Run
from client.worker import WorkerClient
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
