"""docker/make_secrets.py: the secrets that the first start of the containers creates."""

from __future__ import annotations

import runpy
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "docker" / "make_secrets.py"))
main: Callable[[Path], None] = SCRIPT["main"]
SecretError: Any = SCRIPT["SecretError"]
CHOSEN = "chosen-by-a-person-0123"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("admin", "worker", "dashboard", "database", "broker"):
        (tmp_path / name).mkdir()
        monkeypatch.delenv(f"DKD_{name.upper()}_{'PASSWORD' if name in ('database', 'broker') else 'TOKEN'}", False)
    return tmp_path


def contents(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): file.read_text() for file in root.rglob("*") if file.is_file()}


def test_secrets_are_created_once_and_are_distinct(root: Path) -> None:
    main(root)
    made = contents(root)
    single = [made[f"{name}/token"] for name in ("admin", "worker", "dashboard")]
    single += [made["database/password"], made["broker/password"]]
    assert len(set(single)) == 5
    assert min(map(len, single)) > 40
    assert made["database/password"].strip() in made["database/dkd_database_url"]
    assert made["broker/password"].strip() in made["broker/dkd_broker_url"]
    assert made["broker/redis.conf"] == f"requirepass {made['broker/password']}"
    main(root)
    assert contents(root) == made
    for name in ("admin", "worker", "dashboard"):
        assert stat.S_IMODE((root / name / "token").stat().st_mode) == 0o400


def test_environment_sets_secrets_at_the_first_start_and_tokens_later(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DKD_DATABASE_PASSWORD", "p@ss/word:with?all#of%it")
    main(root)
    assert contents(root)["database/dkd_database_url"] == (
        "postgresql://dkd:p%40ss%2Fword%3Awith%3Fall%23of%25it@postgres/dkd\n"
    )
    monkeypatch.delenv("DKD_DATABASE_PASSWORD")
    monkeypatch.setenv("DKD_ADMIN_TOKEN", CHOSEN)
    main(root)
    assert contents(root)["admin/token"] == f"{CHOSEN}\n"
    assert contents(root)["database/password"] == "p@ss/word:with?all#of%it\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"DKD_ADMIN_TOKEN": "short"}, "DKD_ADMIN_TOKEN needs at least 20 ASCII characters"),
        ({"DKD_BROKER_PASSWORD": "with spaces and 'quotes'"}, "DKD_BROKER_PASSWORD needs"),
        ({"DKD_ADMIN_TOKEN": CHOSEN, "DKD_WORKER_TOKEN": CHOSEN}, "two of the tokens are the same"),
        ({"DKD_DATABASE_PASSWORD": CHOSEN}, "DKD_DATABASE_PASSWORD differs from the password of the existing database"),
    ],
)
def test_invalid_secret_is_refused_and_changes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str
) -> None:
    main(root)
    before = contents(root)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SecretError, match=message) as refused:
        main(root)
    assert not any(value in str(refused.value) for value in values.values())
    assert contents(root) == before
