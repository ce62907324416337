"""Downloads that can be interrupted and continued."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.connection import API, Connection, path_segment
from client.errors import ApiError


def download_artifact(connection: Connection, run_id: str, artifact_id: str, to: Path) -> int:
    """Download a run's file to ``to``, which exists only after a complete download; return its size in bytes."""
    partial = PartialDownload.of(run_id, artifact_id, to)
    path = f"{API}/runs/{path_segment(run_id)}/artifacts/{path_segment(artifact_id)}"
    start, headers = partial.range_headers()
    try:
        with connection.download(path, headers=headers) as (status, response_headers, blocks):
            if status == 206:
                partial.resume(start, blocks)
            else:
                partial.restart(response_headers.get("ETag", ""), blocks)
    except ApiError as error:
        if error.status != 416 or not headers:
            raise
        partial.discard()  # the file on the backend is now shorter than the part downloaded earlier
        return download_artifact(connection, run_id, artifact_id, to)
    partial.finish(to)
    return to.stat().st_size


@dataclass(frozen=True)
class PartialDownload:
    """The downloaded part of a file, stored beside its destination.

    Many runs have files of the same name, and a checkpoint is replaced while its run trains. Therefore the name of the
    partial file identifies the artifact, and the ETag stored beside it identifies the version of its content.

    Attributes:
        content: Path of the downloaded bytes.
        etag: Path of the file with the ETag.
    """

    content: Path
    etag: Path

    @classmethod
    def of(cls, run_id: str, artifact_id: str, to: Path) -> PartialDownload:
        """Return the partial download of an artifact to ``to``, which may not exist yet."""
        artifact_hash = hashlib.sha256(f"{run_id}/{artifact_id}".encode()).hexdigest()[:12]
        return cls(to.with_name(f"{to.name}.{artifact_hash}.part"), to.with_name(f"{to.name}.{artifact_hash}.etag"))

    def range_headers(self) -> tuple[int, dict[str, str]]:
        """Return the offset to continue at and the headers that request it; no headers for the complete file.

        The last byte is requested again: a range beyond the end of a file is refused, whatever its ETag.
        """
        try:
            size, etag = self.content.stat().st_size, self.etag.read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return 0, {}
        if not size or not etag:
            return 0, {}
        return size - 1, {"Range": f"bytes={size - 1}-", "If-Range": etag}

    def restart(self, etag: str, blocks: Iterator[bytes]) -> None:
        """Write the content from its beginning."""
        with self.content.open("wb") as file:
            # The ETag is written after the content was emptied, so that it never belongs to other content. A weak ETag
            # does not identify bytes.
            self.etag.write_text("" if etag.startswith("W/") else etag, encoding="ascii")
            file.writelines(blocks)

    def resume(self, start: int, blocks: Iterator[bytes]) -> None:
        """Write the content from offset ``start``."""
        with self.content.open("r+b") as file:
            file.seek(start)
            file.writelines(blocks)

    def finish(self, to: Path) -> None:
        """Move the complete content to its destination."""
        os.replace(self.content, to)
        self.etag.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the downloaded part."""
        self.content.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)
