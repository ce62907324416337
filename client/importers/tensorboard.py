"""Reads scalars of TensorBoard event files: one run per folder."""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.exporters.packages import MissingPackageError
from client.importers.foreign import ForeignPoint, ForeignRun, ImportSourceError, existing_folder

SOURCE = "tensorboard"
_PATTERN = "*tfevents*"
_HEADER = 12  # length of the event, and a checksum of it
_CHECKSUM = 4
_MAX_EVENT = 1 << 28


def read(folder: Path) -> Iterator[ForeignRun]:
    """Yield a run for every folder with event files, at any depth.

    Raises:
        ImportSourceError: There is no event file.
        MissingPackageError: tensorboardX, of the extra ``export``, is not installed.
        OSError: A file cannot be read.
    """
    files: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in sorted(existing_folder(folder).rglob(_PATTERN)):
        if path.is_file():
            files[path.parent].append(path)
    if not files:
        raise ImportSourceError(f"{folder} has no event files (*tfevents*)")
    for parent, paths in files.items():
        name = str(parent.relative_to(folder))
        points = [point for path in paths for point in _points(path)]
        times = [point.time for point in points if point.time is not None]
        yield ForeignRun(
            source=SOURCE,
            id=name,
            name=folder.name if name == "." else name,
            group=folder.name,
            config={},
            points=points,
            started_at=datetime.fromtimestamp(min(times), UTC) if times else None,
            ended_at=datetime.fromtimestamp(max(times), UTC) if times else None,
        )


def _points(path: Path) -> Iterator[ForeignPoint]:
    """Yield the scalars of one file. A last event that is not complete is left out: its program was ended."""
    try:
        from tensorboardX.proto import event_pb2
    except ImportError:
        raise MissingPackageError("tensorboardX") from None
    for content in _events(path):
        try:
            event = event_pb2.Event.FromString(content)
        except Exception as error:
            raise ImportSourceError(f"{path} is not an event file: {error}") from error
        for value in event.summary.value:
            if (number := _scalar(value)) is not None:
                yield ForeignPoint(value.tag, event.step, event.wall_time, number)


def _events(path: Path) -> Iterator[bytes]:
    """Yield the events of a TFRecord file: length, checksum, content, checksum."""
    with path.open("rb") as file:
        while len(header := file.read(_HEADER)) == _HEADER:
            (length,) = struct.unpack("<Q", header[:8])
            if length > _MAX_EVENT:
                raise ImportSourceError(f"{path} is not an event file, or is damaged")
            content = file.read(length)
            if len(content) < length or len(file.read(_CHECKSUM)) < _CHECKSUM:
                return
            yield content


def _scalar(value: Any) -> float | None:
    """Return a scalar, which TensorFlow 2 stores as a tensor of one number; None for images, texts and histograms."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.metadata.plugin_data.plugin_name not in ("scalars", ""):
        return None
    tensor = value.tensor
    if len(tensor.float_val) == 1:
        return float(tensor.float_val[0])
    if len(tensor.double_val) == 1:
        return float(tensor.double_val[0])
    if math.prod(size.size for size in tensor.tensor_shape.dim) == 1 and len(tensor.tensor_content) == 4:
        return float(struct.unpack("<f", tensor.tensor_content)[0])
    return None
