"""Files of runs as they are downloaded."""

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


class Shelf:
    """A backend with files that honours ranges, and can break off in the middle of one."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.etags = {name: f'"{name}-1"' for name in files}
        self.breaks_after: int | None = None
        self.sent: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.url.path.split("/")[4]
        if key not in self.files:
            return problem(404, "no such file")
        content, etag = self.files[key], self.etags[key]
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= len(content):
            return problem(416, "behind its end")
        held = asked is not None and request.headers.get("If-Range", etag) == etag
        body = content[start:] if held else content
        self.sent.append(len(body))
        headers = {"ETag": etag} if etag else {}
        return httpx.Response(206 if held else 200, headers=headers, content=self._blocks(body))

    def _blocks(self, body: bytes) -> Iterator[bytes]:
        if self.breaks_after is None:
            yield body
            return
        yield body[: self.breaks_after]
        raise httpx.ReadError("broken off")


def _download(shelf: Shelf, run_id: str, to: Path) -> int:
    with Client("http://127.0.0.1:9", transport=httpx.MockTransport(shelf)) as client:
        return client.download(run_id, "weights", to)


def _break_off(shelf: Shelf, run_id: str, to: Path, after: int) -> None:
    shelf.breaks_after = after
    with pytest.raises(BackendUnreachable):
        _download(shelf, run_id, to)
    shelf.breaks_after = None
    shelf.sent.clear()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(x=b"x" * 100, y=b"y" * 100)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder / "weights.safetensors"


@pytest.mark.parametrize("after", [1, 60, 100])
def test_an_interrupted_download_is_continued(shelf: Shelf, to: Path, after: int) -> None:
    _break_off(shelf, "x", to, after)
    assert not to.exists()
    assert _download(shelf, "x", to) == 100
    assert to.read_bytes() == shelf.files["x"]
    assert shelf.sent == [101 - after]
    assert list(to.parent.iterdir()) == [to]


@pytest.mark.parametrize("after", [60, 100])
def test_a_partial_file_of_another_run_is_not_continued(shelf: Shelf, to: Path, after: int) -> None:
    _break_off(shelf, "x", to, after)
    assert _download(shelf, "y", to) == 100
    assert to.read_bytes() == shelf.files["y"]
    assert _download(shelf, "x", to) == 100
    assert shelf.sent == [100, 101 - after]
    assert to.read_bytes() == shelf.files["x"]


def test_a_part_file_of_another_program_is_kept(shelf: Shelf, to: Path) -> None:
    other = to.with_name("weights.safetensors.part")
    other.write_bytes(b"x" * 100)
    _download(shelf, "y", to)
    assert to.read_bytes() == shelf.files["y"]
    assert other.read_bytes() == b"x" * 100


@pytest.mark.parametrize("now", [b"z" * 100, b"z" * 200, b"z" * 30, b""])
def test_a_file_replaced_meanwhile_is_downloaded_from_its_start(shelf: Shelf, to: Path, now: bytes) -> None:
    _break_off(shelf, "x", to, 60)
    shelf.files["x"], shelf.etags["x"] = now, '"x-2"'
    assert _download(shelf, "x", to) == len(now)
    assert to.read_bytes() == now
    assert list(to.parent.iterdir()) == [to]


@pytest.mark.parametrize("etag", ["", 'W/"x-1"'])
def test_without_a_strong_etag_a_download_starts_over(shelf: Shelf, to: Path, etag: str) -> None:
    shelf.etags["x"] = etag
    _break_off(shelf, "x", to, 60)
    assert _download(shelf, "x", to) == 100
    assert shelf.sent == [100]
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


def test_a_refused_download_leaves_no_file(shelf: Shelf, to: Path) -> None:
    with pytest.raises(ApiError):
        _download(shelf, "nobody", to)
    assert list(to.parent.iterdir()) == []


class TestUploadRefusals:
    """What can be known before a long upload is said before it, with the way on."""

    def test_a_pytorch_checkpoint_is_refused_with_the_convert_command(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: FakeBackend
    ) -> None:
        for name, head in (("net.pth", b"PK\x03\x04"), ("old.pth", b"\x80\x02\x8a\n")):
            (tmp_path / name).write_bytes(head + b"content")
            assert run(["upload", str(tmp_path / name)]) == 2
            said = capsys.readouterr().err
            assert f"python -m core convert {tmp_path / name}" in " ".join(said.split())
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
