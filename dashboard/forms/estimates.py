"""Sentences about the time estimate of a preview."""

from __future__ import annotations

from common.durations import duration_text
from core.protocol.public import DeviceTime, Estimate
from dashboard.markup import escape
from dashboard.wording import counted


def estimate_sentences(estimate: Estimate) -> list[str]:
    """Return one sentence per device of past runs, and one about the runs without an estimate."""
    sentences = [_time(item) for item in estimate.times]
    if estimate.unknown and estimate.times:
        sentences.append(
            f"{counted(estimate.unknown, 'more run')}: no estimate, because no similar run has succeeded yet."
        )
    elif estimate.unknown:
        sentences.append(
            "No time estimate: no run with the same data set, network, method and batch size has succeeded yet."
        )
    return sentences


def _time(item: DeviceTime) -> str:
    on_gpu = item.device.startswith("cuda")
    device = item.device.removeprefix("cuda").strip() or "a GPU" if on_gpu else "a CPU"
    detail = " of GPU time" if on_gpu else (" if run one after the other" if item.runs > 1 else "")
    return (
        f"{counted(item.runs, 'run')}: about **{duration_text(item.seconds)}**{detail} on {escape(device)}, "
        f"with start-up and final measurements, based on {counted(item.based_on, 'similar run')}."
    )
