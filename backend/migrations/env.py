"""Entry point of Alembic: runs the migrations on the connection that ``backend.db.migrate`` passes in."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from backend.db.models import Base
from backend.db.types import BigInt, Json, UtcDateTime


def _render_type(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Return the source text of a column type of ours in a generated migration.

    False leaves the text of anything else to Alembic.
    """
    if kind == "type":
        if isinstance(item, UtcDateTime):
            return "UtcDateTime()"
        if item is Json:
            return "Json"
        if item is BigInt:
            return "BigInt"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite changes a table by copying it.
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=_render_type,
)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
