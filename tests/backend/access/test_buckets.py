"""The arithmetic of token buckets, in memory and over Redis."""

from __future__ import annotations

import asyncio

import pytest
import redis

from backend.access import shared_buckets
from backend.access.buckets import BURST_SECONDS, Buckets, Limit
from backend.access.shared_buckets import SharedBuckets
from tests.backend.access.clocks import FakeClock
from tests.services import free_port


def admitted(buckets: Buckets, key: str = "a", tries: int = 1000) -> int:
    return sum(not buckets.take(key) for _ in range(tries))


def test_bucket_admits_its_burst_and_then_its_rate() -> None:
    clock = FakeClock()
    buckets = Buckets(Limit(rate=5.0, burst=20.0), clock)
    assert admitted(buckets) == 20
    assert buckets.take("a") == pytest.approx(0.2)
    clock.now += 0.2
    assert admitted(buckets) == 1
    clock.now += 2.0
    assert admitted(buckets) == 10
    clock.now += 3600.0
    assert admitted(buckets) == 20, "a bucket never holds more than its burst"


def test_over_a_long_time_the_average_is_the_rate() -> None:
    clock = FakeClock()
    buckets = Buckets(Limit.of(3.0), clock)
    total = 0
    for _ in range(1000):
        clock.now += 1.0
        total += admitted(buckets, tries=50)
    assert total == pytest.approx(3.0 * (1000 + BURST_SECONDS), abs=4)


def test_refused_requests_do_not_lengthen_the_wait() -> None:
    clock = FakeClock()
    buckets = Buckets(Limit(rate=1.0, burst=1.0), clock)
    assert admitted(buckets) == 1
    assert [buckets.take("a") for _ in range(5)] == pytest.approx([1.0] * 5)
    assert buckets.wait("a") == pytest.approx(1.0)
    clock.now += 1.0
    assert buckets.wait("a") == 0.0
    assert buckets.take("a") == 0.0


def test_keys_do_not_share_a_bucket_and_full_ones_are_forgotten() -> None:
    clock = FakeClock()
    buckets = Buckets(Limit(rate=1.0, burst=2.0), clock)
    for number in range(5000):
        assert buckets.take(f"key {number}") == 0.0
        clock.now += 0.01
    assert len(buckets._full_at) < 2000
    assert buckets.take("key 4999") == 0.0, "one of two was taken"
    assert buckets.take("key 4999") > 0.0


@pytest.mark.services
class TestShared:
    @pytest.fixture
    def url(self, redis_server: str) -> str:
        redis.Redis.from_url(redis_server).flushdb()
        return redis_server

    def test_replicas_share_a_limit(self, url: str) -> None:
        """Two replicas admit at most a tenth more than one, and none of it twice."""

        async def both() -> tuple[int, float]:
            # A rate at which nothing is added during the test.
            replicas = [SharedBuckets("x", Limit(rate=1e-6, burst=100.0), url) for _ in range(2)]
            count, wait = 0, 0.0
            for _ in range(200):
                for replica in replicas:
                    wait = await replica.take("a")
                    count += not wait
            other = await replicas[0].take("b")
            for replica in replicas:
                await replica.close()
            assert not other
            return count, wait

        count, wait = asyncio.run(both())
        assert count == 2 * 10 + 90
        assert wait == pytest.approx(1e6 / 0.9, rel=0.01)

    def test_replicas_give_back_to_the_same_bucket(self, url: str) -> None:
        """One replica takes, another gives back, and no bucket holds more than its burst."""

        async def counts() -> list[int]:
            limit = Limit(rate=1e-6, burst=5.0)
            first, second = (SharedBuckets("x", limit, url, local_share=0.0) for _ in range(2))
            found = [sum([not await first.take("a") for _ in range(9)])]
            for _ in range(2):
                await second.give_back("a")
            found.append(sum([not await first.take("a") for _ in range(9)]))
            for _ in range(20):
                await first.give_back("a")
            found.append(sum([not await second.take("a") for _ in range(9)]))
            for replica in (first, second):
                await replica.close()
            return found

        assert asyncio.run(counts()) == [5, 2, 5]

    @pytest.mark.parametrize("forged", [b"9999999999999", b"inf", b"-inf", b"nan", b"a text", b""])
    def test_forged_count_blocks_nobody_for_long(self, url: str, forged: bytes) -> None:
        """Whoever can write to the broker can empty a bucket, which fills again as always."""
        server = redis.Redis.from_url(url)
        server.set("dkd:rate:x:a", forged)

        async def waits() -> list[float]:
            shared = SharedBuckets("x", Limit(rate=10.0, burst=10.0), url)
            taken = [await shared.take("a") for _ in range(3)]
            server.set("dkd:rate:x:a", forged)
            await shared.give_back("a")
            taken.append(await shared.take("a"))
            await shared.close()
            return taken

        assert max(asyncio.run(waits())) < 0.2

    def test_the_first_requests_do_not_need_redis(self) -> None:
        async def take() -> list[float]:
            shared = SharedBuckets("x", Limit(rate=1.0, burst=100.0), f"redis://127.0.0.1:{free_port()}/0")
            return [await shared.take("a") for _ in range(10)]

        assert asyncio.run(take()) == [0.0] * 10

    def test_without_redis_each_replica_counts_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()

        async def take() -> tuple[int, int]:
            shared = SharedBuckets("x", Limit(rate=1.0, burst=100.0), f"redis://127.0.0.1:{free_port()}/0", clock)
            connected = 0
            original = shared._connected

            def counted() -> object:
                nonlocal connected
                connected += 1
                return original()

            monkeypatch.setattr(shared, "_connected", counted)
            admitted = sum([not await shared.take("a") for _ in range(300)])
            clock.now += shared_buckets._PAUSE_SECONDS
            for _ in range(20):
                await shared.take("a")
            await shared.close()
            return admitted, connected

        admitted, connected = asyncio.run(take())
        assert admitted == 100
        assert connected == 2, "a Redis that does not answer is asked again only after a pause"
