"""The fake backend's detections of a run: those of ``tests.backend.boxes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.artifacts.detection_replies import ImageFilter, image_page, image_reply
from core.items.detection_table import DetectionTable
from tests.dashboard.fake_server import Refused


def reply(
    run_id: str,
    table: DetectionTable | None,
    pictures: Mapping[int, bytes],
    parts: Sequence[str],
    one: Mapping[str, str],
) -> Any:
    """Return the reply to a request below ``/runs/{id}``.

    Args:
        run_id: The run.
        table: Its detections; None if it kept none.
        pictures: Its pictures.
        parts: The rest of the path: ``detections``, ``detections/{item}`` or ``pictures/{item}``.
        one: The query.
    """
    if table is None:
        raise Refused(404, "this run kept no detections")
    match parts:
        case ["detections"]:
            pictured = pictures if one.get("pictured") == "true" else None
            kind, source, label = one.get("kind"), one.get("source", "student"), one.get("label")
            wanted = ImageFilter(kind, source, label, float(one["score"]), pictured)  # type: ignore[arg-type]
            if not one.get("cursor", "0").isdecimal():
                raise Refused(422, "this cursor does not belong to this list", [("cursor", "unknown")])
            after, limit = int(one.get("cursor", -1)), int(one.get("limit", 50))
            page, last = image_page(run_id, table, wanted, pictures, after, limit)
            return page.model_copy(update={"next_cursor": None if last is None else str(last)})
        case ["detections", item]:
            return image_reply(run_id, table, int(item), int(item) in pictures, float(one["score"]))
        case ["pictures", item]:
            return pictures[int(item)]
    raise Refused(404, "nothing there")
