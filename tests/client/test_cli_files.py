"""Downloading files of runs, and refusing uploads of other formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client import ApiError, BackendUnreachable, Client
from client.cli.app import run
from tests.client import fakes
from tests.client.fakes import FakeBackend, problem


class FileBackend:
    """A backend with files that supports ranges and can interrupt a response."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.etags = {name: f'"{name}-1"' for name in files}
        self.interrupt_after: int | None = None
        self.sent: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.url.path.split("/")[4]
        if key not in self.files:
            return problem(404, "no such file")
        content, etag = self.files[key], self.etags[key]
        range_header = request.headers.get("Range")
        start = int(range_header.removeprefix("bytes=").removesuffix("-")) if range_header else 0
        if range_header and start >= len(content):
            return problem(416, "beyond its end")
        is_range = range_header is not None and request.headers.get("If-Range", etag) == etag
        body = content[start:] if is_range else content
        self.sent.append(len(body))
        headers = {"ETag": etag} if etag else {}
        return httpx.Response(206 if is_range else 200, headers=headers, content=self._blocks(body))

    def _blocks(self, body: bytes) -> Iterator[bytes]:
        if self.interrupt_after is None:
            yield body
            return
        yield body[: self.interrupt_after]
        raise httpx.ReadError("interrupted")


def _download(files: FileBackend, run_id: str, to: Path) -> int:
    with Client("http://127.0.0.1:9", transport=httpx.MockTransport(files)) as client:
        return client.download(run_id, "weights", to)


def _interrupt(files: FileBackend, run_id: str, to: Path, after: int) -> None:
    files.interrupt_after = after
    with pytest.raises(BackendUnreachable):
        _download(files, run_id, to)
    files.interrupt_after = None
    files.sent.clear()


@pytest.fixture
def files() -> FileBackend:
    return FileBackend(x=b"x" * 100, y=b"y" * 100)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder / "weights.safetensors"


@pytest.mark.parametrize("after", [1, 60, 100])
def test_an_interrupted_download_is_continued(files: FileBackend, to: Path, after: int) -> None:
    _interrupt(files, "x", to, after)
    assert not to.exists()
    assert _download(files, "x", to) == 100
    assert to.read_bytes() == files.files["x"]
    assert files.sent == [101 - after]
    assert list(to.parent.iterdir()) == [to]


@pytest.mark.parametrize("after", [60, 100])
def test_a_partial_file_of_another_run_is_not_continued(files: FileBackend, to: Path, after: int) -> None:
    _interrupt(files, "x", to, after)
    assert _download(files, "y", to) == 100
    assert to.read_bytes() == files.files["y"]
    assert _download(files, "x", to) == 100
    assert files.sent == [100, 101 - after]
    assert to.read_bytes() == files.files["x"]


def test_a_part_file_of_another_program_is_kept(files: FileBackend, to: Path) -> None:
    other = to.with_name("weights.safetensors.part")
    other.write_bytes(b"x" * 100)
    _download(files, "y", to)
    assert to.read_bytes() == files.files["y"]
    assert other.read_bytes() == b"x" * 100


@pytest.mark.parametrize("now", [b"z" * 100, b"z" * 200, b"z" * 30, b""])
def test_a_file_replaced_meanwhile_is_downloaded_from_its_start(files: FileBackend, to: Path, now: bytes) -> None:
    _interrupt(files, "x", to, 60)
    files.files["x"], files.etags["x"] = now, '"x-2"'
    assert _download(files, "x", to) == len(now)
    assert to.read_bytes() == now
    assert list(to.parent.iterdir()) == [to]


@pytest.mark.parametrize("etag", ["", 'W/"x-1"'])
def test_without_a_strong_etag_a_download_starts_over(files: FileBackend, to: Path, etag: str) -> None:
    files.etags["x"] = etag
    _interrupt(files, "x", to, 60)
    assert _download(files, "x", to) == 100
    assert files.sent == [100]
    assert list(to.parent.iterdir()) == [to]


def test_a_missing_output_folder_is_bad_input(
    backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    backend.answers["GET /api/v1/runs/run-1/artifacts"] = {
        "run_id": "run-1",
        "items": [{"id": "a", "attempt": 1, "name": "output", "size": 1}],
    }
    backend.answers["GET /api/v1/runs/run-1/artifacts/a"] = fakes.text("x")
    to = tmp_path / "nowhere" / "output"
    assert run(["download", "run-1", "output", "--out", str(to)]) == 2
    assert capsys.readouterr().err == f"dkd: --out {to}: No such file or directory\n"


def test_a_refused_download_leaves_no_file(files: FileBackend, to: Path) -> None:
    with pytest.raises(ApiError):
        _download(files, "missing", to)
    assert list(to.parent.iterdir()) == []


class TestUploadRefusals:
    """Problems that are known before a long upload are reported before it, with a solution."""

    def test_a_pytorch_checkpoint_is_refused_with_the_convert_command(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: FakeBackend
    ) -> None:
        for name, head in (("net.pth", b"PK\x03\x04"), ("old.pth", b"\x80\x02\x8a\n")):
            (tmp_path / name).write_bytes(head + b"content")
            assert run(["upload", str(tmp_path / name)]) == 2
            error = capsys.readouterr().err
            assert f"python -m core convert {tmp_path / name}" in " ".join(error.split())
        assert backend.requests == []

    def test_an_invalid_upload_name_is_refused_with_the_name_option(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: FakeBackend
    ) -> None:
        file = tmp_path / "ckpt epoch=240.safetensors"
        file.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        assert run(["upload", str(file)]) == 2
        assert "--name ckpt-epoch-240" in capsys.readouterr().err
        assert run(["upload", str(file), "--name", "a/b"]) == 2
        assert "--name a-b" in capsys.readouterr().err
        assert backend.requests == []

    def test_a_pipe_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: FakeBackend) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert run(["upload", str(tmp_path / "pipe"), "--name", "x"]) == 2
        assert "not a regular file" in capsys.readouterr().err
