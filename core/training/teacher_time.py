"""How long a run spends on its teacher's logits, so that methods can be compared by the time that is their own.

One run of a seed computes the logits and the others read them from the disk: which one depends on the order in which
the runs were trained, not on the method.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from core.data import Batch
from core.training.teacher import Teacher

METRIC = "speed/teacher_seconds"
_MOST_EVENTS = 1000


class TimedTeacher:
    """A teacher whose answers are timed: on the GPU by events, which nothing waits for, elsewhere by the clock.

    Attributes:
        seconds: spent so far. A run that is resumed in the middle of an epoch begins with what the last whole epoch
            had reported, so what was spent within the epoch that was broken off counts as the student's.
    """

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self._teacher = teacher
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.seconds = 0.0

    def logits(self, batch: Batch, epoch: int) -> Tensor:
        """(B, C) on the batch's device, as the teacher gives them."""
        if not self._on_gpu:
            began = time.perf_counter()
            found = self._teacher.logits(batch, epoch)
            self.seconds += time.perf_counter() - began
            return found
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        found = self._teacher.logits(batch, epoch)
        end.record()
        self._events.append((begin, end))
        if len(self._events) > _MOST_EVENTS:
            self._add(_MOST_EVENTS // 2)  # of steps that the device has long finished
        return found

    def end_epoch(self) -> dict[str, float]:
        """The teacher's own metrics, and the seconds spent on it since the run began."""
        self._add(len(self._events))
        began = time.perf_counter()
        values = self._teacher.end_epoch()
        self.seconds += time.perf_counter() - began
        return values | {METRIC: self.seconds}

    def finish(self) -> None:
        self._teacher.finish()

    def _add(self, count: int) -> None:
        if not count:
            return
        done, self._events = self._events[:count], self._events[count:]
        done[-1][1].synchronize()
        self.seconds += sum(begin.elapsed_time(end) for begin, end in done) / 1000
