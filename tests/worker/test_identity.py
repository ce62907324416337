"""The worker's id."""

from __future__ import annotations

from pathlib import Path

from worker.identity import WorkerIdentity


def test_id_survives_restarts(tmp_path: Path) -> None:
    with WorkerIdentity(tmp_path, "gpu box/1") as first:
        pass
    with WorkerIdentity(tmp_path, "gpu box/1") as second:
        assert second.id == first.id
    with WorkerIdentity(tmp_path, "gpu box 1") as other:
        assert other.id != first.id


def test_workers_with_the_same_name_have_different_ids(tmp_path: Path) -> None:
    with WorkerIdentity(tmp_path, "box") as first, WorkerIdentity(tmp_path, "box") as second:
        assert first.id != second.id
        assert (first.name, second.name) == ("box", "box-2")
    with WorkerIdentity(tmp_path, "box") as again:
        assert again.id == first.id


def test_damaged_id_file_is_replaced(tmp_path: Path) -> None:
    with WorkerIdentity(tmp_path, "box") as first:
        pass
    [file] = (tmp_path / "workers").iterdir()
    file.write_text(first.id[:10])
    with WorkerIdentity(tmp_path, "box") as second:
        assert len(second.id) == 36
        assert second.id != first.id
