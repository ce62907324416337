"""What a spec names by its path is read below DATA_DIR only, and is a regular file or a folder of bounded size."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from core.events import JOURNAL_NAME, Failed, read_journal
from core.settings import SettingsError, TrainingSettings
from core.specs import RunSpec, SpecError, parse_experiment, parse_stored_experiment
from core.tasks.classification import models
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.paths import PathRefusedError, spec_path
from core.tasks.classification.models import read_source
from core.train import run_training
from tests.core import data_files as files

BASE = {
    "name": "paths",
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 4, "image_size": 8, "train_size": 32, "test_size": 8},
    },
    "student": {"model": {"name": "small_cnn", "params": {"width": 2}}},
    "methods": ["ce"],
    "seeds": [0],
    "training": {"epochs": 1, "batch_size": 16},
}


def settings() -> TrainingSettings:
    return TrainingSettings.from_environment()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DATA_DIR, with a secret beside it."""
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    files.tree(tmp_path / "outside", ["a", "b"])
    monkeypatch.setenv("DATA_DIR", str(root))
    monkeypatch.setenv("DKD_PACK_DIR", str(tmp_path / "packs"))
    monkeypatch.delenv("DKD_DATA_ROOTS", raising=False)
    return root


def odd_files(home: Path) -> Iterator[tuple[str, str]]:
    """Yield names below DATA_DIR that no spec may read, with the words of the refusal."""
    os.mkfifo(home / "pipe")
    yield "pipe", "not a regular file"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    yield "socket", "not a regular file"
    for name, target in (("zero", "/dev/zero"), ("passwd", "/etc/passwd"), ("beside", "../secret")):
        (home / name).symlink_to(target)
        yield name, "link to a path outside of DATA_DIR"
    (home / "loop").symlink_to("loop")
    yield "loop", "cannot be read"
    (home / "folder").mkdir()
    yield "folder", "not a regular file"


@pytest.mark.parametrize("prefix", ["", "/", "file://"], ids=["relative", "absolute", "address"])
def test_weights_that_are_no_regular_file_below_data_dir_are_refused(
    prefix: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)  # and back afterwards
    for name, words in odd_files(home):
        with pytest.raises(models.WeightsError, match=words):
            read_source({"": name, "/": f"{home}/{name}", "file://": f"file://{home}/{name}"}[prefix], None, settings())


@pytest.mark.parametrize(
    "source", ["/dev/zero", "file:///dev/zero", "file:///etc/passwd", "/etc/passwd", "~/.bashrc", "file://../secret"]
)
def test_weights_outside_of_data_dir_are_refused(source: str) -> None:
    with pytest.raises(models.WeightsError, match=r"is not below .*DKD_DATA_ROOTS"):
        read_source(source, None, settings())


@pytest.mark.parametrize("source", ["../secret", "a/../../secret", "a\0b", "upload:../../secret"])
def test_paths_with_parent_folders_are_refused(source: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("DKD_UPLOADS", str(home))
    with pytest.raises(models.WeightsError):
        read_source(source, None, settings())
    if not source.startswith("upload:"):
        with pytest.raises(SpecError, match=r"teacher\.weights"):
            parse_experiment(BASE | {"teacher": {"model": "small_cnn", "weights": source}})


def test_weights_below_dkd_data_roots_are_read(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = models.build("small_cnn", num_classes=4, image_size=8)
    (tmp_path / "shared").mkdir()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "shared" / "t.safetensors")
    (home / "linked").symlink_to(tmp_path / "shared")
    sources = (f"{tmp_path}/shared/t.safetensors", f"file://{tmp_path}/shared/t.safetensors", "linked/t.safetensors")
    for source in sources:
        with pytest.raises(models.WeightsError, match="DKD_DATA_ROOTS"):
            read_source(source, None, settings())
    monkeypatch.setenv("DKD_DATA_ROOTS", f"/nowhere:{tmp_path}/shared")
    for source in sources:
        assert read_source(source, None, settings()).content.keys() == net.state_dict().keys()


def test_link_within_data_dir_is_followed(home: Path) -> None:
    (home / "real").mkdir()
    (home / "link").symlink_to("real")
    assert spec_path("link", "folder", settings()) == home / "real"
    with pytest.raises(PathRefusedError, match="not a regular file"):
        spec_path("link", "file", settings())
    with pytest.raises(PathRefusedError, match="no folder"):
        spec_path("none", "folder", settings())


@pytest.mark.parametrize("path", ["/etc", "..", "a/../../b", "~/x", "/"])
def test_stylised_or_data_folder_outside_of_data_dir_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match=r"training\.stylised: must be a relative path below DATA_DIR"):
        parse_experiment(BASE | {"training": {"epochs": 1, "stylised": path}})
    with pytest.raises(SpecError, match=r"dataset\.params\.path: must be a relative path below DATA_DIR"):
        parse_experiment(BASE | {"dataset": {"name": "folder", "params": {"path": path, "image_size": 8}}})


def test_stored_spec_with_refused_paths_is_read() -> None:
    stored = parse_experiment(BASE).model_dump(mode="json")
    stored["training"]["stylised"] = "/etc"
    stored["teacher"] = {"model": {"name": "small_cnn", "params": {}}, "weights": {"source": "../t.pth"}}
    assert parse_stored_experiment(stored).training.stylised == "/etc"


def failure(run: RunSpec, out: Path) -> str:
    assert run_training(run, out) == "failed"
    last = [record.event for record in read_journal(out / JOURNAL_NAME)][-1]
    assert isinstance(last, Failed)
    return last.reason


def test_folders_that_link_out_of_data_dir_are_refused(home: Path, tmp_path: Path) -> None:
    (home / "out").symlink_to(tmp_path / "outside")
    (home / "half").mkdir()
    for part in ("train", "test"):
        (home / "half" / part).symlink_to(tmp_path / "outside" / part)
    stylised = parse_experiment(BASE | {"training": {"epochs": 1, "stylised": "out/train"}}).plan()[0].spec
    assert "link to a path outside of DATA_DIR" in failure(stylised, tmp_path / "one")
    for name in ("out", "half"):
        dataset = {"name": "folder", "params": {"path": name, "image_size": 8}}
        run = parse_experiment(BASE | {"dataset": dataset}).plan()[0].spec
        assert "link to a path outside of DATA_DIR" in failure(run, tmp_path / name)


class Endless:
    """A remote file without end, with any reported length."""

    def __init__(self, size: int | None) -> None:
        self.size, self.sent = size, 0

    def read(self, count: int) -> bytes:
        self.sent += count
        return b"\0" * count

    @contextmanager
    def opened(self, *_: Any, **__: Any) -> Iterator[Endless]:
        yield self


@pytest.mark.parametrize("size", [None, 10, 10**15], ids=["no length", "too short a length", "its length"])
@pytest.mark.parametrize("scheme", ["https", "s3", "gs"])
def test_download_ends_at_the_size_limit(
    scheme: str, size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("DKD_DOWNLOAD", "1")
    monkeypatch.setenv("DKD_MAX_WEIGHTS_GB", "0.005")
    remote = Endless(size)
    monkeypatch.setattr("fsspec.open", remote.opened)
    with pytest.raises(models.WeightsError, match=r"larger than the limit of 0.005 GB.*DKD_MAX_WEIGHTS_GB"):
        read_source(f"{scheme}://host/weights.pth", None, settings())
    assert remote.sent <= 7 * 2**20
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("limit", ["many", "-1", "0", "nan"])
def test_invalid_size_limit_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_MAX_WEIGHTS_GB", limit)
    with pytest.raises(SettingsError, match=r"DKD_MAX_WEIGHTS_GB .* number of gigabytes"):
        settings()


def test_missing_data_folder_is_reported(home: Path) -> None:
    from core.specs import DatasetRef
    from core.tasks.classification import data

    with pytest.raises(DatasetError, match="there is no image folder"):
        data.load(
            DatasetRef(name="folder", params={"path": "none", "image_size": 8}), TrainingSettings.from_environment()
        )
