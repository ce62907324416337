"""The folder of an attempt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from core.protocol.worker import ArtifactRef, Claim, TeacherRef
from tests.worker.fake import RUN, FakeBackend
from worker.attempt_folder import ClaimError, prepare_attempt


@pytest.mark.parametrize("what", ["folder", "teacher", "checkpoint"])
@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "runs/../../outside", "link/outside", ".", "", "a\0b"])
def test_path_outside_the_store_is_refused(tmp_path: Path, what: str, path: str) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "outside").write_bytes(b"foreign")
    fields: dict[str, object] = {
        "folder": {"folder": path},
        "teacher": {"teacher": ArtifactRef(path=path), "teacher_spec": RUN},
        "checkpoint": {"checkpoint": ArtifactRef(path=path)},
    }[what]  # type: ignore[assignment]
    claim = FakeBackend().add(**fields)  # type: ignore[arg-type]
    with pytest.raises(ClaimError, match=r"is outside the artifact store|cannot be used"):
        prepare_attempt(root, claim)
    assert list(root.iterdir()) == [root / "link"]


def test_students_of_a_teacher_are_passed_to_its_training(tmp_path: Path) -> None:
    students = [{"role": "student", "seed": 3}, {"role": "student", "seed": 4}]
    claim = FakeBackend().add().model_copy(update={"students": students})
    given = list(prepare_attempt(tmp_path, claim).arguments)
    files = [Path(given[at + 1]) for at, word in enumerate(given) if word == "--student"]
    assert [file.name for file in files] == ["student-1.json", "student-2.json"]
    assert [json.loads(file.read_text(encoding="utf-8")) for file in files] == students


class TestSeveralTeachers:
    def claim(self, root: Path, content: bytes = b"second") -> Claim:
        digest = hashlib.sha256(b"second").hexdigest()
        for name, weights in (("one", b"first"), ("two", content)):
            (root / name).mkdir(parents=True)
            (root / name / "weights").write_bytes(weights)
        other = TeacherRef(weights=ArtifactRef(path="two/weights", sha256=digest), spec={"role": "teacher", "seed": 1})
        first = ArtifactRef(path="one/weights")
        return FakeBackend().add(teacher=first, teacher_spec=RUN, further_teachers=[other])

    def test_each_is_passed_to_the_training_with_its_own_weights(self, tmp_path: Path) -> None:
        folder = prepare_attempt(tmp_path, self.claim(tmp_path))
        given = list(folder.arguments)
        pairs = [(given[at + 1], given[at + 3]) for at, word in enumerate(given) if word == "--teacher"]
        assert [word for word in given if word.startswith("--teacher")] == ["--teacher", "--teacher-weights"] * 2
        assert [(Path(spec).name, Path(weights)) for spec, weights in pairs] == [
            ("teacher.json", tmp_path / "one/weights"),
            ("teacher-2.json", tmp_path / "two/weights"),
        ]
        assert json.loads(Path(pairs[1][0]).read_text(encoding="utf-8")) == {"role": "teacher", "seed": 1}

    def test_weights_that_changed_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClaimError, match="the teacher's weights: file has changed"):
            prepare_attempt(tmp_path, self.claim(tmp_path, b"planted"))
