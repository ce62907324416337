"""Brings a database to this version's schema. Never run by importing; alembic is loaded only when it is needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from backend.db.engine import Database

if TYPE_CHECKING:
    from alembic.config import Config

_SCRIPTS = Path(__file__).parent.parent / "migrations"


class LaterVersionError(Exception):
    """The database was made by a later version of this program."""


def upgrade(database: Database) -> None:
    """Apply every migration that is missing. Does nothing where the schema is this version's.

    Raises LaterVersionError for a database that this version does not know.
    """
    from alembic import command

    if (found := current_revision(database)) and not _is_known(found):
        raise LaterVersionError(_later(found))

    with database.engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current_revision(database: Database) -> str:
    """The schema's version; empty where there is none yet."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""


def mismatch(database: Database) -> str:
    """Why this version cannot use the database, and what to do; empty where it can."""
    found = current_revision(database)
    if found == head_revision():
        return ""
    if found and not _is_known(found):
        return _later(found)
    was = f"is at version {found}" if found else "has no tables yet"
    return f"the database {was}, and this program needs version {head_revision()}; run `python -m backend migrate`"


def _later(found: str) -> str:
    return (
        f"the database is at version {found}, which a later version of this program has made; this one knows versions "
        f"up to {head_revision()}: install the later program again, or put the backup from before the upgrade in place"
    )


@cache
def _is_known(revision: str) -> bool:
    from alembic.script import ScriptDirectory

    return any(script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


@cache
def head_revision() -> str:
    """The version that this code needs."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
