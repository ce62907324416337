"""The slots of a worker: which are free, and the GPU of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class SlotPool:
    """Slots for trainings, counted from 0. Not thread-safe: callers that share it lock it.

    Slots are distributed over the GPUs in turn: slot 0 is on GPU 0, and slots beyond the number of GPUs share them.

    Args:
        count: Number of slots.
        gpus: GPUs of this machine; 0 on a CPU worker.

    Attributes:
        gpus: Number of GPUs that have a slot.
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
        """Return the number of GPUs with a free slot, without the excluded ones."""
        return len(set(self.gpus_of(self._free)).difference(excluded))

    def acquire(self, gpus: int, excluded: Collection[int] = ()) -> tuple[int, ...] | None:
        """Occupy one slot on each of ``gpus`` GPUs, those with the fewest runs; on a CPU worker one slot.

        Args:
            gpus: Number of GPUs.
            excluded: GPUs that must not be used.

        Returns:
            The slots, or None if there are not enough; then none is occupied.
        """
        if not self.gpus:
            chosen = sorted(self._free)[:1]
            required = 1
        else:
            slot_by_gpu = {slot % self.gpus: slot for slot in sorted(self._free, reverse=True)}
            usable = [gpu for gpu in slot_by_gpu if gpu not in excluded]
            emptiest = sorted(usable, key=lambda gpu: (-self._free_on(gpu), gpu))
            chosen = [slot_by_gpu[gpu] for gpu in sorted(emptiest[:gpus])]
            required = gpus
        if len(chosen) < required:
            return None
        self._free.difference_update(chosen)
        return tuple(chosen)

    def release(self, slots: Iterable[int]) -> None:
        """Free the slots."""
        self._free.update(slots)

    def gpus_of(self, slots: Iterable[int]) -> tuple[int, ...]:
        """Return the GPU of each slot; nothing on a CPU worker."""
        return tuple(slot % self.gpus for slot in slots) if self.gpus else ()

    def _free_on(self, gpu: int) -> int:
        return sum(slot % self.gpus == gpu for slot in self._free)
