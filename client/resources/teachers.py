"""``client.teachers`` lists trained teachers, and uploads weights of teachers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from client.connection import API, path_segment
from client.resources.base import Resource
from core.protocol.artifacts import Upload, UploadList
from core.protocol.public import TeacherList

_PATH = f"{API}/teachers"
_BLOCK_BYTES = 1 << 20


class Teachers(Resource):
    """Calls on teachers."""

    def list(self) -> TeacherList:
        """Return every teacher, with the number of runs that use it."""
        return self._connection.send("GET", _PATH, TeacherList, idempotent=True)

    def __call__(self) -> TeacherList:
        """Alias of ``list``, for scripts that call ``client.teachers()``."""
        return self.list()

    def upload(self, file: Path | BinaryIO, *, name: str, project: str | None = None) -> Upload:
        """Upload a teacher's weights (safetensors); a spec then names them ``weights: "upload:NAME"``.

        Repeating the call with the same file changes nothing.

        Args:
            file: A path, or an open file, which is read from its start.
            name: Name of the weights in specs.
            project: Name of their project; by default as for experiments.

        Raises:
            OSError: The file cannot be read.
        """
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            query = {"name": name} | ({} if project is None else {"project": project})
            return self._connection.upload(
                "POST", f"{_PATH}/uploads", Upload, blocks=_blocks(stream), size=size, query=query
            )

    def uploads(self) -> UploadList:
        """Return the uploaded weights, newest first."""
        return self._connection.send("GET", f"{_PATH}/uploads", UploadList, idempotent=True)

    def delete_upload(self, name_or_sha256: str) -> None:
        """Delete uploaded weights. The backend answers 409 if a run still needs them."""
        self._connection.send_empty("DELETE", f"{_PATH}/uploads/{path_segment(name_or_sha256)}")


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK_BYTES):
        yield block
