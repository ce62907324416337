"""The lineage of an experiment as a picture in HTML: data, teachers, students, tables. Its look is in ``page.css``.

HTML instead of a figure: the stages stand below each other on a phone, and every box is a link that a keyboard reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.markup import html


@dataclass(frozen=True)
class Box:
    """A box of the picture.

    Attributes:
        title: Its first line.
        text: Its second line; empty for none.
        link: Address of its page, relative to any page; empty for none.
        colour: Colour of its left edge; empty for none.
        tooltip: Text that appears under the pointer; empty for none.
    """

    title: str
    text: str = ""
    link: str = ""
    colour: str = ""
    tooltip: str = ""


@dataclass(frozen=True)
class Stage:
    """Boxes with a title. Each box of a stage was made from those of the stage before it."""

    title: str
    boxes: Sequence[Box]


def picture(stages: Sequence[Stage]) -> str:
    """Return the picture as HTML, from left to right; stages without boxes are left out."""
    drawn = [_stage(stage) for stage in stages if stage.boxes]
    return f'<div class="dkd-lineage">{"".join(drawn)}</div>'


def _stage(stage: Stage) -> str:
    boxes = "".join(_box(box) for box in stage.boxes)
    return f'<section><h4>{html(stage.title)}</h4><div class="dkd-boxes">{boxes}</div></section>'


def _box(box: Box) -> str:
    style = f' style="border-left-color: {html(box.colour)}"' if box.colour else ""
    tooltip = f' title="{html(box.tooltip)}"' if box.tooltip else ""
    second = f"<span>{html(box.text)}</span>" if box.text else ""
    content = f"<b>{html(box.title)}</b>{second}"
    if box.link:
        return f'<a class="dkd-stage-box" href="{html(box.link)}" target="_self"{style}{tooltip}>{content}</a>'
    return f'<div class="dkd-stage-box"{style}{tooltip}>{content}</div>'
