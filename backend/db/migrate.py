"""Migrates a database to the schema of this version. Importing runs nothing; Alembic is imported when needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from backend.db.engine import Database

if TYPE_CHECKING:
    from alembic.config import Config

_SCRIPTS = Path(__file__).parent.parent / "migrations"


class LaterVersionError(Exception):
    """A later version of this program made the database."""


def upgrade(database: Database) -> None:
    """Apply the missing migrations, if any.

    Raises:
        LaterVersionError: A later version of this program made the database.
    """
    from alembic import command

    if (revision := current_revision(database)) and not _is_known(revision):
        raise LaterVersionError(_later_version_text(revision))

    with database.engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current_revision(database: Database) -> str:
    """Return the version of the schema; empty if there is no schema yet."""
    with database.engine.connect() as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str:
    """Like ``current_revision``, within a transaction of the caller."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""


def mismatch(database: Database) -> str:
    """Return why this version cannot use the database, and what to do; empty if it can."""
    revision = current_revision(database)
    if revision == head_revision():
        return ""
    if revision and not _is_known(revision):
        return _later_version_text(revision)
    state = f"is at version {revision}" if revision else "has no tables yet"
    return f"the database {state}, and this program needs version {head_revision()}; run `python -m backend migrate`"


def unsupported(revision: str) -> str:
    """Return why a database of this version of the schema can be neither used nor migrated; empty if it can."""
    if not revision:
        return "it is not a database of this program: it has no schema"
    return "" if _is_known(revision) else _later_version_text(revision)


def _later_version_text(revision: str) -> str:
    return (
        f"the database is at version {revision}, which a later version of this program has made; this one supports "
        f"versions up to {head_revision()}: install the later program again, or restore the backup made before it"
    )


@cache
def _is_known(revision: str) -> bool:
    from alembic.script import ScriptDirectory

    return any(script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


@cache
def head_revision() -> str:
    """Return the version that this code needs."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
