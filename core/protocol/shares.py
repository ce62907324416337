"""The shares of the queue: who has used how much lately, and who is next."""

from __future__ import annotations

from pydantic import Field

from core.protocol.base import Message, RequestBody

MAX_WEIGHT = 1e6


class ShareInfo(Message):
    """One owner of runs."""

    owner: str = Field(description="Name with which the runs were submitted.")
    weight: float = Field(description="The owner's part of the workers' time, relative to other owners'.")
    used_seconds: float = Field(description="Seconds that the owner's runs have used in the window, times their slots.")
    running: int = Field(description="Slots that the owner's runs use now.")
    queued: int = Field(description="Runs that wait for a worker.")
    turn: int | None = Field(None, description="1 for the owner who is next; null without queued runs.")


class ShareList(Message):
    """GET /shares."""

    items: list[ShareInfo] = Field(description="Owners with queued runs in the order of their turns, then the others.")
    window_seconds: float = Field(description="For how long back used time counts.")

    @property
    def window_days(self) -> float:
        """The same in days."""
        return self.window_seconds / 86_400


class ShareRequest(RequestBody):
    """POST /shares."""

    owner: str = Field(max_length=100, description="An owner that has submitted runs.", examples=["nightly-sweep"])
    weight: float = Field(
        gt=0,
        le=MAX_WEIGHT,
        description="An owner with weight 2 gets twice the time of one with weight 1 while both wait.",
        examples=[2.0],
    )
