"""The folder of an attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.protocol.worker import ArtifactRef
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
