"""Rotation of tokens: no request is refused in between, and everything that belongs to the token stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.db import Database, now
from backend.db.models import EarlierTokenText, Token
from backend.settings import Settings
from backend.tokens import bootstrap, identify
from core.protocol.access import EXPIRY_HEADER, TokenEnd
from tests.backend.conftest import ADMIN_TOKEN, WORKER_TOKEN, TestClient
from tests.backend.lab import Json, Lab, metrics, plain, started

READ = "/api/v1/runs"


def make(lab: Lab, name: str = "script", scopes: tuple[str, ...] = ("read",), **more: Any) -> Json:
    made: Json = lab.admin.post("/api/v1/tokens", json={"name": name, "scopes": list(scopes), **more}).json()
    return made


def rotate(lab: Lab, token_id: str, **request: Any) -> Json:
    answer = lab.admin.post(f"/api/v1/tokens/{token_id}/rotate", json=request)
    assert answer.status_code == 200, answer.text
    rotated: Json = answer.json()
    return rotated


def by_name(lab: Lab, name: str) -> Json:
    items: list[Json] = lab.admin.get("/api/v1/tokens").json()["items"]
    return next(item for item in items if item["name"] == name)


def status(lab: Lab, token: str, path: str = READ) -> int:
    return TestClient(lab.app).get(path, headers={"Authorization": f"Bearer {token}"}).status_code


def pass_time(database: Database, **time: float) -> None:
    """Move the ends of all tokens and texts, as if the time had passed."""
    with database.write() as session:
        for text in session.scalars(select(EarlierTokenText)):
            text.ends_at -= timedelta(**time)
        for token in session.scalars(select(Token)):
            for name in ("expires_at", "earlier_text_ends_at"):
                end = getattr(token, name)
                setattr(token, name, end - timedelta(**time) if end else None)


def test_both_texts_are_valid_during_the_overlap_and_then_only_the_new_one(lab: Lab, database: Database) -> None:
    made = make(lab)
    rotated = rotate(lab, made["id"], overlap_hours=2)
    assert rotated["token"].startswith("dkd_")
    assert rotated["token"] != made["token"]
    kept = ("id", "name", "scopes", "created_at", "created_by", "expires_at", "state")
    assert {name: rotated[name] for name in kept} == {name: made[name] for name in kept}
    assert (status(lab, made["token"]), status(lab, rotated["token"])) == (200, 200)
    pass_time(database, hours=1.9)
    assert status(lab, made["token"]) == 200
    pass_time(database, hours=0.2)
    assert (status(lab, made["token"]), status(lab, rotated["token"])) == (401, 200)
    assert by_name(lab, "script")["earlier_text_ends_at"] is None


def test_without_an_overlap_the_earlier_text_ends_at_once(lab: Lab) -> None:
    made = make(lab)
    rotated = rotate(lab, made["id"], overlap_hours=0)
    assert (status(lab, made["token"]), status(lab, rotated["token"])) == (401, 200)
    assert rotated["earlier_text_ends_at"] is None


def test_rotation_without_an_overlap_ends_every_earlier_text(lab: Lab) -> None:
    """For a text that became known, also one that was replaced before."""
    made = make(lab)
    texts = [made, rotate(lab, made["id"], overlap_hours=10), rotate(lab, made["id"], overlap_hours=0)]
    assert [status(lab, text["token"]) for text in texts] == [401, 401, 200]
    assert texts[-1]["earlier_text_ends_at"] is None


def test_a_second_rotation_does_not_cut_the_first_overlap_short(lab: Lab, database: Database) -> None:
    made = make(lab)
    first = rotate(lab, made["id"], overlap_hours=10)
    second = rotate(lab, made["id"], overlap_hours=1)
    assert [status(lab, text["token"]) for text in (made, first, second)] == [200, 200, 200]
    assert second["earlier_text_ends_at"] == first["earlier_text_ends_at"]
    pass_time(database, hours=2)
    assert [status(lab, text["token"]) for text in (made, first, second)] == [200, 401, 200]


def test_revocation_and_expiry_end_every_text(lab: Lab, database: Database) -> None:
    revoked, expiring = make(lab, "a"), make(lab, "b", expires_in_days=1)
    new = [rotate(lab, revoked["id"]), rotate(lab, expiring["id"], overlap_hours=100)]
    lab.admin.delete(f"/api/v1/tokens/{revoked['id']}")
    assert (status(lab, revoked["token"]), status(lab, new[0]["token"])) == (401, 401)
    assert [status(lab, text["token"]) for text in (expiring, new[1])] == [200, 200]
    assert new[1]["earlier_text_ends_at"] == expiring["expires_at"], "an overlap is not longer than the token"
    pass_time(database, days=1.1)
    assert [status(lab, text["token"]) for text in (expiring, new[1])] == [401, 401]


def test_rotation_can_prolong_the_token_but_not_its_earlier_text(lab: Lab, database: Database) -> None:
    made = make(lab, expires_in_days=1)
    rotated = rotate(lab, made["id"], overlap_hours=48, expires_in_days=30)
    assert rotated["expires_at"] > made["expires_at"]
    pass_time(database, days=1.1)
    assert (status(lab, made["token"]), status(lab, rotated["token"])) == (401, 200)


def test_refused_rotations_change_nothing(lab: Lab) -> None:
    made = make(lab)
    for body, path in (
        ({"overlap_hours": -1}, "overlap_hours"),
        ({"overlap_hours": 721}, "overlap_hours"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"overlap": 1}, "overlap"),
    ):
        answer = lab.admin.post(f"/api/v1/tokens/{made['id']}/rotate", json=body)
        assert answer.status_code == 422
        assert path in [error["path"] for error in answer.json()["errors"]]
    assert lab.admin.post("/api/v1/tokens/0000000000000000/rotate", json={}).status_code == 404
    reader = TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}"})
    assert reader.post(f"/api/v1/tokens/{made['id']}/rotate", json={}).status_code == 403
    lab.admin.delete(f"/api/v1/tokens/{made['id']}")
    answer = lab.admin.post(f"/api/v1/tokens/{made['id']}/rotate", json={})
    assert (answer.status_code, answer.json()["detail"]) == (409, "this token is revoked; create a new one")


def test_worker_goes_on_with_its_runs_under_the_new_text(lab: Lab) -> None:
    """The worker belongs to the token and not to its text: no run is refused, lost or claimed twice."""
    lab.register()
    lab.submit(plain(runs=2))
    claim = lab.claim()
    assert lab.events(claim, started()) == 1
    rotated = rotate(lab, by_name(lab, "worker")["id"], overlap_hours=1)
    assert lab.events(claim, metrics(2, 10, {"train/loss": 1.0})) == 2, "still with the earlier text"
    lab.worker.headers["Authorization"] = f"Bearer {rotated['token']}"
    assert lab.orders(claim) == ["continue"]
    assert lab.events(claim, metrics(3, 20, {"train/loss": 0.5})) == 3
    lab.succeed(claim)
    assert lab.run(claim["run_id"])["attempt"] == 1
    lab.succeed(lab.claim())


def test_rotations_under_load_refuse_no_request(make_lab: Callable[..., Lab], database: Database) -> None:
    """Two backends, and clients that read the token again before each request, as from a file."""
    replicas = [make_lab() for _ in range(2)]
    made = make(replicas[0])
    text = [made["token"]]
    stop = threading.Event()
    statuses: list[list[int]] = [[], []]

    def load(number: int) -> None:
        while not stop.is_set():
            headers = {"Authorization": f"Bearer {text[0]}"}
            statuses[number].append(replicas[number].admin.get(READ, headers=headers).status_code)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            before = [len(one) for one in statuses]
            text[0] = rotate(replicas[0], made["id"], overlap_hours=1)["token"]
            while any(len(one) < count + 5 for one, count in zip(statuses, before, strict=True)):
                assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {code for one in statuses for code in one} == {200}
    assert status(replicas[1], made["token"]) == 200, "the first text too, which was replaced five times"


def test_simultaneous_rotations_give_texts_that_are_all_valid(make_lab: Callable[..., Lab]) -> None:
    replicas = [make_lab() for _ in range(2)]
    made = make(replicas[0])
    texts: list[str] = []

    def run(lab: Lab) -> None:
        texts.extend(rotate(lab, made["id"])["token"] for _ in range(3))

    threads = [threading.Thread(target=run, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*texts}) == 6
    assert [status(replicas[0], text) for text in (made["token"], *texts)] == [200] * 7


class TestAnnouncedEnd:
    def announced(self, lab: Lab, token: str) -> TokenEnd | None:
        headers = TestClient(lab.app).get(READ, headers={"Authorization": f"Bearer {token}"}).headers
        return TokenEnd.parse(headers[EXPIRY_HEADER]) if EXPIRY_HEADER in headers else None

    def test_a_token_that_ends_within_two_weeks_is_announced(self, lab: Lab, database: Database) -> None:
        made = make(lab, expires_in_days=15)
        assert self.announced(lab, made["token"]) is None
        pass_time(database, days=1.5)
        end = self.announced(lab, made["token"])
        expected = datetime.fromisoformat(made["expires_at"]) - timedelta(days=1.5)
        assert end == TokenEnd(expected.replace(microsecond=0))
        assert self.announced(lab, ADMIN_TOKEN) is None, "it does not expire"

    def test_an_earlier_text_is_announced_and_the_new_one_is_not(self, lab: Lab) -> None:
        made = make(lab)
        rotated = rotate(lab, made["id"], overlap_hours=720)
        end = self.announced(lab, made["token"])
        assert end is not None
        assert end.replaced
        assert self.announced(lab, rotated["token"]) is None

    def test_errors_and_worker_routes_announce_it_too(self, lab: Lab) -> None:
        made = make(lab, "node", ("worker",), expires_in_days=1)
        client = TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}"})
        registration = {"worker_id": "w", "name": "w", "host": "h", "slots": 1, "device": "cpu"}
        for answer in (client.post("/api/v1/worker/register", json=registration), client.get(READ)):
            assert TokenEnd.parse(answer.headers[EXPIRY_HEADER]) is not None, answer.status_code


class TestFiles:
    """The backend's own token files."""

    @pytest.fixture
    def first(self, settings: Settings, database: Database) -> dict[str, str]:
        bootstrap(database, settings)
        return {"admin": settings.admin_token_file.read_text(), "worker": settings.worker_token_file.read_text()}

    def of(self, database: Database, text: str) -> str:
        principal = identify(database, text.strip())
        assert principal is not None
        return principal.token_id

    def test_rotation_writes_the_new_text_into_the_file(
        self, lab: Lab, settings: Settings, database: Database, first: dict[str, str]
    ) -> None:
        rotated = rotate(lab, self.of(database, first["worker"]))
        assert (rotated["files"], rotated["unwritable_files"]) == (["worker"], [])
        assert settings.worker_token_file.read_text() == rotated["token"] + "\n"
        assert settings.worker_token_file.stat().st_mode & 0o777 == 0o600
        assert settings.admin_token_file.read_text() == first["admin"]
        bootstrap(database, settings)
        assert settings.worker_token_file.read_text() == rotated["token"] + "\n"
        assert rotate(lab, make(lab)["id"])["files"] == []

    def test_a_file_with_an_earlier_text_does_not_bring_it_back(
        self, lab: Lab, settings: Settings, database: Database, first: dict[str, str]
    ) -> None:
        """Without this, each start of a backend whose secret was not replaced would store the old text for ever."""
        rotated = rotate(lab, self.of(database, first["worker"]), overlap_hours=0)
        settings.worker_token_file.write_text(first["worker"])
        count = len(lab.admin.get("/api/v1/tokens").json()["items"])
        bootstrap(database, settings)
        assert identify(database, first["worker"].strip()) is None
        assert len(lab.admin.get("/api/v1/tokens").json()["items"]) == count
        lab.admin.delete(f"/api/v1/tokens/{rotated['id']}")
        bootstrap(database, settings)
        assert identify(database, settings.worker_token_file.read_text().strip()) is not None, "as for a revoked token"

    def test_a_file_that_cannot_be_written_is_named(
        self, lab: Lab, settings: Settings, database: Database, first: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(path: Path, *_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system", str(path))

        monkeypatch.setattr("backend.access.rotation.atomic_write", read_only)
        rotated = rotate(lab, self.of(database, first["admin"]))
        assert (rotated["files"], rotated["unwritable_files"]) == ([], ["admin"])


def test_texts_are_stored_as_hashes_only(lab: Lab, database: Database) -> None:
    made = make(lab)
    rotated = rotate(lab, made["id"])
    with database.read() as session:
        rows = [*session.scalars(select(EarlierTokenText))]
        stored = str([(row.sha256, row.token_id) for row in rows]) + str([*session.scalars(select(Token.sha256))])
        assert [row.token_id for row in rows] == [made["id"]]
        assert all(row.ends_at > now(session) for row in rows)
    for text in (made["token"], rotated["token"], WORKER_TOKEN):
        assert text not in stored
