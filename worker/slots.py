"""The slots of a worker: which are free, and on which GPU each lies."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Slots:
    """Places for trainings, counted from 0. Not locked: whoever shares it does that.

    Slots are dealt out to the GPUs in turn, so that slot 0 is on GPU 0, and those beyond the GPUs share them again.

    Args:
        count: trainings at one time.
        gpus: of this machine; 0 on a CPU worker.
    """

    def __init__(self, count: int, gpus: int = 0) -> None:
        self.gpus = min(count, gpus)
        """GPUs that a slot is on."""
        self._all = range(count)
        self._free = set(self._all)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def occupied(self) -> frozenset[int]:
        """GPUs that a run of ours is on."""
        return frozenset(self.on(slot for slot in self._all if slot not in self._free))

    def free_gpus(self, shunned: Collection[int] = ()) -> int:
        """GPUs with a free slot, but for those to be left alone."""
        return len(set(self.on(self._free)).difference(shunned))

    def take(self, gpus: int, shunned: Collection[int] = ()) -> tuple[int, ...] | None:
        """One slot on each of so many GPUs, those with the fewest runs; on a CPU worker one slot. All or none."""
        if not self.gpus:
            chosen = sorted(self._free)[:1]
            wanted = 1
        else:
            by_gpu = {slot % self.gpus: slot for slot in sorted(self._free, reverse=True)}
            usable = [gpu for gpu in by_gpu if gpu not in shunned]
            emptiest = sorted(usable, key=lambda gpu: (-self._free_on(gpu), gpu))
            chosen = [by_gpu[gpu] for gpu in sorted(emptiest[:gpus])]
            wanted = gpus
        if len(chosen) < wanted:
            return None
        self._free.difference_update(chosen)
        return tuple(chosen)

    def give(self, slots: Iterable[int]) -> None:
        """They are free again."""
        self._free.update(slots)

    def on(self, slots: Iterable[int]) -> tuple[int, ...]:
        """The GPUs of these slots; none on a CPU worker."""
        return tuple(slot % self.gpus for slot in slots) if self.gpus else ()

    def _free_on(self, gpu: int) -> int:
        return sum(slot % self.gpus == gpu for slot in self._free)
