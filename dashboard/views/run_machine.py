"""The machine on the Run page: what the run did to it, and the lines about its worker at the last heartbeat."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import streamlit as st

from client import ApiError, BackendUnreachable
from common.durations import duration_text
from common.formatting import memory_text, share_text, value_text
from core.protocol.public import TERMINAL, GpuUse, Run, Worker
from dashboard import session, wording
from dashboard.charts import panels
from dashboard.curves.curve import Curve
from dashboard.forms.widgets import table
from dashboard.markup import escape
from dashboard.views import run_charts

_PERIOD = 10.0  # seconds; the interval of a worker's heartbeats
_TEACHER_SECONDS, _LOSS = "speed/teacher_seconds", "train/loss"
_GPU_ENERGY, _CPU_ENERGY = "machine/gpu_energy", "machine/cpu_energy"


def draw(run: Run, curves: Mapping[str, Curve], metrics: Sequence[panels.Described]) -> None:
    """Draw the tab: the sums so far, and what the machine did beside the loss and the speed.

    Args:
        run: The run.
        curves: Its curves by metric.
        metrics: Entries of the catalog.
    """
    lines = cost_lines(run, curves)
    if lines:
        st.markdown("\n".join(f"- {escape(line)}" for line in lines))
    newest = panels.latest_of_machine(curves, metrics)
    if not newest:
        text = (
            "This run has no measurements of its machine. An earlier version trained it, or nothing could be measured: "
            "the log says why."
            if run.state in TERMINAL
            else "There are no measurements of the machine yet. The first come after about ten seconds of training."
        )
        st.info(text, icon=":material/monitoring:")
        return
    is_drawn = any(len(curve) > 1 for name, curve in curves.items() if name.startswith("machine/"))
    if is_drawn:
        run_charts.grid(run, [*panels.beside_machine(metrics), *panels.machine_panels(metrics)], curves)
    table(newest)
    st.caption(
        "Each point is the mean since the previous one, ten seconds or longer. Processor time is the run's, relative "
        "to all processors that it may use. Memory and power of the GPUs, the memory in use and the network are those "
        "of the machine and include other programs."
    )


def cost_lines(run: Run, curves: Mapping[str, Curve]) -> list[str]:
    """Return sentences on the time, the teacher's part of it, the GPU-hours and the energy of a run so far."""
    loss = curves.get(_LOSS)
    if loss is None or not len(loss):
        return []
    seconds = loss.elapsed[-1]
    text = f"Training {'took' if run.state in TERMINAL else 'has taken'} {duration_text(seconds)}"
    teacher = _last(curves, _TEACHER_SECONDS)
    if teacher is not None and seconds > 0:
        text += f"; {duration_text(teacher)} of it ({share_text(teacher / seconds)}) were for the teacher's outputs"
    lines = [f"{text}."]
    devices = [attempt.device for attempt in run.attempts if attempt.device]
    if devices and all(device.startswith("cuda") for device in devices):
        lines.append(f"GPU-hours: {value_text(run.ranks * seconds / 3600)} on {wording.counted(run.ranks, 'GPU')}.")
        lines.append(f"Energy of the GPUs: {_energy(curves, _GPU_ENERGY)}.")
    if _last(curves, _CPU_ENERGY) is not None or len(lines) == 1:
        lines.append(f"Energy of the machine's processors: {_energy(curves, _CPU_ENERGY)}.")
    return lines


def _energy(curves: Mapping[str, Curve], name: str) -> str:
    energy = _last(curves, name)
    return "not measured" if energy is None else value_text(energy, "Wh")


def _last(curves: Mapping[str, Curve], name: str) -> float | None:
    curve = curves.get(name)
    return curve.value[-1] if curve is not None and len(curve) else None


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
