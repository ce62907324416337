"""The time estimate of a preview as sentences."""

from __future__ import annotations

from core.protocol.public import DeviceTime, Estimate
from dashboard.forms.estimates import estimate_sentences


def test_estimate_names_the_device_and_the_similar_runs() -> None:
    times = [
        DeviceTime(device="cuda NVIDIA H200", seconds=7800, runs=9, based_on=12),
        DeviceTime(device="cpu", seconds=40, runs=1, based_on=1),
    ]
    assert estimate_sentences(Estimate(times=times, unknown=2)) == [
        "9 runs: about **2 h 10 min** of GPU time on NVIDIA H200, with start-up and final measurements, based on 12 "
        "similar runs.",
        "1 run: about **40 s** on a CPU, with start-up and final measurements, based on 1 similar run.",
        "2 more runs: no estimate, because no similar run has succeeded yet.",
    ]


def test_missing_estimate_is_stated() -> None:
    assert estimate_sentences(Estimate(unknown=3))[0].startswith("No time estimate")
    assert estimate_sentences(Estimate()) == []
