"""Sign-in with ID tokens of a provider that the tests run: which tokens are accepted, and whose sessions they give."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, RSAKey
from pydantic import ValidationError
from sqlalchemy import update

from backend.access.sign_in_limits import SignInLimits
from backend.db import Database, models
from backend.errors import ApiError
from backend.settings import Settings
from backend.sign_in import provider
from backend.sign_in.oidc import OidcService
from core.protocol.sessions import MAX_ID_TOKEN, OidcSignIn
from tests.backend.conftest import TestClient
from tests.backend.lab import Json, Lab
from tests.backend.test_audit import entries
from tests.backend.test_people import ok, person, project
from tests.id_tokens import CLIENT, Issuer, issuer

API = "/api/v1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Issuer]:
    with issuer() as running:
        yield running


@pytest.fixture
def id_provider(shared: Issuer) -> Issuer:
    """Return the issuer with its first key only."""
    shared.keys = {"1": shared.first}
    shared.document, shared.down = {}, False
    shared.requests.clear()
    return shared


@pytest.fixture
def lab(make_lab: Callable[..., Lab], id_provider: Issuer) -> Lab:
    made = make_lab(oidc_issuer=id_provider.url, oidc_client_id=CLIENT, broker_url="filesystem://")
    ok(made.admin.post(f"{API}/people", json={"name": "anna", "mail": "Anna@Lab.example"}), 201)
    return made


def exchange(lab: Lab, token: str, **more: Any) -> Any:
    return lab.client().post(f"{API}/sessions/oidc", json={"id_token": token, **more})


def signed_in(lab: Lab, token: str, **more: Any) -> tuple[TestClient, Json]:
    made: Json = ok(exchange(lab, token, **more), 201)
    return lab.client(headers={"Authorization": f"Bearer {made['token']}"}), made


def test_nothing_of_it_without_settings(make_lab: Callable[..., Lab], id_provider: Issuer) -> None:
    lab = make_lab()
    answer = exchange(lab, id_provider.token())
    assert answer.status_code == 404
    assert "DKD_OIDC_ISSUER" in answer.json()["detail"]
    assert id_provider.requests == []


def test_first_sign_in_links_the_person_with_the_verified_mail(lab: Lab, id_provider: Issuer) -> None:
    anna, made = signed_in(lab, id_provider.token(), client="dashboard")
    assert (made["person"], made["method"], made["client"]) == ("anna", "oidc", "dashboard")
    assert ok(anna.get(f"{API}/account"))["person"]["issuers"] == [id_provider.url]
    ok(lab.admin.patch(f"{API}/people/anna", json={"mail": "other@lab.example"}))
    _, again = signed_in(lab, id_provider.token(email="new@elsewhere.example", email_verified=False))
    assert again["person"] == "anna", "issuer and subject name the person, and not the mail address"
    assert exchange(lab, id_provider.token(sub="account-2")).status_code == 403
    found = entries(lab, action="sessions.sign_in_oidc", refused=False)
    assert [(item["person"], item["kind"]) for item in found] == [("anna", "session")] * 2


def test_roles_are_those_of_the_person(lab: Lab, id_provider: Issuer) -> None:
    project(lab, "lab")
    ok(lab.admin.put(f"{API}/projects/lab/members/anna", json={"role": "reader"}))
    anna, _ = signed_in(lab, id_provider.token())
    assert anna.get(f"{API}/projects/lab").status_code == 200
    assert anna.get(f"{API}/people").status_code == 403


REFUSED: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "another issuer": (lambda own: own.token(iss="https://other.example"), "InvalidIssuerError"),
    "another audience": (lambda own: own.token(aud="another client"), "InvalidAudienceError"),
    "several audiences without azp": (lambda own: own.token(aud=[CLIENT, "other"]), "authorized party"),
    "another authorized party": (lambda own: own.token(aud=[CLIENT, "other"], azp="other"), "authorized party"),
    "expired": (lambda own: own.token(exp=int(time.time()) - 120), "ExpiredSignatureError"),
    "not yet valid": (lambda own: own.token(nbf=int(time.time()) + 600), "ImmatureSignatureError"),
    "issued in the future": (lambda own: own.token(iat=int(time.time()) + 600), "ImmatureSignatureError"),
    "issued long ago": (lambda own: own.token(iat=int(time.time()) - 7200), "issued too long ago"),
    "another key with a known id": (
        lambda own: own.token(key=RSAKey.generate_key(2048, {"kid": "1"})),
        "InvalidSignatureError",
    ),
    "an unknown key": (lambda own: own.token(kid="9", key=RSAKey.generate_key(2048, {"kid": "9"})), "unknown key"),
    "no signature": (lambda own: own.unsigned(), "algorithm"),
    "HS256 with the public key": (lambda own: own.signed_with_the_public_key(), "algorithm"),
    "RS512": (lambda own: own.token(alg="RS512"), "algorithm"),
    "no end": (lambda own: own.token(exp=None), "MissingRequiredClaimError"),
    "no time of issue": (lambda own: own.token(iat=None), "MissingRequiredClaimError"),
    "no subject": (lambda own: own.token(sub=None), "MissingRequiredClaimError"),
    "an empty subject": (lambda own: own.token(sub=""), "subject"),
    "no audience": (lambda own: own.token(aud=None), "MissingRequiredClaimError"),
    "a changed payload": (lambda own: _changed(own.token()), "InvalidSignatureError"),
    "no token": (lambda own: "a.b.c", "DecodeError"),
    "text": (lambda own: "x" * 100, "DecodeError"),
}


def _changed(token: str) -> str:
    head, payload, signature = token.split(".")
    middle = len(payload) // 2
    return f"{head}.{payload[:middle]}{'A' if payload[middle] != 'A' else 'B'}{payload[middle + 1 :]}.{signature}"


@pytest.mark.parametrize("case", REFUSED)
def test_refused_tokens(lab: Lab, id_provider: Issuer, case: str) -> None:
    make, reason = REFUSED[case]
    token = make(id_provider)
    answer = exchange(lab, token)
    assert answer.status_code == 401, answer.text
    assert answer.json()["detail"] == "this ID token is not accepted; sign in at the identity provider again"
    (entry,) = entries(lab, refused=True)
    assert entry["action"] == "sessions.sign_in_oidc"
    assert reason in entry["details"]["reason"] or (case == "a changed payload" and entry["details"]["reason"])
    assert token not in str(entry)
    signed_in(lab, id_provider.token())


def test_a_token_is_accepted_once(lab: Lab, id_provider: Issuer) -> None:
    first, second = id_provider.token(), id_provider.token(jti=None)
    for token in (first, second):
        signed_in(lab, token)
        assert exchange(lab, token).status_code == 401
    same_id = id_provider.token(jti="one")
    signed_in(lab, same_id)
    assert exchange(lab, id_provider.token(jti="one", nonce="x")).status_code == 401
    assert {item["details"]["reason"] for item in entries(lab, refused=True)} == {"used before"}


def test_the_nonce_must_be_that_of_the_client(lab: Lab, id_provider: Issuer) -> None:
    assert exchange(lab, id_provider.token(nonce="theirs"), nonce="mine").status_code == 401
    assert exchange(lab, id_provider.token(), nonce="mine").status_code == 401
    signed_in(lab, id_provider.token(nonce="mine"), nonce="mine")


def test_long_tokens_are_refused_before_they_are_read(lab: Lab, id_provider: Issuer) -> None:
    assert exchange(lab, "x" * (MAX_ID_TOKEN + 1)).status_code == 422
    assert exchange(lab, "x" * 100_000).status_code == 413
    assert id_provider.requests == []


@pytest.mark.parametrize("verified", [False, None, "true", 1])
def test_a_mail_address_that_is_not_verified_links_nobody(lab: Lab, id_provider: Issuer, verified: Any) -> None:
    answer = exchange(lab, id_provider.token(email_verified=verified))
    assert answer.status_code == 403
    (entry,) = entries(lab, refused=True)
    assert entry["details"]["reason"] == "mail not verified"
    assert ok(lab.admin.get(f"{API}/people/anna"))["issuers"] == []


def test_who_is_not_linked(lab: Lab, id_provider: Issuer) -> None:
    assert exchange(lab, id_provider.token(email="eve@lab.example")).status_code == 403
    person(lab, "anna2")
    ok(lab.admin.patch(f"{API}/people/anna2", json={"mail": "anna@lab.example"}))
    assert exchange(lab, id_provider.token()).status_code == 403
    ok(lab.admin.patch(f"{API}/people/anna2", json={"mail": ""}))
    anna, _ = signed_in(lab, id_provider.token())
    # The provider gives the address of somebody who has left to another account.
    assert exchange(lab, id_provider.token(sub="account-2")).status_code == 403
    assert ok(lab.admin.delete(f"{API}/people/anna/identities")) == {"ended": 1}
    assert anna.get(f"{API}/account").status_code == 401
    signed_in(lab, id_provider.token(sub="account-2"))
    ok(lab.admin.patch(f"{API}/people/anna", json={"disabled": True}))
    assert exchange(lab, id_provider.token(sub="account-2")).status_code == 403
    reasons = [item["details"]["reason"] for item in entries(lab, refused=True)]
    assert reasons[0] == "no person has this mail address"


def test_people_are_created_for_the_configured_addresses_only(
    make_lab: Callable[..., Lab], id_provider: Issuer
) -> None:
    lab = make_lab(
        oidc_issuer=id_provider.url, oidc_client_id=CLIENT, oidc_create="*@lab.example", broker_url="filesystem://"
    )
    person(lab, "bert")
    own = {"email": "bert@lab.example", "sub": "b"}
    assert exchange(lab, id_provider.token(email="bert@elsewhere.example", sub="b")).status_code == 403
    assert exchange(lab, id_provider.token(**own, email_verified=False)).status_code == 403
    client, made = signed_in(lab, id_provider.token(**own))
    assert made["person"] == "bert-2", "an existing person without a mail address is somebody else"
    account = ok(client.get(f"{API}/account"))["person"]
    assert (account["mail"], account["roles"], account["admin"]) == ("bert@lab.example", {}, False)
    assert ok(client.get(f"{API}/projects"))["items"] == []
    _, named = signed_in(lab, id_provider.token(email="c@lab.example", sub="c", preferred_username="Céline Ünal/../"))
    assert named["person"] == "CelineUnal.."
    ok(lab.admin.post(f"{API}/tokens", json={"name": "nightly", "scopes": ["submit"]}), 201)
    _, other = signed_in(lab, id_provider.token(email="d@lab.example", sub="d", preferred_username="nightly"))
    assert other["person"] == "nightly-2", "a new account must not look like a service"


class TestKeys:
    def test_rotation_interrupts_nothing(self, lab: Lab, id_provider: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
        signed_in(lab, id_provider.token())
        signed_in(lab, id_provider.token())
        assert id_provider.requests == ["/.well-known/openid-configuration", "/keys"], "the keys are kept"
        id_provider.keys["2"] = ECKey.generate_key("P-256", {"kid": "2", "use": "sig"})
        monkeypatch.setattr(provider, "RETRY_SECONDS", 0.0)
        signed_in(lab, id_provider.token(alg="ES256", kid="2"))
        signed_in(lab, id_provider.token())
        del id_provider.keys["1"]
        monkeypatch.setattr(provider, "KEYS_SECONDS", 0.0)
        signed_in(lab, id_provider.token(alg="ES256", kid="2"))

    def test_unknown_keys_cause_few_requests(self, lab: Lab, id_provider: Issuer) -> None:
        other = RSAKey.generate_key(2048, {"kid": "9"})
        for _ in range(5):
            assert exchange(lab, id_provider.token(kid="9", key=other)).status_code == 401
        assert len(id_provider.requests) == 2

    def test_a_token_without_key_id_uses_the_only_key(self, lab: Lab, id_provider: Issuer) -> None:
        signed_in(lab, id_provider.token(kid=None))

    def test_without_key_id_and_with_two_keys(self, lab: Lab, id_provider: Issuer) -> None:
        id_provider.keys["2"] = RSAKey.generate_key(2048, {"kid": "2"})
        assert exchange(lab, id_provider.token(kid=None)).status_code == 401

    def test_short_keys_are_not_used(self, lab: Lab, id_provider: Issuer) -> None:
        with pytest.warns(SecurityWarning):
            id_provider.keys["2"] = RSAKey.import_key(rsa.generate_private_key(65537, 1024), {"kid": "2"})
        assert exchange(lab, id_provider.token(kid="2")).status_code == 401
        signed_in(lab, id_provider.token())

    @pytest.mark.parametrize(
        "document",
        [{"issuer": "https://other.example"}, {"jwks_uri": None}, {"jwks_uri": "ftp://x"}, {"jwks_uri": "/keys"}],
    )
    def test_wrong_discovery_documents(self, lab: Lab, id_provider: Issuer, document: Json) -> None:
        id_provider.document = document
        answer = exchange(lab, id_provider.token())
        assert answer.status_code == 503
        assert answer.headers["retry-after"]

    def test_outage(self, lab: Lab, id_provider: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(provider, "RETRY_SECONDS", 0.0)
        id_provider.down = True
        assert exchange(lab, id_provider.token()).status_code == 503
        id_provider.down = False
        signed_in(lab, id_provider.token())
        id_provider.down = True
        monkeypatch.setattr(provider, "KEYS_SECONDS", 0.0)
        signed_in(lab, id_provider.token())  # keys that are known stay valid

    def test_while_one_thread_reads_the_keys_again_the_others_use_those_that_are_known(
        self, id_provider: Issuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading, go_on = threading.Event(), threading.Event()
        keys = provider.ProviderKeys(id_provider.url)
        first = keys.find("1")
        original = provider._get

        def slow(url: str) -> Json:
            reading.set()
            assert go_on.wait(60)
            return original(url)

        monkeypatch.setattr(provider, "_get", slow)
        monkeypatch.setattr(provider, "KEYS_SECONDS", 0.0)
        monkeypatch.setattr(provider, "RETRY_SECONDS", 0.0)
        thread = threading.Thread(target=keys.find, args=("1",))
        thread.start()
        assert reading.wait(60)
        assert first is not None
        assert keys.find("1") is first
        go_on.set()
        thread.join()

    def test_provider_that_does_not_answer_holds_few_threads(
        self, lab: Lab, id_provider: Issuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other routes need the threads that all routes share; sign-ins beyond a number are refused."""
        holding, go_on = [], threading.Event()

        def silent(*_: Any) -> None:
            holding.append(1)
            go_on.wait(60)

        monkeypatch.setattr(provider.ProviderKeys, "find", silent)
        text = id_provider.token()

        async def flood() -> tuple[int, list[int]]:
            service: OidcService = lab.app.state.oidc
            request = OidcSignIn.model_validate({"id_token": text})
            tasks = [asyncio.create_task(service.sign_in(request, "192.0.2.1")) for _ in range(70)]
            while len(holding) < 4:
                await asyncio.sleep(0.01)
            held = len(holding)
            refused = sum(task.done() for task in tasks)
            borrowed = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
            go_on.set()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            statuses = [answer.status for answer in answers if isinstance(answer, ApiError)]
            assert (refused, borrowed) == (16, 0)
            return held, statuses

        held, statuses = asyncio.run(flood())
        assert held == 4
        assert sorted(statuses) == [401] * 54 + [503] * 16


def test_failures_are_limited_by_network(lab: Lab, id_provider: Issuer) -> None:
    limits = SignInLimits(lab.app.state.settings, clock=lambda: 0.0)  # otherwise slow requests would be admitted
    object.__setattr__(lab.app.state.oidc, "limits", limits)
    statuses = [exchange(lab, "a.b.c").status_code for _ in range(61)]
    assert statuses == [401] * 60 + [429]
    signed_in(lab, id_provider.token())  # who has a valid token is not kept out by others
    assert exchange(lab, "a.b.c").status_code == 429


def test_a_name_cannot_be_taken_by_an_unlinked_account(lab: Lab, database: Database, id_provider: Issuer) -> None:
    signed_in(lab, id_provider.token())
    with database.write() as session:
        session.execute(update(models.Person).values(mail=None))
    assert exchange(lab, id_provider.token(sub="other", email="anna")).status_code == 403


@pytest.mark.parametrize(
    "values",
    [
        {"oidc_issuer": "http://id.lab.example", "oidc_client_id": "x"},
        {"oidc_issuer": "https://id.lab.example"},
        {"oidc_client_id": "x"},
        {"oidc_issuer": "id.lab.example", "oidc_client_id": "x"},
    ],
)
def test_settings(values: Json) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)
