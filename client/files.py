"""The part of the client that moves files: what runs have left, and teachers' weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from client.connection import API, Connection, part
from core.wire.stored import ArtifactList, RunNews, Upload, UploadList

_BLOCK = 1 << 20


class Files:
    """Mixed into ``Client``."""

    _connection: Connection

    def artifacts(self, run_id: str) -> ArtifactList:
        """The files that a run has left, the newest attempt's first."""
        return self._connection.send("GET", f"{API}/runs/{part(run_id)}/artifacts", ArtifactList, repeatable=True)

    def download(self, run_id: str, artifact_id: str, to: Path) -> int:
        """Download a file of a run; returns its size. It is at ``to`` only once it is there as a whole.

        What an earlier try has left beside it, with ``.part`` behind the name, is gone on with.
        """
        rest = to.with_name(f"{to.name}.part")
        have = rest.stat().st_size if rest.exists() else 0
        path = f"{API}/runs/{part(run_id)}/artifacts/{part(artifact_id)}"
        whole = next((item.size for item in self.artifacts(run_id).items if item.id == artifact_id), None)
        if whole is None or have < whole:
            headers = {"Range": f"bytes={have}-"} if have else {}
            with self._connection.blocks(path, headers=headers) as (status, blocks):
                _write(rest, blocks, append=status == 206)
        elif have > whole:  # of another file
            rest.unlink()
            return self.download(run_id, artifact_id, to)
        else:
            rest.touch()  # an empty file has nothing to fetch
        os.replace(rest, to)
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

    def news(self, run_id: str, cursor: str = "", *, wait: float = 5.0, tail: int | None = None) -> RunNews:
        """What is new about a run since the cursor of an earlier answer, waiting ``wait`` seconds for it.

        Args:
            tail: without a cursor, only so many of the log's last lines, at most 500.
        """
        query = {"cursor": cursor or None, "wait": wait, "tail": None if cursor else tail}
        return self._connection.send("GET", f"{API}/runs/{part(run_id)}/news", RunNews, query=query, repeatable=True)


def _write(path: Path, blocks: Iterator[bytes], *, append: bool) -> None:
    with path.open("ab" if append else "wb") as file:
        for block in blocks:
            file.write(block)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block
