"""Limits of failed sign-ins: they slow down guesses, and keep no person out of a device that the person has used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from argon2 import PasswordHasher

from backend.access.rate_limiter import RateLimiter
from backend.access.sign_in_limits import LIMITS, SignInLimits
from backend.errors import ApiError
from backend.sign_in import passwords
from tests.backend.lab import Json, Lab
from tests.backend.test_audit import entries
from tests.backend.test_people import ok, person
from tests.backend.test_sessions import API, SECRET, attempt, sign_in, with_password

WRONG = "wrong wrong wrong"


class Clock:
    """A clock that tests move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "RFC_9106_LOW_MEMORY", PasswordHasher(1, 8, 1)._parameters)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(lab: Lab, clock: Clock) -> SignInLimits:
    """The lab's limits, with a clock that stands still."""
    settings = lab.app.state.settings.model_copy(update={"broker_url": "filesystem://"})
    made = SignInLimits(settings, clock=clock)
    for name in ("sign_in", "oidc"):
        object.__setattr__(getattr(lab.app.state, name), "limits", made)
    return made


def elsewhere(lab: Lab, number: int, **more: Any) -> int:
    """Try a wrong password from another network, and return the status."""
    client = lab.client(client=(f"192.0.2.{number}", 1))
    body = {"person": "anna", "password": WRONG, **more}
    status: int = client.post(f"{API}/sessions", json=body).status_code
    return status


@pytest.mark.usefixtures("limits")
class TestFailures:
    def test_with_a_name_from_a_network(self, lab: Lab, clock: Clock) -> None:
        with_password(lab)
        for _ in range(5):
            assert attempt(lab, secret=WRONG).status_code == 401
        refused = attempt(lab)
        assert refused.status_code == 429, "also the right password, or else 429 would tell it"
        assert refused.headers["retry-after"] == "30"
        clock.now += 30
        sign_in(lab)
        for _ in range(8):
            sign_in(lab)  # a success costs nothing

    def test_unknown_name_is_limited_like_a_known_one(self, lab: Lab) -> None:
        statuses = [attempt(lab, "nobody").status_code for _ in range(6)]
        assert statuses == [401] * 5 + [429]

    def test_name_from_many_networks_where_its_person_has_signed_in(self, lab: Lab) -> None:
        with_password(lab)
        sign_in(lab)  # from "testclient"
        statuses = [elsewhere(lab, number) for number in range(40)]
        assert statuses[:30] == [401] * 30
        assert set(statuses[30:]) == {429}
        sign_in(lab)

    def test_from_a_network(self, lab: Lab) -> None:
        with_password(lab)
        statuses = [attempt(lab, f"name{number}").status_code for number in range(62)]
        assert statuses == [401] * 60 + [429] * 2
        assert attempt(lab).status_code == 429
        wrong = lab.client().post(f"{API}/sessions/invitation", json={"code": "x", "password": SECRET})
        assert wrong.status_code == 429

    def test_network_that_fails_does_not_stop_an_invitation(self, lab: Lab) -> None:
        """A code cannot be guessed, so that attempts of others need not be counted for it."""
        person(lab, "anna")
        for number in range(62):
            attempt(lab, f"name{number}")
        code = ok(lab.admin.post(f"{API}/people/anna/invitation", json={}), 201)["code"]
        ok(lab.client().post(f"{API}/sessions/invitation", json={"code": code, "password": SECRET}), 201)

    @pytest.mark.parametrize("status", [503, 422, 500])
    def test_refusal_of_the_service_is_no_failure(self, lab: Lab, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
        with_password(lab)

        async def refuse(*_: Any) -> bool:
            raise ApiError(status, "not now") if status != 500 else OSError("of the disk")

        with monkeypatch.context() as patch:
            patch.setattr(passwords.Passwords, "verify", refuse)
            client = lab.client(raise_server_exceptions=False)
            body = {"person": "anna", "password": SECRET}
            assert {client.post(f"{API}/sessions", json=body).status_code for _ in range(10)} == {status}
        sign_in(lab)

    def test_new_password_that_breaks_a_rule_is_no_failure(self, lab: Lab) -> None:
        person(lab, "anna")
        code = ok(lab.admin.post(f"{API}/people/anna/invitation", json={}), 201)["code"]
        body = {"code": code, "password": "short"}
        statuses = {lab.client().post(f"{API}/sessions/invitation", json=body).status_code for _ in range(70)}
        assert statuses == {422}
        assert attempt(lab, "somebody").status_code == 401


@pytest.mark.usefixtures("limits")
class TestDevice:
    def used_up(self, lab: Lab) -> None:
        """Fail until every bucket of the name and of the network refuses."""
        for number in range(70):
            attempt(lab, secret=WRONG)
            elsewhere(lab, number)
            attempt(lab, f"name{number}")
        assert attempt(lab).status_code == 429

    @pytest.mark.parametrize("ended", [False, True])
    def test_person_signs_in_while_a_stranger_keeps_trying(self, lab: Lab, ended: bool) -> None:
        with_password(lab)
        anna, made = sign_in(lab)
        if ended:
            ok(anna.delete(f"{API}/sessions/current"))
        self.used_up(lab)
        sign_in(lab, earlier_session=made["token"])
        sign_in(lab, earlier_session=made["token"])

    def test_has_five_attempts(self, lab: Lab, clock: Clock) -> None:
        with_password(lab)
        _, made = sign_in(lab)
        self.used_up(lab)
        statuses = [attempt(lab, secret=WRONG, earlier_session=made["token"]).status_code for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        clock.now += 30
        sign_in(lab, earlier_session=made["token"])

    def test_is_that_of_its_person_only(self, lab: Lab) -> None:
        with_password(lab)
        with_password(lab, "bert")
        _, bert = sign_in(lab, "bert")
        self.used_up(lab)
        for text in (bert["token"], "dkd_unknown", "", lab.admin.headers["authorization"].partition(" ")[2]):
            assert attempt(lab, earlier_session=text).status_code == 429

    def test_current_password_is_asked_for_while_a_stranger_keeps_trying(self, lab: Lab) -> None:
        with_password(lab)
        anna, _ = sign_in(lab)
        self.used_up(lab)
        ok(anna.put(f"{API}/account/password", json={"current": SECRET, "new": "another quiet sentence"}))


def test_who_keeps_trying_uses_up_the_own_network_first(limits: SignInLimits, clock: Clock) -> None:
    """Attempts of a name every second, for hours: those of two networks leave the name to its person elsewhere."""

    async def tries(client: str) -> bool:
        try:
            async with limits.attempt("anna", client):
                raise ApiError(401, "wrong")
        except ApiError as error:
            return error.status == 401

    async def hours() -> list[bool]:
        results = []
        for second in range(3 * 3600):
            clock.now = float(second)
            for number in range(2):
                await tries(f"192.0.2.{number}")
            if second % 1800 == 1799:
                results.append(await tries("198.51.100.1"))
        return results

    assert set(asyncio.run(hours())) == {True}


def test_session_begins_while_its_network_may_try_no_further_tokens(lab: Lab, clock: Clock) -> None:
    settings = lab.app.state.settings.model_copy(update={"broker_url": "filesystem://", "rate_of_refused": 1.0})
    lab.app.state.rate_limiter = RateLimiter(settings, clock=clock)
    with_password(lab)

    def get(token: str) -> int:
        status: int = (
            lab.client(headers={"Authorization": f"Bearer {token}"}).get(f"{API}/sessions/current").status_code
        )
        return status

    assert {get(f"dkd_guess{number}") for number in range(20)} == {401, 429}
    made: Json = ok(attempt(lab), 201)
    assert get(made["token"]) == 200
    assert get("dkd_another_guess") == 429


def test_refused_name_is_not_written_before_the_answer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each name that exists would take time that tells the sender which names exist."""
    with_password(lab)
    with_password(lab, "bert")
    written = []
    original = lab.app.state.database.write_async

    async def counted(work: Any) -> Any:
        written.append(work)
        return await original(work)

    monkeypatch.setattr(lab.app.state.database, "write_async", counted)
    for name in ("anna", "nobody", "bert", "somebody", "anna"):
        assert attempt(lab, name, WRONG).status_code == 401
    assert not written
    names = [entry["object"] for entry in entries(lab, action="sessions.sign_in", refused=True)]
    assert names == ["anna", "", "bert"]


def test_every_limit_has_a_text_for_its_refusal(limits: SignInLimits, clock: Clock) -> None:
    """A refusal says which limit was reached."""

    async def texts() -> set[str]:
        found = set()
        for name, client in [
            *(("anna", "192.0.2.1") for _ in range(7)),
            *(("bert", f"192.0.2.{number}") for number in range(40)),
            *((f"name{number}", "192.0.2.99") for number in range(70)),
            *(("rea", "192.0.2.98") for _ in range(7)),
        ]:
            try:
                async with limits.attempt(name, client, "a device" if name == "rea" else ""):
                    raise ApiError(401, "wrong")
            except ApiError as error:
                if error.status == 429:
                    found.add(str(error.detail))
        return found

    assert len(LIMITS) == 4
    assert {text.partition(";")[0] for text in asyncio.run(texts())} == {
        "too many failed sign-ins of this person from this address",
        "too many failed sign-ins of this person",
        "too many failed sign-ins from this address",
        "too many failed sign-ins on this device",
    }
