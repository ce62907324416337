"""The API's resources: one class per resource, whose methods call the backend and return plain data."""

from client.resources.comparisons import Comparisons, TextFormat
from client.resources.events import ServerEvent
from client.resources.experiments import Experiments
from client.resources.runs import Runs
from client.resources.sweeps import Sweeps
from client.resources.teachers import Teachers
from client.resources.tokens import Tokens
from client.resources.workers import Workers

__all__ = [
    "Comparisons",
    "Experiments",
    "Runs",
    "ServerEvent",
    "Sweeps",
    "Teachers",
    "TextFormat",
    "Tokens",
    "Workers",
]
