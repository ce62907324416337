"""docs/operations.md: the restore drill works as printed, on both kinds of database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from backend.__main__ import cli
from backend.db import Database, models
from tests import services
from tests.backend import filled
from tests.backend.lab import Lab
from tests.backend.test_backups import contents, stored_weights

ROOT = Path(__file__).parents[2]
PORT = "8799"


def blocks() -> list[str]:
    """Return the shell blocks of the drill."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    drill = text.split("### Restore drill\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", drill, re.MULTILINE | re.DOTALL)


@pytest.fixture
def drill_url(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the address of an empty database of the same kind."""
    with ExitStack() as stack:
        if database.is_sqlite:
            yield f"sqlite:///{tmp_path / 'drill' / 'dkd.sqlite3'}"
        else:
            yield stack.enter_context(services.postgres_database(request.getfixturevalue("postgres_server")))


@pytest.mark.slow
def test_the_restore_drill_works_as_printed(
    lab: Lab, database: Database, database_url: str, drill_url: str, tmp_path: Path
) -> None:
    artifacts, drill, downloaded = tmp_path / "artifacts", tmp_path / "drill", tmp_path / "downloaded"
    run_ids = filled.fill(lab, database)
    content = os.urandom(1000)
    stored_weights(database, artifacts, run_ids["done"], content)
    with database.read() as session:
        for path in session.scalars(select(models.Run.checkpoint_path).where(models.Run.checkpoint_path != "")):
            (artifacts / path).parent.mkdir(parents=True, exist_ok=True)
            (artifacts / path).write_bytes(b"a checkpoint")
        names = session.scalars(select(models.Experiment.name)).all()
    backup = tmp_path / "backups" / "newest.sqlite3"
    made = CliRunner().invoke(cli, ["db", "backup", str(backup)], env={"DKD_DATABASE_URL": database_url})
    assert made.exit_code == 0, made.output
    before = contents(database)
    drill.mkdir()

    verify_and_serve, look, end = blocks()
    assert verify_and_serve.count(PORT) == look.count(PORT) == 1
    keep = 'cp "$DRILL/weights.safetensors" "$DOWNLOADED"\n'
    script = (verify_and_serve + look + keep + end).replace(PORT, str(services.free_port()))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("DKD_") or name == "DKD_CACHE_DIR"
    }
    environment |= {
        "BACKUP": str(backup),
        "ARTIFACTS": str(artifacts),
        "DRILL": str(drill),
        "DRILL_URL": drill_url,
        "DOWNLOADED": str(downloaded),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    log = drill / "backend.log"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log.read_text() if log.exists() else ''}"
    assert "are equal in the original database" in done.stdout
    assert "1 weights, 1 uploads and 0 other files" in done.stdout
    assert "every table is equal to its manifest" in done.stdout
    assert all(name in done.stdout for name in names)
    assert run_ids["done"] in done.stdout
    assert downloaded.read_bytes() == content
    assert not drill.exists()
    assert contents(database) == before, "the drill changes nothing of the running system"
