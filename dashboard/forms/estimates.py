"""What a preview's estimate says, in words."""

from __future__ import annotations

from core.protocol.public import DeviceTime, Estimate
from dashboard.lists.row_text import duration
from dashboard.markup import escape
from dashboard.wording import counted


def estimate_sentences(estimate: Estimate) -> list[str]:
    """One a device that past runs were on, and one for the runs that nothing is known of."""
    found = [_time(item) for item in estimate.times]
    if estimate.unknown and estimate.times:
        found.append(f"Of {counted(estimate.unknown, 'more run')} it is not known: none of the kind has succeeded yet.")
    elif estimate.unknown:
        found.append(
            "How long it takes is not known: no run of the same data set, network, method and batch size has "
            "succeeded yet."
        )
    return found


def _time(item: DeviceTime) -> str:
    on_gpu = item.device.startswith("cuda")
    device = item.device.removeprefix("cuda").strip() or "a GPU" if on_gpu else "a CPU"
    what = " of GPU time" if on_gpu else (" one after the other" if item.runs > 1 else "")
    return (
        f"{counted(item.runs, 'run')}: about **{duration(item.seconds)}**{what} on {escape(device)}, "
        f"by {counted(item.based_on, 'past run')} of the same kind."
    )
