"""Rows of the threat model in SECURITY.md that no other test tries, and whether the tests that it names exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import pytest
import yaml

from backend.db import Database, new_id, now
from backend.db.models import Token
from backend.settings import Settings
from backend.tokens import digest
from tests.backend.lab import Lab
from tests.backend.test_serving import answers, serve
from tests.services import free_port

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.fixture
def database_url(tmp_path: Path, migrated_file: Path) -> str:
    shutil.copy(migrated_file, tmp_path / "dkd.sqlite3")
    return f"sqlite:///{tmp_path / 'dkd.sqlite3'}"


def test_tests_that_the_threat_model_names_exist() -> None:
    section = TEXT.partition("## Threat model")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 25
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", section)
    assert len(named) > 20
    for file, function in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"\bdef {function}\b|\bclass {function}\b", source), (file, function)
    for row in rows:
        if not row.startswith("| who or what"):
            assert "tests/" in row or "by hand" in row, row


def test_write_access_to_the_database_opens_everything(lab: Lab, database: Database) -> None:
    text = "dkd_chosen-by-whoever-writes-to-the-database"
    with database.write() as session:
        row = Token(id=new_id(), name="forged", sha256=digest(text), scopes=["admin"], created_at=now(session))
        session.add(row)
    answer = lab.admin.get("/api/v1/tokens", headers={"Authorization": f"Bearer {text}"})
    assert answer.status_code == 200


def test_ports_are_reachable_from_this_machine_only_by_default() -> None:
    assert Settings().host == "127.0.0.1"
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(re.match(r"\$\{\w+:-127\.0\.0\.1\}:", port) for port in ports)
    assert services["postgres"]["networks"] == ["database"]
    assert services["redis"]["networks"] == ["broker"]


@pytest.mark.parametrize(("proxies", "second"), [("", 429), ("127.0.0.1", 401), ("10.0.0.0/8", 429)])
def test_address_of_a_client_is_its_own_unless_a_trusted_proxy_names_it(
    tmp_path: Path, database_url: str, proxies: str, second: int
) -> None:
    """Otherwise every account of the machine could evade the limits by inventing addresses."""
    port = free_port()
    process = serve(tmp_path, port, DKD_RATE_OF_REFUSED="0.001", DKD_TRUSTED_PROXIES=proxies)
    try:
        assert answers(port, process)
        statuses = [
            httpx.get(
                f"http://127.0.0.1:{port}/api/v1/runs", headers={"X-Forwarded-For": client}, trust_env=False
            ).status_code
            for client in ("192.0.2.1", "192.0.2.2")
        ]
        assert statuses == [401, second]
    finally:
        process.kill()
        process.wait()
