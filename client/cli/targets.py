"""Resolving one word of a command line: a run's id, or an experiment's name or id."""

from __future__ import annotations

from client.cli.exit_codes import CliExit
from client.client import Client
from client.errors import ApiError
from core.protocol.public import Experiment, Run


def resolve_target(client: Client, target: str) -> Experiment | Run:
    """Return the run of that id, else the experiment of that name or id.

    Raises:
        CliExit: There is neither.
    """
    for get in (client.runs.get, client.experiments.get):
        try:
            return get(target)
        except ApiError as error:
            # 422: the word does not have the form of an id. 405: as a path, it is an action on a run.
            if error.status not in (404, 405, 422):
                raise
    raise CliExit(f"there is no run and no experiment {target!r}; `dkd runs` and `dkd experiments` list them")


def resolve_run(client: Client, target: str) -> Run:
    """Return the run of that id.

    Raises:
        CliExit: There is none; if the word names an experiment, the message lists the ids of its runs.
    """
    resolved = resolve_target(client, target)
    if isinstance(resolved, Run):
        return resolved
    ids = ", ".join(f"{run.id} ({run.label} seed {run.seed})" for run in resolved.runs[:8])
    more = ", …" if len(resolved.runs) > 8 else ""
    raise CliExit(f"{target!r} is an experiment; name one of its runs: {ids}{more}")
