"""The pool of slots."""

from __future__ import annotations

from worker.slots import SlotPool


def test_acquire_takes_all_requested_gpus_or_none() -> None:
    slots = SlotPool(4, 4)
    assert slots.acquire(1) == (0,)
    assert slots.acquire(4) is None
    assert slots.acquire(2, excluded={1}) == (2, 3)
    assert (slots.free, slots.free_gpus(), slots.free_gpus({1})) == (1, 1, 0)
    assert slots.acquire(1, excluded={1}) is None
    slots.release((2, 3))
    assert slots.acquire(3) == (1, 2, 3)
    assert slots.occupied_gpus == {0, 1, 2, 3}


def test_acquire_spreads_runs_over_shared_gpus() -> None:
    slots = SlotPool(4, 2)
    assert [slots.gpus_of(slots.acquire(1) or ()) for _ in range(2)] == [(0,), (1,)]
    assert slots.gpus_of(slots.acquire(2) or ()) == (0, 1)
    assert slots.acquire(1) is None


def test_cpu_worker_slots_have_no_gpus() -> None:
    slots = SlotPool(2)
    assert (slots.acquire(1), slots.acquire(1), slots.acquire(1)) == ((0,), (1,), None)
    assert (slots.gpus_of((0, 1)), slots.free_gpus(), slots.occupied_gpus) == ((), 0, frozenset())
