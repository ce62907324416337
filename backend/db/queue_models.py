"""The tables of the queue's accounts: lanes, shares of owners, and used time. No row of them belongs to a run."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ID, Base
from backend.db.types import BigInt


class Share(Base):
    """The part of the queue that an owner of runs has, relative to others'. Each owner has a row."""

    __tablename__ = "shares"
    __table_args__ = (CheckConstraint("weight > 0", name="weight"),)

    owner: Mapped[str] = mapped_column(String(100), primary_key=True)
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")


class QueueLane(Base):
    """Runs of one owner and project with the same requirements. A claim chooses among lanes, and then among runs.

    There are as many as combinations that were ever submitted, so that a claim does not depend on the queue's length.
    """

    __tablename__ = "queue_lanes"
    __table_args__ = (UniqueConstraint("owner", "project", "device", "gpus", "labels"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    # Not a foreign key: the default project has a row only once it was changed.
    project: Mapped[str] = mapped_column(String(60), index=True)
    device: Mapped[str] = mapped_column(String(8))
    gpus: Mapped[int]
    labels: Mapped[str] = mapped_column(Text)


class SlotUsage(Base):
    """The time for which an attempt took slots of a worker, in the project and for the owner that it counts for.

    It stays when the run is deleted, or moved to another project: a quota and a share count what was used. If the run
    is moved while it trains, the rest of the time is in a second row.
    """

    __tablename__ = "slot_usage"
    __table_args__ = (
        Index("ix_slot_usage_run_id_attempt", "run_id", "attempt"),
        Index("ix_slot_usage_ended_at", "ended_at"),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    # Not a foreign key: the row remains when the run is deleted.
    run_id: Mapped[str] = mapped_column(ID)
    attempt: Mapped[int]
    owner: Mapped[str] = mapped_column(String(100))
    project: Mapped[str] = mapped_column(String(60))
    device: Mapped[str] = mapped_column(String(8), doc="Device of the worker: cpu or gpu.")
    slots: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
