"""Sign-in by password and by invitation, sessions and their ends, and what of it is recorded."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import structlog
from argon2 import PasswordHasher
from sqlalchemy import select, update

from backend import errors
from backend.api import middleware
from backend.db import Database, models, now
from backend.logging import LogFormat, configure
from backend.sign_in import passwords
from backend.sign_in.passwords import Passwords
from backend.sign_in.sessions import MAX_SESSIONS
from tests.backend.conftest import TestClient
from tests.backend.lab import Json, Lab, plain
from tests.backend.test_audit import entries
from tests.backend.test_people import ok, person, project, submit

API = "/api/v1"
SECRET = "a quiet sentence of anna"


@pytest.fixture(autouse=True)
def _fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with parameters that cost nothing: the tests sign in a hundred times."""
    monkeypatch.setattr(passwords, "RFC_9106_LOW_MEMORY", PasswordHasher(1, 8, 1)._parameters)


def with_password(lab: Lab, name: str = "anna", /, secret: str = SECRET, **roles: str) -> None:
    person(lab, name)
    for place, role in roles.items():
        ok(lab.admin.put(f"{API}/projects/{place}/members/{name}", json={"role": role}))
    ok(lab.admin.put(f"{API}/people/{name}/password", json={"password": secret}))


def attempt(lab: Lab, name: str = "anna", secret: str = SECRET, **more: Any) -> Any:
    return lab.client().post(f"{API}/sessions", json={"person": name, "password": secret, **more})


def sign_in(lab: Lab, name: str = "anna", secret: str = SECRET, **more: Any) -> tuple[TestClient, Json]:
    made: Json = ok(attempt(lab, name, secret, **more), 201)
    return lab.client(headers={"Authorization": f"Bearer {made['token']}"}), made


class TestSignIn:
    def test_session_permits_what_the_roles_permit(self, lab: Lab) -> None:
        project(lab, "lab")
        project(lab, "other")
        with_password(lab, lab="submitter", other="reader")
        anna, made = sign_in(lab, client="a notebook")
        assert (made["person"], made["method"], made["client"], made["address"]) == (
            *("anna", "password", "a notebook"),
            "testclient",
        )
        assert submit(anna, plain("mine"), "lab")["submitted_by"] == "anna"
        assert anna.post(f"{API}/experiments?project=other", json=plain("x")).status_code == 403
        assert anna.get(f"{API}/people").status_code == 403
        account = ok(anna.get(f"{API}/account"))
        assert account["person"]["roles"] == {"lab": "submitter", "other": "reader"}
        assert account["password_changed_at"]
        assert [item["name"] for item in account["tokens"]] == ["anna admin"], "sessions are no tokens"
        assert "session" not in lab.admin.get(f"{API}/tokens").text
        assert ok(lab.admin.get(f"{API}/people/anna"))["tokens"] == 1

    def test_every_refusal_has_the_same_answer_and_makes_one_verification(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_password(lab)
        person(lab, "nopassword")
        with_password(lab, "gone")
        ok(lab.admin.patch(f"{API}/people/gone", json={"disabled": True}))
        verified: list[str | None] = []
        original = Passwords._verify

        def counted(self: Passwords, stored: str | None, secret: bytes) -> bool:
            verified.append(stored)
            return original(self, stored, secret)

        monkeypatch.setattr(Passwords, "_verify", counted)
        answers = [
            attempt(lab, "anna", "wrong wrong wrong"),
            attempt(lab, "nobody"),
            attempt(lab, "nopassword"),
            attempt(lab, "gone"),
            attempt(lab, "not a name / at all"),
        ]
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.text for answer in answers}) == 1
        shown = [sorted(answer.headers.keys() - {"x-request-id"}) for answer in answers]
        assert all(names == shown[0] for names in shown)
        assert len(verified) == len(answers)
        reasons = {item["details"]["reason"] for item in entries(lab, action="sessions.sign_in", refused=True)}
        assert reasons == {"wrong password", "no such person", "no password", "disabled"}

    def test_the_field_of_the_name_is_recorded_for_existing_people_only(self, lab: Lab) -> None:
        with_password(lab)
        assert attempt(lab, SECRET, "anna").status_code == 401
        assert attempt(lab, "anna", "wrong wrong").status_code == 401
        found = entries(lab, action="sessions.sign_in")
        assert [item["object"] for item in found] == ["", "anna"]

    def test_normalization(self, lab: Lab) -> None:
        """One keyboard sends é as one character, another as two."""
        with_password(lab, secret="caf\u00e9 cre\u0301me bru\u0302le\u0301e")
        sign_in(lab, secret="cafe\u0301 cr\u00e9me br\u00fbl\u00e9e")
        assert attempt(lab, secret="cafe creme brulee").status_code == 401

    def test_new_parameters_give_a_new_hash(self, lab: Lab, database: Database) -> None:
        with_password(lab)
        stored = select(models.Person.password_hash).where(models.Person.name == "anna")
        with database.read() as session:
            before = session.scalar(stored)
        sign_in(lab)
        with database.read() as session:
            assert session.scalar(stored) == before
        lab.app.state.sign_in.passwords._hasher = PasswordHasher(2, 16, 1)
        sign_in(lab)
        with database.read() as session:
            after = session.scalar(stored) or ""
        assert "m=16,t=2" in after
        assert "m=16" not in (before or "")
        sign_in(lab)

    def test_disabled_person_loses_sessions_at_once(self, lab: Lab) -> None:
        with_password(lab)
        anna, _ = sign_in(lab)
        ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": True}))
        assert anna.get(f"{API}/account").status_code == 401
        ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": False}))
        assert anna.get(f"{API}/account").status_code == 401, "an ended session does not begin again"
        sign_in(lab)


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("short", "needs at least 12 characters"),
        ("\u2460\u2461\u2462\u2463\u2464", "needs at least 12 characters"),
        ("\ufb03\ufb03\ufb03abcd", ""),  # ligatures, of which NFKC makes three letters each
        ("x" * 256 + "\ufdfa", "at most 256"),
        ("\ufb03" * 200 + "abcde", "has more than 256 characters"),
        ("abababababababab", "needs at least 5 different characters"),
        ("annabel-smith-1", ""),
        ("Annabel-Smith", "must not be the name"),
        ("htims-lebanna", "must not be the name"),
        ("annabel-smithANNABEL-SMITH", "must not be the name"),
        ("Annabel.Smith@Lab.example", "must not be the name"),
    ],
)
def test_rules_of_new_passwords(lab: Lab, secret: str, problem: str) -> None:
    ok(lab.admin.post(f"{API}/people", json={"name": "annabel-smith", "mail": "annabel.smith@lab.example"}), 201)
    answer = lab.admin.put(f"{API}/people/annabel-smith/password", json={"password": secret})
    assert answer.status_code == (422 if problem else 200), answer.text
    if problem:
        assert problem in answer.json()["errors"][0]["message"]
        assert answer.json()["errors"][0]["path"] == "password"
        assert secret not in answer.text


class TestSessions:
    def test_list_and_end(self, lab: Lab) -> None:
        with_password(lab)
        with_password(lab, "bert")
        first, one = sign_in(lab, client="first")
        second, two = sign_in(lab, client="second")
        bert, other = sign_in(lab, "bert")
        listed = ok(first.get(f"{API}/sessions"))["items"]
        assert [(item["id"], item["current"]) for item in listed] == [(two["id"], False), (one["id"], True)]
        assert "token" not in listed[0]
        assert bert.delete(f"{API}/sessions/{one['id']}").status_code == 404
        assert bert.get(f"{API}/sessions/{one['id']}").status_code == 404
        assert ok(first.delete(f"{API}/sessions/{two['id']}"))["id"] == two["id"]
        assert second.get(f"{API}/catalog").status_code == 401
        assert ok(first.get(f"{API}/sessions/current"))["id"] == one["id"]
        ok(first.delete(f"{API}/sessions/current"))
        assert first.get(f"{API}/account").status_code == 401
        assert ok(bert.get(f"{API}/sessions"))["items"][0]["id"] == other["id"]
        names = [(item["action"], item["person"], item["object"]) for item in entries(lab, action="sessions.end")]
        assert names == [("sessions.end", "anna", two["id"]), ("sessions.end", "anna", one["id"])]

    def test_end_all_others_and_all(self, lab: Lab) -> None:
        with_password(lab)
        clients = [sign_in(lab)[0] for _ in range(3)]
        assert ok(clients[0].delete(f"{API}/sessions")) == {"ended": 2}
        assert [client.get(f"{API}/account").status_code for client in clients] == [200, 401, 401]
        assert ok(clients[0].delete(f"{API}/sessions", params={"current": True})) == {"ended": 1}
        assert clients[0].get(f"{API}/account").status_code == 401
        (_, last) = entries(lab, action="sessions.end_sessions")
        assert (last["person"], last["object"], last["details"]) == ("anna", "anna", {"ended": 1})

    def test_idle_end_moves_with_use_and_the_absolute_end_does_not(
        self, make_lab: Callable[..., Lab], database: Database
    ) -> None:
        lab = make_lab(session_idle_hours=1.0, session_hours=10.0)
        with_password(lab)
        anna, made = sign_in(lab)
        token = models.Token

        def shift(**columns: timedelta) -> None:
            with database.write() as session:
                time_now = now(session)
                values = {name: time_now + value for name, value in columns.items()}
                session.execute(update(token).where(token.id == made["id"]).values(**values))

        shift(idle_ends_at=timedelta(minutes=5))
        listed = ok(anna.get(f"{API}/sessions"))["items"][0]  # it writes the uses
        assert listed["idle_ends_at"] > made["created_at"]
        with database.read() as session:
            row = session.get_one(token, made["id"])
            assert row.idle_ends_at is not None
            assert row.idle_ends_at - now(session) > timedelta(minutes=50)
            service = session.scalars(select(token).where(token.name == "admin")).one()
            assert service.last_used_at is not None
            assert service.idle_ends_at is None
        shift(idle_ends_at=timedelta(seconds=-1))
        assert anna.get(f"{API}/account").status_code == 401
        shift(idle_ends_at=timedelta(hours=1), expires_at=timedelta(seconds=-1))
        assert anna.get(f"{API}/account").status_code == 401
        shift(expires_at=timedelta(hours=1))
        ok(anna.get(f"{API}/account"))

    def test_a_person_has_a_bounded_number(self, lab: Lab) -> None:
        with_password(lab)
        first, _ = sign_in(lab)
        for _ in range(MAX_SESSIONS - 1):
            last, _ = sign_in(lab)
        ok(first.get(f"{API}/account"))
        last, _ = sign_in(lab)
        assert first.get(f"{API}/account").status_code == 401
        assert len(ok(last.get(f"{API}/sessions"))["items"]) == MAX_SESSIONS

    def test_a_service_has_no_account(self, lab: Lab) -> None:
        for method, path, body in (
            ("GET", "/account", None),
            ("GET", "/sessions", None),
            ("GET", "/sessions/current", None),
            ("DELETE", "/sessions", None),
            ("DELETE", "/sessions/current", None),
            ("PUT", "/account/password", {"current": SECRET, "new": SECRET + "2"}),
        ):
            answer = lab.admin.request(method, f"{API}{path}", json=body)
            assert answer.status_code == 409, (path, answer.text)
            assert "belongs to a service" in answer.json()["detail"]

    def test_a_token_of_a_person_reads_the_account_and_is_no_session(self, lab: Lab) -> None:
        anna = person(lab, "anna", scopes=("read",))
        ok(anna.get(f"{API}/account"))
        assert anna.get(f"{API}/sessions/current").status_code == 404
        assert anna.delete(f"{API}/sessions").status_code == 403
        assert anna.put(f"{API}/account/password", json={"current": "x", "new": SECRET}).status_code == 403

    def test_sessions_are_not_rotated_and_announce_no_end(self, make_lab: Callable[..., Lab]) -> None:
        lab = make_lab(session_hours=1.0, session_idle_hours=1.0)
        with_password(lab)
        anna, made = sign_in(lab)
        assert "dkd-token-ends" not in anna.get(f"{API}/account").headers
        rotated = lab.admin.post(f"{API}/tokens/{made['id']}/rotate", json={})
        assert rotated.status_code == 409
        ok(lab.admin.delete(f"{API}/tokens/{made['id']}"))
        assert anna.get(f"{API}/account").status_code == 401


class TestPasswords:
    def test_a_change_needs_the_present_one_and_ends_other_sessions(self, lab: Lab) -> None:
        with_password(lab)
        anna, _ = sign_in(lab)
        other, _ = sign_in(lab)
        path, new = f"{API}/account/password", "another sentence of anna"
        assert anna.put(path, json={"current": "wrong wrong wrong", "new": new}).status_code == 403
        same = anna.put(path, json={"current": SECRET, "new": SECRET})
        assert same.status_code == 422
        assert same.json()["errors"][0]["path"] == "new"
        assert anna.put(path, json={"current": SECRET, "new": "short"}).status_code == 422
        ok(other.get(f"{API}/account"))
        assert ok(anna.put(path, json={"current": SECRET, "new": new})) == {"ended": 1}
        ok(anna.get(f"{API}/account"))
        assert other.get(f"{API}/account").status_code == 401
        assert attempt(lab).status_code == 401
        sign_in(lab, secret=new)
        found = [(item["status"], item["object"]) for item in entries(lab, action="account.change_password")]
        assert found == [(403, "anna"), (200, "anna")]

    def test_an_admin_sets_and_removes_one(self, lab: Lab) -> None:
        with_password(lab)
        anna, _ = sign_in(lab)
        assert ok(lab.admin.put(f"{API}/people/anna/password", json={"password": "set by an admin"})) == {"ended": 1}
        assert anna.get(f"{API}/account").status_code == 401
        anna, _ = sign_in(lab, secret="set by an admin")
        assert ok(lab.admin.delete(f"{API}/people/anna/password")) == {"ended": 1}
        assert anna.get(f"{API}/account").status_code == 401
        assert attempt(lab, secret="set by an admin").status_code == 401
        assert ok(lab.admin.get(f"{API}/people/anna"))["has_password"] is False
        assert lab.admin.put(f"{API}/people/nobody/password", json={"password": SECRET}).status_code == 404

    def test_people_who_are_no_admins_set_none(self, lab: Lab) -> None:
        project(lab, "lab")
        with_password(lab, lab="admin")
        with_password(lab, "bert")
        anna, _ = sign_in(lab)
        for method, path, body in (
            ("PUT", "/people/bert/password", {"password": SECRET}),
            ("DELETE", "/people/bert/password", None),
            ("POST", "/people/bert/invitation", {}),
            ("DELETE", "/people/bert/identities", None),
        ):
            assert anna.request(method, f"{API}{path}", json=body).status_code == 403, path
        sign_in(lab, "bert")

    def test_an_invitation_sets_one_once(self, lab: Lab, database: Database) -> None:
        with_password(lab)
        old, _ = sign_in(lab)
        first = ok(lab.admin.post(f"{API}/people/anna/invitation", json={}), 201)
        second = ok(lab.admin.post(f"{API}/people/anna/invitation", json={"expires_in_hours": 1}), 201)
        sign_in(lab)  # the present password is valid until then
        client = lab.client()

        def use(code: str, secret: str = "chosen by anna") -> Any:
            return client.post(f"{API}/sessions/invitation", json={"code": code, "password": secret})

        assert use(first["code"]).status_code == 401, "a new code ends the earlier one"
        assert use(second["code"], "short").status_code == 422
        made = ok(use(second["code"]), 201)
        assert (made["person"], made["method"]) == ("anna", "invitation")
        assert use(second["code"], "chosen by eve").status_code == 401
        assert old.get(f"{API}/account").status_code == 401
        assert attempt(lab).status_code == 401
        sign_in(lab, secret="chosen by anna")
        third = ok(lab.admin.post(f"{API}/people/anna/invitation", json={}), 201)
        with database.write() as session:
            session.execute(update(models.Invitation).values(ends_at=now(session) - timedelta(seconds=1)))
        assert use(third["code"]).status_code == 401
        fourth = ok(lab.admin.post(f"{API}/people/anna/invitation", json={}), 201)
        ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": True}))
        assert use(fourth["code"]).status_code == 401
        assert lab.admin.post(f"{API}/people/anna/invitation", json={}).status_code == 422
        ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": False}))
        assert use(fourth["code"]).status_code == 401
        (entry,) = entries(lab, action="sessions.sign_in_invited", refused=False)
        assert (entry["person"], entry["kind"]) == ("anna", "session")


def test_sign_ins_are_recorded(lab: Lab) -> None:
    with_password(lab)
    _, made = sign_in(lab)
    (entry,) = entries(lab, action="sessions.sign_in")
    assert (entry["status"], entry["person"], entry["kind"], entry["object"]) == (200, "anna", "session", made["id"])
    assert (entry["token_id"], entry["address"]) == (made["id"], "testclient")


@contextmanager
def captured_logs(form: LogFormat, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Collect everything that the backend and its libraries log, as the backend configures it."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level, earlier = root.handlers[:], root.level, structlog.get_config()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        configure(form, "debug")
    structlog.configure(**{**structlog.get_config(), "cache_logger_on_first_use": False})
    for module in (errors, middleware):  # their loggers may have been bound to the streams of an earlier test
        monkeypatch.setattr(module, "_log", structlog.get_logger())
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**earlier)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_password_is_logged_recorded_or_answered(lab: Lab, form: LogFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not if hashing fails, and if the body is not valid."""
    secret = "unmistakable-secret-9"
    with captured_logs(form, monkeypatch) as logs:
        with_password(lab, secret=secret)
        anna, _ = sign_in(lab, secret=secret)
        answers = [
            attempt(lab, secret=secret + "x"),
            attempt(lab, secret=secret, client="x" * 101),
            attempt(lab, secret=secret, other="field"),
            attempt(lab, secret=secret * 20),
            lab.client().post(f"{API}/sessions", content=f'{{"person": "anna", "password": "{secret}"'),
            anna.put(f"{API}/account/password", json={"current": secret + "y", "new": secret + "z"}),
            anna.put(f"{API}/account/password", json={"current": secret, "new": [secret]}),
            anna.get(f"{API}/account"),
            lab.admin.get(f"{API}/audit"),
        ]

        def broken(self: Passwords, stored: str | None, password: bytes) -> bool:
            raise RuntimeError("the hash cannot be computed")

        monkeypatch.setattr(Passwords, "_verify", broken)
        client = lab.client(raise_server_exceptions=False)
        failed = client.post(f"{API}/sessions", json={"person": "anna", "password": secret})
        assert failed.status_code == 500
    assert [answer.status_code for answer in answers] == [401, 422, 422, 422, 422, 403, 422, 200, 200]
    for answer in [*answers, failed]:
        assert secret not in answer.text, answer.text
    assert "the hash cannot be computed" in logs.getvalue()
    assert secret not in logs.getvalue()
