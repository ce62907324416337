"""Limits of requests: of a token, of an address, and of requests without a valid token."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.access.rate_limiter import RateLimiter, network_of
from backend.errors import ApiError
from backend.settings import Settings
from tests.backend.access.clocks import FakeClock
from tests.backend.lab import Lab, metrics, plain, started

SLOW = 1e-3
"""A rate that admits one request, and the next after a quarter of an hour."""


@pytest.fixture
def database_url(tmp_path: Path, migrated_file: Path) -> str:
    shutil.copy(migrated_file, tmp_path / "dkd.sqlite3")
    return f"sqlite:///{tmp_path / 'dkd.sqlite3'}"


def limiter(clock: FakeClock, **rates: float) -> RateLimiter:
    return RateLimiter(Settings.model_validate({"broker_url": "filesystem://", **rates}), clock)


def refused(call: Callable[[], object]) -> int:
    """Return the Retry-After of a refused request; 0 if it is admitted."""
    error: ApiError | None = None
    try:
        result = call()
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    except ApiError as caught:
        error = caught
    if error is None:
        return 0
    assert error.status == 429
    assert error.headers is not None
    return int(error.headers["Retry-After"])


def test_token_has_its_own_limit_and_retry_after_is_when_it_may_go_on() -> None:
    clock = FakeClock()
    limits = limiter(clock, rate_per_token=2.0)
    for _ in range(20):
        assert not refused(lambda: limits.count_token("t", "hash"))
    assert refused(lambda: limits.count_token("t", "hash")) == 1
    assert not refused(lambda: limits.count_token("u", "other"))
    clock.now += 0.5
    assert not refused(lambda: limits.count_token("t", "hash"))
    assert refused(lambda: limits.count_token("t", "hash")) == 1


def test_a_rate_of_zero_is_no_limit() -> None:
    limits = limiter(FakeClock(), rate_per_token=0.0, rate_per_address=0.0, rate_of_refused=0.0)
    for _ in range(5000):
        asyncio.run(limits.count_request("10.0.0.1"))
    for _ in range(500):
        asyncio.run(limits.count_refused("10.0.0.1", None))


def test_guessing_is_slow_and_does_not_lock_out_known_tokens_of_the_address() -> None:
    clock = FakeClock()
    limits = limiter(clock, rate_of_refused=0.5)
    asyncio.run(limits.count_token("worker", "known"))
    for number in range(5):
        limits.check_unknown("10.0.0.1", f"guess {number}")
        assert not refused(lambda: limits.count_refused("10.0.0.1", "guess"))
    assert refused(lambda: limits.count_refused("10.0.0.1", "guess")) == 2
    assert refused(lambda: limits.check_unknown("10.0.0.1", "another guess")) == 2
    assert not refused(lambda: limits.check_unknown("10.0.0.1", "known"))
    assert not refused(lambda: limits.check_unknown("10.0.0.2", "another guess"))
    clock.now += 2.0
    assert not refused(lambda: limits.check_unknown("10.0.0.1", "another guess"))


def test_a_revoked_token_is_no_longer_known() -> None:
    clock = FakeClock()
    limits = limiter(clock, rate_of_refused=SLOW)
    asyncio.run(limits.count_token("t", "hash"))
    assert not refused(lambda: limits.count_refused("10.0.0.1", "hash"))
    assert refused(lambda: limits.count_refused("10.0.0.1", "hash"))
    assert refused(lambda: limits.check_unknown("10.0.0.1", "hash"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("testclient", "", False),
    ],
)
def test_hosts_of_one_ipv6_network_share_a_bucket(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) == same


def test_token_above_its_limit_gets_429_as_a_problem(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(rate_per_token=SLOW)
    assert lab.admin.get("/api/v1/runs").status_code == 200
    answer = lab.admin.get("/api/v1/runs")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Too Many Requests"
    assert 900 < int(answer.headers["retry-after"]) <= 1000
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert lab.worker.post("/api/v1/worker/register", json={}).status_code == 422, "another token has its own limit"


def test_address_above_its_limit_gets_429_on_every_route(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(rate_per_address=SLOW)
    assert lab.admin.get("/healthz").status_code == 200
    for path in ("/healthz", "/api/v1/runs", "/nothing", "/docs"):
        answer = lab.admin.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
        assert int(answer.headers["retry-after"]) > 900


def test_requests_without_a_valid_token_get_429_long_before_others(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(rate_of_refused=0.01)
    stranger = {"Authorization": "Bearer guess"}
    assert lab.admin.get("/api/v1/runs").status_code == 200
    assert lab.admin.get("/api/v1/runs", headers=stranger).status_code == 401
    answers = [lab.admin.get("/api/v1/runs", headers=stranger) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429] * 3
    assert "without a valid token" in answers[0].json()["detail"]
    assert lab.admin.get("/api/v1/runs", headers={"Authorization": ""}).status_code == 429
    made = lab.admin.post("/api/v1/tokens", json={"name": "new", "scopes": ["read"]})
    assert made.status_code == 201, "the admin's token was accepted before, and goes on"
    new = {"Authorization": f"Bearer {made.json()['token']}"}
    assert lab.admin.get("/api/v1/runs", headers=new).status_code == 429, "a token that was never accepted has to wait"


def test_a_worker_that_is_limited_loses_nothing(make_lab: Callable[..., Lab]) -> None:
    """A report above the limit is not stored, and is accepted when it is repeated."""
    lab = make_lab(rate_per_token=0.4)
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    path = f"/api/v1/worker/worker-one/runs/{claim['run_id']}/events"
    records = [started(), metrics(2, 10, {"train/loss": 1.0})]
    statuses = [lab.worker.post(path, json={"attempt": 1, "records": records}).status_code for _ in range(4)]
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 429
    assert lab.run(claim["run_id"])["step"] == 10


def test_clients_behind_a_trusted_proxy_have_their_own_limits() -> None:
    """Only the addresses of trusted proxies may name another client; uvicorn's middleware applies the setting."""
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    seen: list[object] = []

    async def app(scope: object, receive: object, send: object) -> None:
        seen.append(scope["client"][0])  # type: ignore[index]

    settings = Settings.model_validate({"trusted_proxies": "10.0.0.9, 10.1.0.0/16"})
    middleware = ProxyHeadersMiddleware(app, trusted_hosts=list(settings.trusted_proxies))
    for client in ("10.0.0.9", "10.1.2.3", "127.0.0.1"):
        scope = {"type": "http", "scheme": "http", "client": (client, 1), "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
        asyncio.run(middleware(scope, None, None))  # type: ignore[arg-type]
    assert seen == ["1.2.3.4", "1.2.3.4", "127.0.0.1"]
