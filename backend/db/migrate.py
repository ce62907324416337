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


def upgrade(database: Database) -> None:
    """Apply every migration that is missing. Does nothing where the schema is this version's."""
    from alembic import command

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
