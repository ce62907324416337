"""The slots of a worker: which of them are free, and which GPU each of them uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class SlotPool:
    """Slots for trainings, counted from 0. Not thread-safe: callers that share a pool must use a lock.

    With n GPUs, slot s uses GPU s modulo n.

    Args:
        count: Number of slots.
        gpus: GPUs of this machine; 0 on a CPU worker.

    Attributes:
        gpus: Number of GPUs that have at least one slot.
    """

    def __init__(self, count: int, gpus: int = 0) -> None:
        self.gpus = min(count, gpus)
        self._all = range(count)
        self._free = set(self._all)

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def occupied_gpus(self) -> frozenset[int]:
        """GPUs with an occupied slot."""
        return frozenset(self.gpus_of(slot for slot in self._all if slot not in self._free))

    def free_gpus(self, excluded: Collection[int] = ()) -> int:
        """Return the number of GPUs that have a free slot and are not excluded."""
        return len(set(self.gpus_of(self._free)).difference(excluded))

    def acquire(self, gpus: int, excluded: Collection[int] = ()) -> tuple[int, ...] | None:
        """Occupy one slot on each of the ``gpus`` GPUs with the most free slots; on a CPU worker, occupy one slot.

        Args:
            gpus: Number of GPUs.
            excluded: GPUs that must not be used.

        Returns:
            The slots. None if there are not enough free slots; no slot is occupied then.
        """
        if not self.gpus:
            slots = sorted(self._free)[:1]
            required = 1
        else:
            slot_by_gpu = {slot % self.gpus: slot for slot in sorted(self._free, reverse=True)}
            usable = [gpu for gpu in slot_by_gpu if gpu not in excluded]
            by_free_slots = sorted(usable, key=lambda gpu: (-self._free_on(gpu), gpu))
            slots = [slot_by_gpu[gpu] for gpu in sorted(by_free_slots[:gpus])]
            required = gpus
        if len(slots) < required:
            return None
        self._free.difference_update(slots)
        return tuple(slots)

    def release(self, slots: Iterable[int]) -> None:
        """Free the slots."""
        self._free.update(slots)

    def gpus_of(self, slots: Iterable[int]) -> tuple[int, ...]:
        """Return the GPU of each slot; an empty tuple on a CPU worker."""
        return tuple(slot % self.gpus for slot in slots) if self.gpus else ()

    def _free_on(self, gpu: int) -> int:
        return sum(slot % self.gpus == gpu for slot in self._free)
