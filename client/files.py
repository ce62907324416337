"""The part of the client that moves files: what runs have left, and teachers' weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from client.connection import API, Connection, part
from client.errors import ApiError
from core.protocol.artifacts import ArtifactList, RunUpdates, Upload, UploadList

_BLOCK = 1 << 20


class Files:
    """Mixed into ``Client``."""

    _connection: Connection

    def artifacts(self, run_id: str) -> ArtifactList:
        """The files that a run has left, the newest attempt's first."""
        return self._connection.send("GET", f"{API}/runs/{part(run_id)}/artifacts", ArtifactList, repeatable=True)

    def download(self, run_id: str, artifact_id: str, to: Path) -> int:
        """Download a file of a run; returns its size. It is at ``to`` only once it is there as a whole.

        What an earlier try of the same file has left beside it is gone on with, if the file is still what it was then.
        """
        partial = _Partial.of(run_id, artifact_id, to)
        path = f"{API}/runs/{part(run_id)}/artifacts/{part(artifact_id)}"
        start, headers = partial.wanted()
        try:
            with self._connection.blocks(path, headers=headers) as (status, answered, blocks):
                if status == 206:
                    partial.go_on(start, blocks)
                else:
                    partial.begin(answered.get("ETag", ""), blocks)
        except ApiError as error:
            if error.status != 416 or not headers:
                raise
            partial.drop()  # the file has become shorter than what is here of it
            return self.download(run_id, artifact_id, to)
        partial.finish(to)
        return to.stat().st_size

    def upload_teacher(self, file: Path | BinaryIO, *, name: str) -> Upload:
        """Send a teacher's weights (safetensors); a spec then names them ``weights: "upload:NAME"``.

        Sending the same file again changes nothing. Raises OSError where the file cannot be read.

        Args:
            file: where it is, or an open one, which is read from its start.
        """
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            return self._connection.send_blocks(
                "POST", f"{API}/teachers/uploads", Upload, blocks=_blocks(stream), size=size, query={"name": name}
            )

    def uploads(self) -> UploadList:
        """Uploaded weights, newest first."""
        return self._connection.send("GET", f"{API}/teachers/uploads", UploadList, repeatable=True)

    def delete_upload(self, name_or_sha256: str) -> None:
        """Delete uploaded weights. Refused with 409 while a run needs them."""
        self._connection.call("DELETE", f"{API}/teachers/uploads/{part(name_or_sha256)}")

    def news(self, run_id: str, cursor: str = "", *, wait: float = 5.0, tail: int | None = None) -> RunUpdates:
        """What is new about a run since the cursor of an earlier answer, waiting ``wait`` seconds for it.

        Args:
            tail: without a cursor, only so many of the log's last lines, at most 500.
        """
        query = {"cursor": cursor or None, "wait": wait, "tail": None if cursor else tail}
        return self._connection.send("GET", f"{API}/runs/{part(run_id)}/news", RunUpdates, query=query, repeatable=True)


@dataclass(frozen=True)
class _Partial:
    """What is there of a file that has not come as a whole yet.

    Many runs leave files of the same name, and a checkpoint is replaced while its run trains: the name says of which
    file it is, and the ETag beside it of which of that file's contents.
    """

    content: Path
    etag: Path

    @classmethod
    def of(cls, run_id: str, artifact_id: str, to: Path) -> _Partial:
        which = hashlib.sha256(f"{run_id}/{artifact_id}".encode()).hexdigest()[:12]
        return cls(to.with_name(f"{to.name}.{which}.part"), to.with_name(f"{to.name}.{which}.etag"))

    def wanted(self) -> tuple[int, dict[str, str]]:
        """Where to go on, and the headers that ask for it; none where all of it is to be asked for.

        The last byte is asked for again: a range behind the end of a file is refused, whatever its ETag.
        """
        try:
            size, etag = self.content.stat().st_size, self.etag.read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return 0, {}
        if not size or not etag:
            return 0, {}
        return size - 1, {"Range": f"bytes={size - 1}-", "If-Range": etag}

    def begin(self, etag: str, blocks: Iterator[bytes]) -> None:
        with self.content.open("wb") as file:
            # Written once the content is empty, so that it never stands beside another's. A weak one binds no bytes.
            self.etag.write_text("" if etag.startswith("W/") else etag, encoding="ascii")
            file.writelines(blocks)

    def go_on(self, start: int, blocks: Iterator[bytes]) -> None:
        with self.content.open("r+b") as file:
            file.seek(start)
            file.writelines(blocks)

    def finish(self, to: Path) -> None:
        os.replace(self.content, to)
        self.etag.unlink(missing_ok=True)

    def drop(self) -> None:
        self.content.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block
