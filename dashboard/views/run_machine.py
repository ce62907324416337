"""What the Run page says of the machine that trains: its GPUs as of the last heartbeat, and whether it drains."""

from __future__ import annotations

import time

import streamlit as st

from client import ApiError, BackendUnreachable
from common.formatting import memory_text
from core.protocol.public import GpuUse, Run, Worker
from dashboard import session
from dashboard.markup import escape

_PERIOD = 10.0  # seconds; a worker says it as often


def show(run: Run) -> None:
    """A line a GPU, and a mark on a worker that takes no new runs."""
    worker = _worker(run) if run.state in ("running", "cancelling") else None
    if worker is None:
        return
    if worker.draining:
        st.info(f"{escape(worker.name)} takes no new runs; this one goes on to its end.", icon=":material/logout:")
    for gpu in worker.gpus:
        st.caption(f":material/memory: {_line(gpu)}")


def _worker(run: Run) -> Worker | None:
    """The worker that has the run, asked for once a heartbeat; None where the backend does not say."""
    known: tuple[str, float, Worker | None] | None = st.session_state.get("run.worker")
    if known is None or known[0] != run.id or time.monotonic() - known[1] > _PERIOD:
        try:
            items = session.client().workers().items
        except (ApiError, BackendUnreachable):
            items = []  # the page itself says that the backend is away
        found = next((item for item in items if run.id in item.running), None)
        known = (run.id, time.monotonic(), found)
        st.session_state["run.worker"] = known
    return known[2]


def _line(gpu: GpuUse) -> str:
    parts = [f"{gpu.use:.0f} % busy"] if gpu.use is not None else []
    if gpu.memory_used is not None and gpu.memory_total:
        parts.append(memory_text(gpu.memory_used, gpu.memory_total))
    if gpu.foreign:
        parts.append(f"{gpu.foreign:,} process(es) of somebody else")
    return f"GPU {gpu.index} {escape(gpu.name)}: {', '.join(parts) or 'not measured'}"
