"""Two backends on one PostgreSQL and one Redis: they share the limits of requests, and each token's state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from backend.settings import Settings
from tests.backend.lab import Lab

pytestmark = [pytest.mark.services, pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)]


@pytest.fixture
def counts(settings: Settings) -> redis.Redis:
    server = redis.Redis.from_url(settings.broker_url)
    server.flushdb()
    return server


def test_replicas_share_the_limit_of_a_token(make_lab: Callable[..., Lab], counts: redis.Redis) -> None:
    """At this rate the bucket of a replica and the shared one admit one request each, and the next after minutes."""
    replicas = [make_lab(rate_per_token=1e-3, rate_per_address=0.0) for _ in range(2)]
    statuses = [replica.admin.get("/api/v1/runs").status_code for _ in range(6) for replica in replicas]
    assert statuses == [200, 200, 200, *[429] * 9]
    assert len(counts.keys("dkd:rate:token:*")) == counts.dbsize() == 1


def test_requests_below_a_tenth_of_the_limit_do_not_ask_redis(
    make_lab: Callable[..., Lab], counts: redis.Redis
) -> None:
    lab = make_lab()
    for _ in range(50):
        assert lab.admin.get("/api/v1/runs").status_code == 200
    assert counts.dbsize() == 0


def test_revocation_and_rotation_count_on_every_replica_at_once(make_lab: Callable[..., Lab]) -> None:
    one, other = make_lab(), make_lab()
    made = one.admin.post("/api/v1/tokens", json={"name": "script", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert other.admin.get("/api/v1/runs", headers=headers).status_code == 200
    rotated = one.admin.post(f"/api/v1/tokens/{made['id']}/rotate", json={"overlap_hours": 0}).json()
    assert other.admin.get("/api/v1/runs", headers=headers).status_code == 401
    headers = {"Authorization": f"Bearer {rotated['token']}"}
    assert other.admin.get("/api/v1/runs", headers=headers).status_code == 200
    one.admin.delete(f"/api/v1/tokens/{made['id']}")
    assert other.admin.get("/api/v1/runs", headers=headers).status_code == 401
