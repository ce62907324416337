"""Sessions that see only the rows of some projects.

Such a session puts a WITH clause before each statement, in which the name of every table of projects stands for the
visible rows of that table. The database then resolves the names, so that no query, join, subquery or count of the
statement can read another row, however it was written. Points of metrics and log lines have no such clause, since it
would be evaluated for each point: they are read by the id of a run that a limited table has given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event

visible_projects: ContextVar[frozenset[str] | None] = ContextVar("visible_projects", default=None)
"""Names of the projects that reading sessions of this context see; None for all."""

EVERY_PROJECT = "dkd_every_project"
"""Execution option of a statement whose result tells nothing of single runs, such as how many slots are taken."""
_PROJECTS = "dkd_projects"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_OF_PROJECT = "project IN ({projects})"
_OF_EXPERIMENT = (
    "EXISTS (SELECT 1 FROM {schema}experiments e WHERE e.id = t.experiment_id AND e.project IN ({projects}))"
)
_OF_RUN = (
    "EXISTS (SELECT 1 FROM {schema}experiment_runs l JOIN {schema}experiments e ON e.id = l.experiment_id "
    "WHERE l.run_id = t.{run} AND e.project IN ({projects}))"
)
_CONDITIONS = {
    "experiments": _OF_PROJECT,
    "uploads": _OF_PROJECT,
    "board_layouts": _OF_PROJECT,
    "slot_usage": _OF_PROJECT,
    "experiment_runs": _OF_EXPERIMENT,
    "experiment_tags": _OF_EXPERIMENT,
    "runs": _OF_RUN.replace("{run}", "id"),
    "attempts": _OF_RUN.replace("{run}", "run_id"),
    "further_teachers": _OF_RUN.replace("{run}", "run_id"),
    "metric_latest": _OF_RUN.replace("{run}", "run_id"),
}
"""For each limited table, the condition of the rows of its alias ``t`` that are visible."""
_TABLE = re.compile(rf"\b({'|'.join(_CONDITIONS)})\b")


def limited(engine: Engine) -> Engine:
    """Return an engine with the same connections, for ``seeing``."""
    result = engine.execution_options()

    @event.listens_for(result, "before_cursor_execute", retval=True)
    def _limit(
        connection: Connection, _: Any, statement: str, parameters: Any, context: Any, __: bool
    ) -> tuple[str, Any]:
        if context is not None and context.execution_options.get(EVERY_PROJECT):
            return statement, parameters
        return _with_visible_rows(connection, statement), parameters

    return result


def seeing(engine: Engine, projects: Iterable[str]) -> Engine:
    """Return an engine of ``limited`` whose statements see only rows of these projects."""
    return engine.execution_options(**{_PROJECTS: frozenset(projects)})


def _with_visible_rows(connection: Connection, statement: str) -> str:
    tables = set(_TABLE.findall(statement))
    if not tables:
        return statement
    if not statement.lstrip().startswith("SELECT"):
        _refuse(statement)
    projects = connection.get_execution_options()[_PROJECTS]
    if not all(map(_NAME.fullmatch, projects)):
        _refuse(statement)
    # NULL is in no list, and an empty list is no SQL.
    names = ", ".join(f"'{name}'" for name in sorted(projects)) or "NULL"
    # A WITH clause of SQLite may refer to itself, so the table is named with its schema there.
    schema = "main." if connection.dialect.name == "sqlite" else ""
    clauses = [
        f"{table} AS NOT MATERIALIZED (SELECT * FROM {schema}{table} t WHERE "
        f"{_CONDITIONS[table].format(schema=schema, projects=names)})"
        for table in sorted(tables)
    ]
    return f"WITH {', '.join(clauses)} {statement}"


def _refuse(statement: str) -> NoReturn:
    raise RuntimeError(f"a session that sees some projects only cannot run this statement: {statement[:100]}")
