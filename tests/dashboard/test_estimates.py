"""What a preview's estimate says, in words."""

from __future__ import annotations

from core.protocol.public import DeviceTime, Estimate
from dashboard.forms.estimates import estimate_sentences


def test_gpu_time_with_what_it_is_based_on() -> None:
    times = [
        DeviceTime(device="cuda NVIDIA H200", seconds=7800, runs=9, based_on=12),
        DeviceTime(device="cpu", seconds=40, runs=1, based_on=1),
    ]
    assert estimate_sentences(Estimate(times=times, unknown=2)) == [
        "9 runs: about **2 h 10 min** of GPU time on NVIDIA H200, based on 12 similar runs.",
        "1 run: about **40 s** on a CPU, based on 1 similar run.",
        "2 more runs: no estimate, because no similar run has succeeded yet.",
    ]


def test_nothing_known_is_said() -> None:
    assert estimate_sentences(Estimate(unknown=3))[0].startswith("No time estimate")
    assert estimate_sentences(Estimate()) == []
