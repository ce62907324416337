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
        "9 runs: about **2 h 10 min** of GPU time on NVIDIA H200, by 12 past runs of the same kind.",
        "1 run: about **40 s** on a CPU, by 1 past run of the same kind.",
        "Of 2 more runs it is not known: none of the kind has succeeded yet.",
    ]


def test_nothing_known_is_said() -> None:
    assert estimate_sentences(Estimate(unknown=3))[0].startswith("How long it takes is not known")
    assert estimate_sentences(Estimate()) == []
