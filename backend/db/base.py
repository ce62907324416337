"""What all tables have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Double, MetaData, String
from sqlalchemy.orm import DeclarativeBase

from backend.db.types import Json, UtcDateTime

ID = String(16)
"""The type of ids."""


class Base(DeclarativeBase):
    # Every constraint has a name, so that a migration can drop it on both databases.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), float: Double(), dict[str, Any]: Json, list[str]: Json}  # noqa: RUF012
