"""The typed client of DKD Lab's backend, and the ``dkd`` command line on it."""

from client.errors import ApiError, BackendUnreachable, ClientSettingsError, NotABackend
from client.http import Client, ServerEvent
from client.objects import Experiment, Metrics, Run
from client.worker import WorkerClient
from core.spec import SpecError, YamlDumper, load_text

__all__ = [
    "ApiError",
    "BackendUnreachable",
    "Client",
    "ClientSettingsError",
    "Experiment",
    "Metrics",
    "NotABackend",
    "Run",
    "ServerEvent",
    "SpecError",
    "WorkerClient",
    "YamlDumper",
    "load_text",
]
