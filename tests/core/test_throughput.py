"""The throughput of an epoch, counted in this process alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.tasks.classification.data.dataset import Batch
from core.train.throughput import ThroughputMeter


class TestThroughputMeter:
    def test_meter_counts_images_and_waiting_of_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        monkeypatch.setattr("time.perf_counter", lambda: clock[0])
        meter = ThroughputMeter()

        def batches() -> Iterator[Batch]:
            for _ in range(2):
                clock[0] += 1  # to make it
                yield Batch(torch.zeros(8, 1, 1, 1), torch.zeros(8), torch.zeros(8), 8)

        for _ in meter.measure(batches()):
            clock[0] += 3  # to train on it
        assert meter.metrics() == {"speed/images_per_second": 2.0, "speed/input_stall": 25.0}

    def test_epoch_without_batches_has_no_metrics(self) -> None:
        assert ThroughputMeter().metrics() == {}
