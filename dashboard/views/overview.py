"""The Overview page, ``/``: running, waiting and failed runs, workers, and the newest comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from client import ApiError
from common.durations import duration_text
from common.formatting import signed, value_text
from core.protocol.activity import Activity, FailedRuns, RunningRun, WaitingRuns
from core.protocol.public import Comparison, ExperimentSummary, MethodResult, Worker
from dashboard import families, session, theme, wording
from dashboard.forms.widgets import empty_state, table
from dashboard.lists import row_text
from dashboard.markup import escape

_HOURS = {"24 hours": 24, "7 days": 24 * 7, "30 days": 24 * 30}
_SHOWN = 4
"""Number of comparisons shown with their results. Each is requested again when one of its runs has succeeded."""
_ROWS = 8
_BEST = 5
"""Number of methods on the card of a comparison of many."""


def show() -> None:
    """Draw the page. ``/?failures=7 days`` lists the failures of the last week."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.title("Overview", width="content")
        window = st.selectbox("Failures of the last", [*_HOURS], key="failures", bind="query-params", width=160)

    @st.fragment(run_every=session.REFRESH_SECONDS)
    def body() -> None:
        with session.error_boundary():
            _body(window)

    body()


def _body(window: str) -> None:
    hours = _HOURS[window]
    reply = session.fetch(f"activity {hours}", lambda: session.client().activity(hours=hours))
    # Each part has its own container, so that a line that appears or disappears does not move the other parts.
    with st.container():
        session.show_outage(reply.outage_since)
        session.show_token_end()
    now = reply.value
    if not now.counts.total:
        _welcome(now)
        return
    _figures(now)
    left, right = st.columns(2, gap="large")
    with left:
        with st.container():
            _running_section(now)
        with st.container():
            _failed_section(now, window)
    with right:
        with st.container():
            _waiting_section(now)
        with st.container():
            _gpu_section(now.workers)
    with st.container():
        _comparisons(now.compared)


def _welcome(now: Activity) -> None:
    """Draw the page before the first experiment."""
    empty_state("There are no experiments yet. Create one, and this page shows the progress of its runs.")
    if not now.workers:
        st.caption("No worker is online, so runs would wait for one. `dkd up` starts a worker on this machine.")


def _figures(now: Activity) -> None:
    counts = now.counts
    waits = counts.waiting + counts.queued + counts.paused
    slots, busy = sum(worker.slots for worker in now.workers), sum(worker.busy for worker in now.workers)
    gpu_workers = [worker for worker in now.workers if worker.device == "gpu"]
    figures = [
        ("Running", f"{counts.running + counts.cancelling:,}", "Runs that are training now."),
        ("Waiting", f"{waits:,}", "Runs that wait for their teacher or for a slot, or that are paused."),
        ("Failed", f"{now.failed_runs:,}", f"Runs that failed since {row_text.timestamp(now.failed_since)} UTC."),
        ("Succeeded", f"{counts.succeeded:,}", "All runs that have succeeded."),
        (
            "Slots in use",
            f"{busy:,} of {slots:,}",
            "Slots of the online workers. A run on several GPUs uses several slots.",
        ),
    ]
    if gpu_workers:
        gpus = sum(len(worker.gpus) or worker.slots for worker in gpu_workers)
        used = sum(worker.busy for worker in gpu_workers)
        figures.append(("GPUs in use", f"{min(used, gpus):,} of {gpus:,}", "GPUs of the online workers."))
    with st.container(horizontal=True, key="figures"):
        for label, value, hint in figures:
            st.metric(label, value, border=True, help=hint)


def _running_section(now: Activity) -> None:
    st.subheader("Running")
    if not now.running:
        st.caption("No run is training.")
    for item in now.running[:_ROWS]:
        _running_one(item)
    more = now.counts.running + now.counts.cancelling - _ROWS
    if more > 0:
        link = {"state": ["running", "cancelling"]}
        st.page_link(session.page("runs"), label=f"{more:,} more running", icon=":material/list:", query_params=link)


def _running_one(item: RunningRun) -> None:
    run = item.run
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.page_link(
                session.page("run"),
                label=f"**{escape(row_text.run_title(run))}** · {escape(run.experiment)}",
                query_params={"id": run.id},
            )
            value = row_text.latest_headline(run)
            if value is not None:
                metric = session.headline_of_run(run)
                text = value_text(value, metric["unit"], 2)
                st.markdown(text, help=f"Newest value of: {escape(metric['title'])}.", width="content")
        share = row_text.progress(run)
        status = "cancelling" if run.state == "cancelling" else "pausing" if run.pausing else ""
        if not status:
            estimated = item.seconds_left is not None
            status = f"{duration_text(item.seconds_left)} of training left" if estimated else "time left unknown"
            if item.seconds_left == 0:
                status = "final measurements"
        worker = f" · {run.worker}" if run.worker else ""
        st.progress(
            share,
            text=f":small[epoch {run.epoch:.0f} of {escape(run.total_epochs or '?')} · {escape(status + worker)}]",
        )


def _waiting_section(now: Activity) -> None:
    st.subheader("Waiting")
    if not now.waiting:
        st.caption("No run is waiting.")
        return
    for number, item in enumerate(now.waiting[:_ROWS]):
        _waiting_one(item, f"item-waiting-{number}")
    more = now.waiting_groups - _ROWS
    if more > 0:
        link = {"state": ["waiting", "queued", "paused"], "sort": "highest priority"}
        label = f"All waiting runs ({wording.counted(more, 'group')} more)"
        st.page_link(session.page("runs"), label=label, icon=":material/list:", query_params=link)


def _waiting_one(item: WaitingRuns, key: str) -> None:
    with st.container(gap=None, key=key):
        st.page_link(
            session.page("runs"),
            label=f"**{wording.counted(item.runs, 'run')}** · {escape(item.experiment) or 'of a deleted experiment'}",
            icon={"waiting": ":material/school:", "paused": ":material/pause:"}.get(item.state, ":material/schedule:"),
            query_params={"state": item.state, "experiment": item.experiment},
        )
        priority = f", priority {signed(item.priority, decimals=0)}" if item.priority else ""
        st.caption(f"{escape(wording.sentence(item.reason))[:-1]}{priority}.")


def _failed_section(now: Activity, window: str) -> None:
    st.subheader("Failed")
    if not now.failed:
        st.caption(f"No run has failed in the last {escape(window)}.")
    for number, item in enumerate(now.failed[:_ROWS]):
        _failed_one(item, f"item-failed-{number}")
    if now.failed_groups > _ROWS:
        st.page_link(
            session.page("runs"),
            label=f"All {now.failed_runs:,} failed runs",
            icon=":material/list:",
            query_params={"state": "failed", "sort": "last ended"},
        )


def _failed_one(item: FailedRuns, key: str) -> None:
    run = item.newest
    title = row_text.run_title(run) if item.runs == 1 else wording.counted(item.runs, "run")
    with st.container(gap=None, key=key):
        page, link = ("run", {"id": run.id})
        if item.runs > 1:
            page, link = ("runs", {"state": "failed", "experiment": item.experiment})
        st.page_link(
            session.page(page),
            label=f"**{escape(title)}** · {escape(item.experiment)} · {row_text.timestamp(run.ended_at)[:-3]} UTC",
            icon=":material/error:",
            query_params=link,
        )
        st.caption(escape(wording.sentence(item.reason or "no reason was reported")))


def _gpu_section(workers: Sequence[Worker]) -> None:
    st.subheader("Workers")
    if not workers:
        st.warning(
            "No worker is online, so no run can start. `dkd up` starts a worker on this machine.",
            icon=":material/power_off:",
        )
        return
    rows = [row for worker in workers for row in row_text.device_rows(worker)]
    table(rows)
    draining = [worker.name for worker in workers if worker.draining]
    if draining:
        st.caption(f"Draining (no new runs): {escape(', '.join(draining))}.")
    for worker in workers:
        for problem in worker.problems:
            st.warning(f"{escape(worker.name)}: {escape(problem)}", icon=":material/warning:")
    st.page_link(session.page("workers"), label="All workers", icon=":material/dns:")


def _comparisons(experiments: Sequence[ExperimentSummary]) -> None:
    st.subheader("Latest comparisons")
    if not experiments:
        st.caption("There are no comparisons yet: a comparison needs two methods with a successful run each.")
        return
    columns = st.columns(2, gap="large")
    for index, experiment in enumerate(experiments[:_SHOWN]):
        with columns[index % 2]:
            _comparison(experiment)
    for experiment in experiments[_SHOWN:]:
        st.page_link(
            session.page("compare"),
            label=escape(experiment.name),
            icon=":material/stacked_line_chart:",
            query_params={"experiment": experiment.id},
        )


@st.cache_data(ttl=3600, max_entries=200, show_spinner=False)
def _cached_comparison(url: str, experiment_id: str, counts: str) -> Comparison:
    return session.client().comparison(experiment_id)


def _comparison(experiment: ExperimentSummary) -> None:
    """Draw a card of one experiment: the mean of each method, notes, and a sentence about each paired difference."""
    counts = experiment.counts.model_dump_json()
    key = f"comparison {experiment.id} {experiment.counts.succeeded}"
    with st.container(border=True, gap="small"):
        st.page_link(
            session.page("compare"),
            label=f"**{escape(experiment.name)}**",
            icon=":material/stacked_line_chart:",
            query_params={"experiment": experiment.id},
        )
        _experiment_link(experiment.id)
        models = " → ".join(filter(None, (experiment.teacher_model, experiment.student_model)))
        progress = f"{experiment.counts.succeeded:,} of {wording.counted(experiment.counts.total, 'run')}"
        st.caption(f"{escape(experiment.dataset)} · {escape(models)} · {theme.badge(experiment.state)} {progress}")
        try:
            comparison = session.fetch(
                key, lambda: _cached_comparison(session.client().url, experiment.id, counts)
            ).value
        except ApiError as error:
            st.caption(escape(wording.sentence(str(error))))
            return
        shown = _shown_methods(comparison)
        table(
            [
                {
                    "Method": group.label,
                    f"{comparison.title} ({comparison.unit})": row_text.mean_sd(group),
                    "n": str(group.n),
                }
                for group in shown
            ]
        )
        if len(shown) < len(comparison.groups):
            st.caption(f"The best of {len(comparison.groups):,} methods, and the baseline.")
        for note in comparison.notes:  # for example about labels that name another method, or runs on other data
            st.caption(escape(note))
        labels = {group.label for group in shown}
        for pair in (pair for pair in comparison.paired if pair.label in labels):
            st.markdown(f":small[**{escape(pair.label)}**: {escape(pair.sentence)}]")


def _experiment_link(experiment_id: str) -> None:
    st.page_link(
        session.page("experiment"),
        label="Experiment: runs, notes, spec",
        icon=":material/science:",
        query_params={"id": experiment_id},
    )


def _shown_methods(comparison: Comparison) -> list[MethodResult]:
    """Return the methods of a card: all, or the baseline and the best of many."""
    groups = {group.label: group for group in comparison.groups}
    if len(groups) <= families.MANY:
        return list(groups.values())
    means = {label: group.mean for label, group in groups.items() if group.mean is not None}
    best = families.by_result(list(means), means, comparison.better or "higher")[:_BEST]
    return [groups[label] for label in dict.fromkeys([comparison.baseline, *best]) if label in groups]
