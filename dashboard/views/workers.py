"""The Workers page: runs, devices, utilization and problems of each worker, and a button to drain it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import streamlit as st

from client import ApiError, BackendUnreachable
from common.durations import age_text, duration_text
from common.formatting import share_text
from core.protocol.public import Worker
from dashboard import session, theme, wording
from dashboard.forms.widgets import table
from dashboard.lists import bulk, row_text
from dashboard.markup import escape

_STATES = ("All", "Online", "Offline")


def show() -> None:
    """Draw the page. ``/workers?show=Offline`` and ``?label=h200`` filter the workers."""
    st.title("Workers")

    @st.fragment(run_every=session.REFRESH_SECONDS)
    def body() -> None:
        with session.error_boundary():
            _body()

    body()


def _body() -> None:
    reply = session.fetch("workers", lambda: session.client().workers())
    with st.container():
        session.show_outage(reply.outage_since)
    workers = reply.value.items
    if not workers:
        st.info(
            "No worker has registered yet. `dkd up` starts one on this machine; on another machine, run "
            "`python -m worker` with `DKD_API_URL` and `DKD_WORKER_TOKEN` set.",
            icon=":material/dns:",
        )
        return
    message = st.session_state.pop("workers.message", "")
    if message:
        st.error(escape(message), icon=":material/error:")
    _list(_filtered(workers))
    _shares()


def _shares() -> None:
    """Show who shares the queue, if several do."""
    reply = session.fetch("shares", session.client().shares.list).value
    if len(reply.items) < 2:
        return
    st.subheader("Shares of the queue")
    st.caption(
        f"The next free slot goes to the owner of queued runs who has used the least time per weight in "
        f"the last {reply.window_days:g} days. `dkd shares set OWNER WEIGHT` changes a weight."
    )
    table(
        [
            {
                "Turn": "" if item.turn is None else str(item.turn),
                "Owner": item.owner or "(unnamed)",
                "Weight": f"{item.weight:g}",
                "Used": duration_text(item.used_seconds),
                "Running": str(item.running),
                "Queued": str(item.queued),
            }
            for item in reply.items
        ]
    )


def _filtered(workers: Sequence[Worker]) -> list[Worker]:
    labels = sorted({name for worker in workers for name in worker.labels})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        state = st.segmented_control("Show", _STATES, default="All", required=True, key="show", bind="query-params")
        label = None
        if labels:
            label = st.selectbox(
                "Label", labels, index=None, placeholder="any", key="label", bind="query-params", width=200
            )
    online = [worker for worker in workers if worker.state == "online"]
    slots, busy = sum(worker.slots for worker in online), sum(worker.busy for worker in online)
    total, total_slots = wording.counted(len(workers), "worker"), wording.counted(slots, "slot")
    st.caption(f"{len(online):,} of {total} online, {busy:,} of {total_slots} in use")
    states = ("online", "offline") if state == "All" else (state.lower(),)
    return [worker for worker in workers if worker.state in states and (label is None or label in worker.labels)]


def _list(workers: Sequence[Worker]) -> None:
    online = [worker for worker in workers if worker.state == "online"]
    offline = [worker for worker in workers if worker.state != "online"]
    for start in range(0, len(online), 2):
        for column, worker in zip(st.columns(2), online[start : start + 2], strict=False):
            with column:
                _online_card(worker)
    if not workers:
        st.info("No worker matches these filters.", icon=":material/filter_alt_off:")
    if offline:
        st.subheader("Offline")
        st.caption("The last heartbeat of these workers is older than a lease. Their runs have been queued again.")
        for worker in offline:
            _offline_card(worker)


def _online_card(worker: Worker) -> None:
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            badge = ":orange-badge[draining]" if worker.draining else ":green-badge[online]"
            labels = " ".join(f":gray-badge[{escape(label)}]" for label in worker.labels)
            st.markdown(f"**{escape(worker.name)}** {badge} {labels}", width="content")
            _drain_button(worker)
        heartbeat = age_text(worker.last_heartbeat, datetime.now(UTC))
        device = "GPU" if worker.device == "gpu" else "CPU"
        version = f" · version {worker.version}" if worker.version else ""
        st.caption(escape(f"{device} worker on {worker.host} · last heartbeat {heartbeat}{version}"))
        for problem in worker.problems:
            st.warning(escape(problem), icon=":material/warning:")
        st.progress(
            min(worker.busy / worker.slots, 1.0) if worker.slots else 0.0,
            text=f":small[{worker.busy:,} of {wording.counted(worker.slots, 'slot')} in use]",
        )
        if worker.reserved_for:
            st.page_link(
                session.page("run"),
                label="Reserves free GPUs for a run that needs several",
                icon=":material/lock_clock:",
                query_params={"id": worker.reserved_for},
            )
        if worker.gpus:
            table(row_text.gpu_rows(worker.gpus))
        elif worker.device == "gpu":
            st.caption("This worker has not reported its GPUs.")
        for run in worker.runs:
            share = min(run.epoch / run.total_epochs, 1.0) if run.total_epochs else 0.0
            percent = share_text(share)
            st.page_link(
                session.page("run"),
                label=f"{escape(run.label)} · seed {run.seed} · {escape(run.experiment)} · "
                f"epoch {run.epoch:.0f} of {escape(run.total_epochs or '?')} ({percent})",
                icon=":material/show_chart:",
                query_params={"id": run.run_id},
            )
        if not worker.runs:
            st.caption("No new runs start here." if worker.draining else "Idle.")


def _drain_button(worker: Worker) -> None:
    if worker.draining:
        label, hint, icon = "Undrain", "Let this worker start new runs again.", "play_arrow"
    else:
        label, hint, icon = (
            "Drain",
            "Running runs continue; the worker starts no new runs until it is undrained.",
            "block",
        )
    st.button(
        label,
        icon=f":material/{icon}:",
        help=hint,
        on_click=_set_draining,
        args=(worker.id, not worker.draining),
        key=f"workers.drain.{worker.id}",
    )


def _set_draining(worker_id: str, draining: bool) -> None:
    try:
        session.action_client().drain_worker(worker_id, draining=draining)
    except (ApiError, BackendUnreachable) as error:
        refused = isinstance(error, ApiError) and error.status == 403
        hint = " Draining needs an admin token." if refused else ""
        st.session_state["workers.message"] = bulk.error_sentence(error) + hint


def _offline_card(worker: Worker) -> None:
    labels = " ".join(f":gray-badge[{escape(label)}]" for label in worker.labels)
    drained = " :orange-badge[draining]" if worker.draining else ""
    heartbeat = age_text(worker.last_heartbeat, datetime.now(UTC))
    with st.container(border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(
            f"**{escape(worker.name)}** {theme.badge('offline')}{drained} {labels}  \n"
            f":small[{wording.counted(worker.slots, 'slot')} on {escape(worker.host)} · last heartbeat {heartbeat}]",
            width="content",
        )
        if worker.draining:
            _drain_button(worker)
