"""Layouts of Compare's board that are stored by name: which metrics are pinned, and how they are drawn."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from core.protocol.base import Message, RequestBody
from core.protocol.people import DEFAULT_PROJECT
from core.specs.text_rules import VisibleText

MAX_FIGURES = 24
"""Figures of one board."""
MAX_LAYOUTS = 200
"""Layouts that one backend stores."""
MAX_LAYOUT_NAME = 60
"""Characters of a layout's name."""

BoardX = Literal["epochs", "steps", "time", "GPU-seconds"]
BoardSpread = Literal["range", "sd", "runs"]
BoardSize = Literal["small", "medium", "large"]
_Metric = Annotated[VisibleText, Field(max_length=200)]


class BoardFigure(RequestBody):
    """One figure of a board."""

    metric: _Metric = Field(min_length=1, description="Name of the metric of the left axis.", examples=["test/top1"])
    right: _Metric = Field("", description="Name of the metric of the right axis; empty for no right axis.")
    log: bool = Field(False, description="Whether the left axis is logarithmic.")


class BoardLayout(RequestBody):
    """What a board shows, for any experiments."""

    figures: tuple[BoardFigure, ...] = Field(
        max_length=MAX_FIGURES, description="The figures in their order; each metric of a left axis once."
    )
    x: BoardX = Field("epochs", description="Quantity of the x axis, which all figures share.")
    spread: BoardSpread = Field(
        "range",
        description="Around the mean over seeds: range for minimum to maximum, sd for ± one sample standard deviation; "
        "runs for a line per run instead.",
    )
    smoothing: float = Field(
        0.0, ge=0, le=0.95, description="Weight of earlier values in the exponential moving average of each run."
    )
    size: BoardSize = Field("medium", description="Smallest width of a figure, which decides the number of columns.")
    teachers: bool = Field(False, description="Whether the curves of the teachers are drawn too.")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        repeated = [name for name, count in Counter(item.metric for item in self.figures).items() if count > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is the metric of two figures; pin it once")
        return self


class _StoredFigure(BoardFigure):
    model_config = ConfigDict(extra="ignore")  # an older client reads a newer backend


class StoredLayout(BoardLayout):
    """A layout in an answer."""

    model_config = ConfigDict(extra="ignore")

    figures: tuple[_StoredFigure, ...]


class LayoutRequest(RequestBody):
    """POST /layouts."""

    name: VisibleText = Field(
        min_length=1,
        max_length=MAX_LAYOUT_NAME,
        pattern=r"^\S(.*\S)?$",
        description="Name of the layout.",
        examples=["paper, figure 3"],
    )
    layout: BoardLayout
    replace: bool = Field(False, description="Whether a stored layout of this name is replaced.")


class LayoutSummary(Message):
    """A stored layout as the list shows it."""

    name: str
    figures: int = Field(description="Number of its figures.")
    saved_at: datetime
    saved_by: str = Field("", description="Name of the person who stored it, or of a service's token.")
    project: str = Field(DEFAULT_PROJECT, description="Name of its project.")


class LayoutList(Message):
    items: list[LayoutSummary] = Field(description="By name.")


class NamedLayout(LayoutSummary):
    """A stored layout with its content."""

    layout: StoredLayout
