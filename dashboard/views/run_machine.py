"""The lines about the worker on the Run page: its GPUs at the last heartbeat, and whether it is draining."""

from __future__ import annotations

import time

import streamlit as st

from client import ApiError, BackendUnreachable
from common.formatting import memory_text
from core.protocol.public import GpuUse, Run, Worker
from dashboard import session
from dashboard.markup import escape

_PERIOD = 10.0  # seconds; the interval of a worker's heartbeats


def show(run: Run) -> None:
    """Draw one line per GPU, and a message if the worker takes no new runs."""
    worker = _worker(run) if run.state in ("running", "cancelling") else None
    if worker is None:
        return
    if worker.draining:
        st.info(
            f"{escape(worker.name)} is draining: this run continues, but no new runs start there.",
            icon=":material/logout:",
        )
    for gpu in worker.gpus:
        st.caption(f":material/memory: {_line(gpu)}")


def _worker(run: Run) -> Worker | None:
    """Return the worker of the run, requested once per heartbeat; None if no worker reports the run."""
    stored: tuple[str, float, Worker | None] | None = st.session_state.get("run.worker")
    if stored is None or stored[0] != run.id or time.monotonic() - stored[1] > _PERIOD:
        try:
            items = session.client().workers().items
        except (ApiError, BackendUnreachable):
            items = []  # the page shows the outage
        worker = next((item for item in items if run.id in item.running), None)
        stored = (run.id, time.monotonic(), worker)
        st.session_state["run.worker"] = stored
    return stored[2]


def _line(gpu: GpuUse) -> str:
    parts = [f"{gpu.use:.0f} % busy"] if gpu.use is not None else []
    if gpu.memory_used is not None and gpu.memory_total:
        parts.append(memory_text(gpu.memory_used, gpu.memory_total))
    if gpu.foreign:
        parts.append(f"{gpu.foreign:,} other process(es)")
    return f"GPU {gpu.index} {escape(gpu.name)}: {', '.join(parts) or 'not measured'}"
