"""Class folders with names that are not UTF-8, and with several spellings of one name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from core.events import JOURNAL_NAME, Failed, Finished, Journal, JournalReader, Log, read_journal
from core.protocol.worker import EventBatch
from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification import data
from tests.core import data_files as files

CAFE = "caf\u00e9"
Form = Literal["NFC", "NFD"]

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DKD_PACK_DIR", raising=False)
    return tmp_path


def load(path: str = "pets") -> data.Dataset:
    return data.load(
        DatasetRef(name="folder", params={"path": path, "image_size": 8}), TrainingSettings.from_environment()
    )


class TestNamesThatAreNotUtf8:
    def spec(self, root: Path) -> Path:
        network = {"name": "small_cnn", "params": {"width": 2}}
        content = {
            "name": "names",
            "dataset": {"name": "folder", "params": {"path": "pets", "image_size": 8}},
            "teacher": {"model": network},
            "student": {"model": network},
            "methods": ["kd"],
            "seeds": [0],
            "training": {"epochs": 1, "batch_size": 4},
        }
        path = root / "spec.json"
        path.write_text(json.dumps(content))
        return path

    def out(self, root: Path) -> Path:
        return root / os.fsdecode(b"\xfaut")

    def core_run(self, root: Path) -> subprocess.CompletedProcess[bytes]:
        """Run ``python -m core run`` with a data folder, class folders and files whose names are not UTF-8."""
        data_dir = root / os.fsdecode(b"d\xe9ta")
        for split in ("train", "test"):
            for label, name in enumerate((NOT_UTF8, "dog")):
                for number in range(4):
                    picture = files.picture(data_dir / "x.png", (label, number, 100))
                    to = data_dir / "pets" / split / name / os.fsdecode(b"\xff%d.png" % number)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    picture.rename(to)
        (data_dir / "pets/train" / NOT_UTF8 / os.fsdecode(b"\xe8.json")).write_text("{}")
        environment = os.environ | {"DATA_DIR": str(data_dir), "PYTHONIOENCODING": "utf-8", "DKD_THREADS": "1"}
        environment["DKD_CACHE_DIR"] = str(root / os.fsdecode(b"c\xe4che"))
        command = [sys.executable, "-m", "core", "run", str(self.spec(root)), "--out", str(self.out(root))]
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)

    def test_images_are_trained_on_and_names_are_escaped(self, root: Path) -> None:
        done = self.core_run(root)
        assert done.returncode == 0, done.stderr
        assert rb"d\xe9ta/pets: skipped 1 files and folders" in done.stderr
        assert rb"train/caf\xe9/\xe8.json" in done.stderr
        records = JournalReader(self.out(root) / "teacher-seed0" / JOURNAL_NAME).read()
        assert isinstance(records[-1].event, Finished)
        # As a worker sends it.
        assert r"caf\\xe9" in EventBatch(attempt=1, records=records).model_dump_json()

    def test_failure_event_has_the_escaped_reason(self, root: Path) -> None:
        assert self.core_run(root).returncode == 0
        damaged = root / os.fsdecode(b"d\xe9ta") / "pets/train" / NOT_UTF8 / os.fsdecode(b"\xe4.png")
        damaged.write_text("no image")
        (self.out(root) / "teacher-seed0/fingerprint.json").unlink()  # or the finished run is kept
        done = self.core_run(root)
        assert done.returncode == 1
        *_, last = read_journal(self.out(root) / "teacher-seed0" / JOURNAL_NAME)
        assert isinstance(last.event, Failed)
        assert r"1 image(s) cannot be read: " in last.event.reason
        assert r"train/caf\xe9/\xe4.png" in last.event.reason

    def test_class_names_are_valid_utf8(self, root: Path) -> None:
        files.tree(root / "pets", [NOT_UTF8, "dog"])
        assert load().classes == (r"caf\xe9", "dog")

    def test_spec_names_folder_by_escaped_bytes(self, root: Path) -> None:
        files.tree(root / os.fsdecode(b"p\xe9ts"), ["cat", "dog"])
        assert len(load(r"p\xe9ts").train) == 4

    @pytest.mark.parametrize("path", [r"a\b", r"\\host", r"a\x2e\x2e/b", r"a\xzz"])
    def test_other_backslashes_are_refused(self, path: str) -> None:
        with pytest.raises(ValueError, match="must be a relative path"):
            DatasetRef(name="folder", params={"path": path, "image_size": 8})

    @pytest.mark.parametrize("text", [NOT_UTF8, "\ud800 alone"])
    def test_journal_accepts_any_string(self, root: Path, text: str) -> None:
        with Journal(root / JOURNAL_NAME) as journal:
            journal.log(text)
            journal.append(Failed(kind="error", reason=f"{text} {CAFE}"))
        log, failed = (record.event for record in read_journal(root / JOURNAL_NAME))
        assert isinstance(log, Log)
        assert isinstance(failed, Failed)
        assert log.message.isascii()
        assert failed.reason.endswith(f" {CAFE}")


class TestSpellings:
    @pytest.mark.parametrize(("train", "test"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_nfc_and_nfd_are_the_same_class(self, root: Path, train: Form, test: Form) -> None:
        for split, form in (("train", train), ("test", test)):
            for label, name in enumerate((unicodedata.normalize(form, CAFE), "zoo")):
                files.picture(root / "pets" / split / name / "0.png", (label, 0, 0))
        dataset = load()
        assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1]

    def test_spec_names_folder_in_nfc_or_nfd(self, root: Path) -> None:
        files.tree(root / unicodedata.normalize("NFD", CAFE), ["cat", "dog"])
        assert len(load(CAFE).train) == 4

    def test_two_spellings_in_one_split_are_refused(self, root: Path) -> None:
        files.tree(root / "pets", [unicodedata.normalize(form, CAFE) for form in ("NFC", "NFD")])
        with pytest.raises(data.DatasetError, match=r"differ only by how their accents are encoded .*caf\\xe9.*merge"):
            load()

    @pytest.mark.parametrize(
        ("one", "other"), [("Cat", "cat"), ("cat\u200b", "cat"), ("cat\u3164", "cat"), ("cat ", "cat")]
    )
    def test_look_alike_of_a_class_is_named_in_the_error(self, root: Path, one: str, other: str) -> None:
        files.tree(root / "pets", [one, "dog"], splits=("train",))
        files.tree(root / "pets", [other, "dog"], splits=("test",))
        with pytest.raises(data.DatasetError, match=r"differs from .* only in case or in invisible characters"):
            load()

    @pytest.mark.parametrize("names", [("Cat", "cat"), ("cat\u200b", "cat")])
    def test_look_alike_classes_are_logged(
        self, root: Path, names: tuple[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        files.tree(root / "pets", list(names))
        assert load().num_classes == 2
        assert "differ only in case or in invisible characters; they are two classes" in caplog.text
