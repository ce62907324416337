"""What the methods that compare boxes have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.registry import Params

BOX_PANEL = "Terms of boxes"
MeanOver = Literal["foreground", "rows"]
MEAN_OVER = (
    "What the sum over the boxes of objects is divided by. foreground: the weights of these boxes. rows: the weights "
    "of all boxes, including the background, as in the detector's own box loss."
)


class BoxParams(Params):
    """Parameters of a method that compares the boxes of a detector."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
