"""What a person means by one word: a run's id, or an experiment's name or id."""

from __future__ import annotations

from client.cli.exit_codes import CliExit
from client.client import Client
from client.errors import ApiError
from core.protocol.public import Experiment, Run


def find(client: Client, target: str) -> Experiment | Run:
    """The run of that id, else the experiment of that name or id. Raises Stop where there is neither."""
    for look in (client.run, client.experiment):
        try:
            return look(target)
        except ApiError as error:
            # 422: the word does not even have the form of an id. 405: read as a path, it is an action on a run.
            if error.status not in (404, 405, 422):
                raise
    raise CliExit(f"there is no run and no experiment {target!r}; `dkd runs` and `dkd experiments` list them")


def one_run(client: Client, target: str) -> Run:
    """The run of that id. Raises CliExit, also with the runs' ids where the word names an experiment."""
    found = find(client, target)
    if isinstance(found, Run):
        return found
    ids = ", ".join(f"{run.id} ({run.label} seed {run.seed})" for run in found.runs[:8])
    more = ", …" if len(found.runs) > 8 else ""
    raise CliExit(f"{target!r} is an experiment; name one of its runs: {ids}{more}")
