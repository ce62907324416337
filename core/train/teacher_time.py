"""The time that a run spends on its teacher's outputs, so that methods can be compared by the rest of their time.

One run of a seed computes the outputs and the others read them from the disk. Which one computes them depends on the
order in which the runs were trained, and not on the method.
"""

from __future__ import annotations

import time

import torch

from core.distill.objective import Outputs
from core.tasks.task import Batch
from core.train.teacher import Teacher

TEACHER_SECONDS = "speed/teacher_seconds"
_MAX_EVENTS = 1000


class TimedTeacher:
    """A teacher whose calls are timed: on the GPU with CUDA events, which nothing waits for, elsewhere with the clock.

    Args:
        teacher: The source of the outputs.
        device: Where it computes.

    Attributes:
        seconds: The time spent so far. If a run is resumed in the middle of an epoch, it starts from the last value
            that was reported, so the teacher's time in the interrupted epoch counts as the student's.
    """

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self._teacher = teacher
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.seconds = 0.0

    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return the teacher's outputs on the batch's device."""
        if not self._on_gpu:
            began = time.perf_counter()
            outputs = self._teacher.outputs(batch, epoch)
            self.seconds += time.perf_counter() - began
            return outputs
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        outputs = self._teacher.outputs(batch, epoch)
        end.record()
        self._events.append((begin, end))
        if len(self._events) > _MAX_EVENTS:
            self._add(_MAX_EVENTS // 2)  # of steps that the device finished long ago
        return outputs

    def end_epoch(self) -> dict[str, float]:
        """Return the teacher's own metrics, and the seconds spent on it since the run began."""
        self._add(len(self._events))
        began = time.perf_counter()
        values = self._teacher.end_epoch()
        self.seconds += time.perf_counter() - began
        return values | {TEACHER_SECONDS: self.seconds}

    def finish(self) -> None:
        """Tell the teacher that the last epoch is done."""
        self._teacher.finish()

    def _add(self, count: int) -> None:
        """Add the time of the first ``count`` pairs of events."""
        if not count:
            return
        done, self._events = self._events[:count], self._events[count:]
        done[-1][1].synchronize()
        self.seconds += sum(begin.elapsed_time(end) for begin, end in done) / 1000
