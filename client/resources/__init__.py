"""The API's resources: one class per resource, whose methods call the backend and return plain data."""

from client.resources.audit import Audit
from client.resources.comparisons import Comparisons, LeaderboardTextFormat, TextFormat
from client.resources.events import ServerEvent
from client.resources.experiments import Experiments
from client.resources.layouts import Layouts
from client.resources.projects import People, Projects
from client.resources.runs import Runs
from client.resources.sessions import AccountCalls, Sessions
from client.resources.shares import Shares
from client.resources.sweeps import Sweeps
from client.resources.teachers import Teachers
from client.resources.tokens import Tokens
from client.resources.workers import Workers

__all__ = [
    "AccountCalls",
    "Audit",
    "Comparisons",
    "Experiments",
    "Layouts",
    "LeaderboardTextFormat",
    "People",
    "Projects",
    "Runs",
    "ServerEvent",
    "Sessions",
    "Shares",
    "Sweeps",
    "Teachers",
    "TextFormat",
    "Tokens",
    "Workers",
]
