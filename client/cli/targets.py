"""Finds the run or experiment that an argument names: a run's id, or an experiment's name or id."""

from __future__ import annotations

from client.cli.exit_codes import CliExit
from client.client import Client
from client.targets import find_target
from core.protocol.public import Experiment, Run


def resolve_target(client: Client, target: str) -> Experiment | Run:
    """Return the run with that id, else the experiment with that name or id.

    Raises:
        CliExit: Neither a run nor an experiment matches.
    """
    if (found := find_target(client, target)) is not None:
        return found
    raise CliExit(f"there is no run and no experiment {target!r}; `dkd runs` and `dkd experiments` list them")


def resolve_run(client: Client, target: str) -> Run:
    """Return the run with that id.

    Raises:
        CliExit: There is no such run; if the argument names an experiment, the message lists the ids of its runs.
    """
    resolved = resolve_target(client, target)
    if isinstance(resolved, Run):
        return resolved
    ids = ", ".join(f"{run.id} ({run.label} seed {run.seed})" for run in resolved.runs[:8])
    more = ", …" if len(resolved.runs) > 8 else ""
    raise CliExit(f"{target!r} is an experiment; name one of its runs: {ids}{more}")
