"""Test images with boxes, as HTML: ground truth, teacher and student side by side. Colours are in ``assets/page.css``.

The sanitiser of ``st.html`` removes SVG, so a box is an element that is placed in percent of the image. The picture is
in a property that the three drawings share, so that the browser receives it once.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.protocol.detections import Detection, DetectionKind, DetectionSource, ImageDetections
from dashboard.markup import html

Titles = Mapping[DetectionSource, str]
"""The networks in the order of their drawings, with their titles."""
_SQUARE = 100.0
_HIGHEST = 30
"""Greatest height of a drawing in rem, so that an upright image does not fill the page."""
_AT_EDGE = (0.08, 0.7)
"""A label is inside a box whose top is above the first share of the image, and ends with a box that starts right of the
second."""


@dataclass(frozen=True)
class _Box:
    """A box in a drawing.

    Attributes:
        place: Left, top, right, bottom in pixels.
        look: Its style class: a kind of detection, or of object.
        text: Text at the box.
        about: Text that appears under the pointer.
    """

    place: Sequence[float]
    look: str
    text: str
    about: str


def scene(
    image: ImageDetections,
    picture: bytes | None,
    networks: Titles,
    kinds: Mapping[DetectionKind, str],
) -> str:
    """Return the drawings of an image: what is there, and what each network found.

    Args:
        image: The image with its boxes.
        picture: Its picture as JPEG; None for an empty canvas.
        networks: The networks that the run has, with their titles.
        kinds: Titles of the kinds of detections.
    """
    size = _size(image)
    drawings = _drawing("Ground truth", list(_labelled(image)), size)
    for source, title in networks.items():
        drawings += _drawing(title, list(_found(image, source, kinds)), size)
    encoded = "" if picture is None else base64.b64encode(picture).decode()
    style = f"--picture: url(data:image/jpeg;base64,{html(encoded)})" if encoded else ""
    return f'<div class="dkd-scenes" style="{style}">{drawings}</div>'


def kinds_legend(
    kinds: Mapping[DetectionKind, str],
    counts: Mapping[DetectionSource, Mapping[DetectionKind, int]],
    networks: Titles,
) -> str:
    """Return the colour and the title of each kind that a network has, with how many it has in all test images."""
    items = ""
    for kind, title in kinds.items():
        numbers = {name: counts[source].get(kind, 0) for source, name in networks.items()}
        if any(numbers.values()):
            shown = ", ".join(f"{html(name.lower())} {number:,}" for name, number in numbers.items())
            items += f'<li><i class="dkd-box dkd-{html(kind)}"></i>{html(title)}: {shown}</li>'
    return f'<ul class="dkd-kinds">{items}</ul>'


def counts_text(counts: Mapping[DetectionKind, int], kinds: Mapping[DetectionKind, str]) -> str:
    """Return the kinds that a network has in an image with their numbers, such as "right 3, missed object 2"."""
    return ", ".join(f"{title} {counts[kind]:,}" for kind, title in kinds.items() if counts.get(kind)) or "nothing"


def _size(image: ImageDetections) -> tuple[float, float]:
    """Return the width and height of the drawing; if they are unknown, those of a canvas that contains all boxes."""
    if image.width and image.height:
        return image.width, image.height
    boxes = [*(item.box for item in image.objects), *(item.box for item in image.detections)]
    return max((box[2] for box in boxes), default=_SQUARE), max((box[3] for box in boxes), default=_SQUARE)


def _labelled(image: ImageDetections) -> Iterator[_Box]:
    for item in image.objects:
        what = "" if item.kind == "object" else f", {item.kind}"
        yield _Box(item.box, item.kind, item.label, f"{item.label}{what}")


def _found(image: ImageDetections, source: DetectionSource, kinds: Mapping[DetectionKind, str]) -> Iterator[_Box]:
    for item in image.objects:
        if source in item.missed_by:
            yield _Box(item.box, "missed", item.label, f"{item.label}: {kinds['missed']}")
    for found in image.detections:
        if found.source == source:
            about = f"{found.label}, score {found.score:.2f}: {kinds[found.kind]}{_other_class(found, image)}"
            yield _Box(found.box, found.kind, f"{found.label} {found.score:.2f}", about)


def _other_class(found: Detection, image: ImageDetections) -> str:
    """Return the class of the object that an error is about, if it differs from the detection's; else nothing."""
    label = found.label if found.matched is None else image.objects[found.matched].label
    return f" (the object is {label})" if label != found.label else ""


def _drawing(title: str, boxes: Sequence[_Box], size: tuple[float, float]) -> str:
    width, height = size
    # Small boxes are drawn last, so that the pointer reaches them.
    by_area = sorted(boxes, key=lambda box: -(box.place[2] - box.place[0]) * (box.place[3] - box.place[1]))
    drawn = "".join(_box(box, size) for box in by_area)
    content = "; ".join(box.about for box in boxes) or "no boxes"
    return (
        f'<figure><figcaption>{html(title)}</figcaption><div class="dkd-scene" role="img" '
        f'aria-label="{html(f"{title}: {content}")}" style="aspect-ratio: {width:.0f} / {height:.0f}; '
        f'max-width: {_HIGHEST * width / height:.2f}rem">{drawn}</div></figure>'
    )


def _box(box: _Box, size: tuple[float, float]) -> str:
    (left, top, right, bottom), (width, height) = box.place, size
    at_right = left > _AT_EDGE[1] * width
    edges = (" dkd-top" if top < _AT_EDGE[0] * height else "") + (" dkd-right-edge" if at_right else "")
    # A label ends at the border of the image.
    room = (right if at_right else width - left) / max(right - left, 0.001 * width)
    place = (
        f"left: {100 * left / width:.2f}%; top: {100 * top / height:.2f}%; "
        f"width: {100 * (right - left) / width:.2f}%; height: {100 * (bottom - top) / height:.2f}%"
    )
    return (
        f'<div class="dkd-box dkd-{html(box.look)}{edges}" style="{place}" title="{html(box.about)}">'
        f'<span style="max-width: {100 * room:.0f}%">{html(box.text)}</span></div>'
    )
