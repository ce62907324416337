"""Replies about the detections of a run: pages of test images, and one image with its boxes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from core.catalog.detection_task import ERROR_KINDS
from core.items.calibration import BINS, score_bins
from core.items.detection_table import ALL_KINDS, LEAST_SCORE, SOURCES, DetectionTable
from core.items.image_counts import RESULT_KINDS, image_counts, missed_rows, rows_of_kind
from core.protocol.detections import (
    Detection,
    DetectionImage,
    DetectionImages,
    DetectionKind,
    DetectionSource,
    ImageDetections,
    LabelledObject,
    ScoreBin,
)

_KINDS = cast(tuple[DetectionKind, ...], RESULT_KINDS)
_NETWORKS: tuple[DetectionSource, ...] = ("student", "teacher")
_TITLES = {"right": "right", **ERROR_KINDS, "ignored": "on a difficult object or crowd"}


@dataclass(frozen=True)
class ImageFilter:
    """Which test images a page has.

    Attributes:
        kind: Images with a result of this kind; None for all.
        source: Whose result that is.
        label: Images with an object or a result of this class; None for all.
        score: Detections with a lower score do not count.
        pictured: The images that have a picture; None for all images.
    """

    kind: DetectionKind | None
    source: DetectionSource
    label: str | None
    score: float
    pictured: Collection[int] | None


def image_page(
    run_id: str, table: DetectionTable, wanted: ImageFilter, pictures: Collection[int], after: int, limit: int
) -> tuple[DetectionImages, int | None]:
    """Return a page of test images, and the number after which the next page starts; None on the last page.

    Args:
        run_id: The run.
        table: Its objects and detections.
        wanted: Which images.
        pictures: Numbers of the images that have a picture.
        after: Number of the last image of the previous page; −1 for the first page.
        limit: Most images of the page.
    """
    sources = _sources(table)
    counts = {source: image_counts(table, source, wanted.score) for source in sources}
    found = np.flatnonzero(_chosen(table, wanted))
    page = found[found > after][:limit].tolist()
    objects = np.bincount(table.item[table.kind == ALL_KINDS.index("object")], minlength=table.images)
    reply = DetectionImages(
        run_id=run_id,
        total=len(found),
        classes=list(table.classes),
        kinds={kind: _TITLES[kind] for kind in _KINDS},
        images=table.images,
        pictures=len(pictures),
        least_score=LEAST_SCORE,
        scores={source: dict(table.scores.get(source, {})) for source in sources},
        counts={source: _by_kind(of_images.sum(0)) for source, of_images in counts.items()},
        calibration={source: _calibration(table, source) for source in sources},
        items=[
            DetectionImage(
                **_about(table, item),
                picture=item in pictures,
                objects=int(objects[item]),
                counts={source: _by_kind(of_images[item]) for source, of_images in counts.items()},
            )
            for item in page
        ],
    )
    return reply, page[-1] if page and page[-1] != found[-1] else None


def image_reply(run_id: str, table: DetectionTable, item: int, picture: bool, score: float) -> ImageDetections:
    """Return one image with its objects, and the detections with at least this score."""
    rows = table.rows_of(item)
    numbers = np.arange(rows.start, rows.stop)
    objects = numbers[table.source[rows] == 0].tolist()
    position = {row: at for at, row in enumerate(objects)}
    missed = {source: missed_rows(table, source, score) for source in _sources(table)}
    found = numbers[(table.source[rows] > 0) & (table.score[rows] >= np.float32(score))].tolist()
    return ImageDetections(
        run_id=run_id,
        **_about(table, item),
        picture=picture,
        objects=[
            LabelledObject(
                box=table.boxes[row].tolist(),
                label=table.classes[table.label[row] - 1],
                kind=ALL_KINDS[table.kind[row]],
                missed_by=[source for source, by in missed.items() if by[row]],
            )
            for row in objects
        ],
        detections=[
            Detection(
                source=SOURCES[table.source[row]],
                box=table.boxes[row].tolist(),
                label=table.classes[table.label[row] - 1],
                score=float(table.score[row]),
                kind=ALL_KINDS[table.kind[row]],
                matched=position.get(int(table.matched[row])),
            )
            for row in found
        ],
    )


def _sources(table: DetectionTable) -> list[DetectionSource]:
    """Return the networks that have detections in the file: the student, and the teacher if there is one."""
    return [source for source in _NETWORKS if source == "student" or source in table.scores]


def _chosen(table: DetectionTable, wanted: ImageFilter) -> NDArray[np.bool_]:
    """Return which images the filter lets through, (images,)."""
    if wanted.kind is not None:
        rows = rows_of_kind(table, wanted.source, wanted.kind, wanted.score)
    else:
        rows = (table.source == 0) | (table.score >= np.float32(wanted.score))
    chosen = np.ones(table.images, np.bool_)
    if wanted.label is not None:
        rows &= table.label == table.classes.index(wanted.label) + 1
    if wanted.kind is not None or wanted.label is not None:
        chosen = np.bincount(table.item[rows], minlength=table.images) > 0
    if wanted.pictured is not None:
        chosen &= np.isin(np.arange(table.images), list(wanted.pictured))
    return chosen


def _calibration(table: DetectionTable, source: DetectionSource) -> list[ScoreBin]:
    return [
        ScoreBin(low=at / BINS, high=(at + 1) / BINS, detections=count, score=score / count, right=right / count)
        for at, (count, score, right) in enumerate(score_bins(table, source))
        if count
    ]


def _by_kind(counts: NDArray[np.int64]) -> dict[DetectionKind, int]:
    return {kind: number for kind, number in zip(_KINDS, counts.tolist(), strict=True) if number}


def _about(table: DetectionTable, item: int) -> dict[str, object]:
    height, width = (None, None) if table.sizes is None else table.sizes[item].tolist()
    name = table.names[item] if table.names else ""
    return {"item": item, "id": int(table.ids[item]), "name": name, "width": width, "height": height}
