"""Names and ids that people and programs type, resolved to runs and experiments."""

from __future__ import annotations

from client.client import Client
from client.errors import ApiError
from core.protocol.public import Experiment, Run


def find_target(client: Client, target: str) -> Experiment | Run | None:
    """Return the run with that id, else the experiment with that name or id; None if neither exists."""
    for get in (client.runs.get, client.experiments.get):
        try:
            return get(target)
        except ApiError as error:
            # 422: the argument does not have the form of an id. 405: used as a path, it names an action on a run.
            if error.status not in (404, 405, 422):
                raise
    return None
