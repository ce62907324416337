"""The Sweep page, ``/sweep?name=…``: settings with their results, figures over them, and what to do with the best."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from client import ApiError
from common.formatting import NOTHING, mean_text
from core.protocol.sweeps import Sweep
from dashboard import addresses, session, wording
from dashboard.charts import chart_component
from dashboard.lists.experiment_runs import number_format
from dashboard.lists.row_selection import RowSelection
from dashboard.markup import escape
from dashboard.sweeps import settings
from dashboard.sweeps.settings import Point
from dashboard.views import sweep_figures

_TABS = ("Table", "Heat map", "Slices", "Parallel coordinates", "Importance", "Curves")
_PAIR = 2
_MANY = 100
"""A sweep of this many settings is requested less often."""


def show() -> None:
    """Draw the page. Without a name, it lists the sweeps."""
    try:
        name = addresses.query_value("name", "name")
    except addresses.AddressError:
        st.title("Sweep")
        raise
    if not name:
        _list()
        return
    try:
        reply = _fetch(name)
    except ApiError:
        st.title("Sweep")
        raise
    st.title(escape(reply.value.name))
    _live(name, reply)


def _fetch(name: str) -> session.Fetched[Sweep]:
    return session.fetch(f"sweep {name}", lambda: session.client().sweeps.get(name))


def _list() -> None:
    st.title("Sweeps")
    found = session.fetch("sweeps", session.client().sweeps.list).value.items
    if not found:
        st.info(
            "There are no sweeps yet. The form of a new experiment makes one, of several values of some fields. "
            "So does `dkd sweep`.",
            icon=":material/grid_view:",
        )
        return
    for item in found:
        st.page_link(
            session.page("sweep"),
            label=f"**{escape(item.name)}** · {wording.counted(item.experiments, 'experiment')}",
            icon=":material/grid_view:",
            query_params={"name": item.name},
        )


def _live(name: str, first: session.Fetched[Sweep]) -> None:
    """Draw the page, repeatedly until all experiments have ended."""
    unused: session.Fetched[Sweep] | None = first
    active = any(item.state == "active" for item in first.value.settings)

    # The backend reads the specs of all experiments for each reply.
    period = session.REFRESH_SECONDS * (2 if len(first.value.settings) < _MANY else 10)

    @st.fragment(run_every=period if active else None)
    def body() -> None:
        nonlocal unused
        with session.error_boundary():
            reply, unused = unused or _fetch(name), None
            with st.container():
                session.show_outage(reply.outage_since)
            _draw(reply.value)

    body()


def _draw(sweep: Sweep) -> None:
    _summary(sweep)
    titles, options = settings.method_titles(sweep), settings.filter_options(sweep)
    # Choices of another sweep, from which a link has led here.
    if st.session_state.get("result_of", titles[0]) not in titles:
        del st.session_state["result_of"]
    if not set(st.session_state.get("only", ())) <= set(options):
        del st.session_state["only"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Result of",
            titles,
            index=min(settings.varied_method(sweep), len(titles) - 1),
            key="result_of",
            bind="query-params",
            width=260,
        )
        wanted = st.multiselect(
            "Only",
            options,
            placeholder="all settings",
            key="only",
            bind="query-params",
            width=420,
            help="Values of the same field are alternatives; fields must all match.",
        )
    method = titles.index(chosen)
    found = settings.points(sweep, method, wanted)
    axis = f"{sweep.title} ({sweep.unit})" if sweep.unit else sweep.title
    _best(sweep, found, axis)
    tab = st.segmented_control(
        "Show",
        _TABS,
        default=_TABS[0],
        required=True,
        label_visibility="collapsed",
        key="tab",
        bind="query-params",
    )
    named = () if tab == _TABS[0] else (str(tab),)
    session.tab_title(*named, sweep.name, "Sweep")
    with st.container(key=f"sweep.tab.{_TABS.index(str(tab))}"):
        if tab == "Table":
            _table(sweep, found, axis)
        else:
            with chart_component.files_named_after([sweep.name]):
                sweep_figures.draw(str(tab), sweep, method, found, axis)


def _summary(sweep: Sweep) -> None:
    ended = sum(item.state != "active" for item in sweep.settings)
    runs = sum(item.counts.succeeded for item in sweep.settings)
    every_run = sum(item.counts.total for item in sweep.settings)
    varied = ", ".join(item.path for item in sweep.fields)
    st.markdown(
        f"{ended:,} of {wording.counted(len(sweep.settings), 'experiment')} ended, {runs:,} of {every_run:,} runs "
        f"succeeded · {escape(sweep.dataset)} · varied: {escape(varied or NOTHING)}"
    )
    for note in sweep.notes:
        st.caption(escape(note))


def _best(sweep: Sweep, found: Sequence[Point], axis: str) -> None:
    """Draw the best setting with what can be done with it."""
    first = settings.best(found, sweep.better)
    if first is None:
        st.caption("No setting has a result yet.")
        return
    values = ", ".join(f"{field.path} = {first.text(field.path)}" for field in sweep.fields)
    with st.container(horizontal=True, vertical_alignment="center"):
        result = f"{mean_text(first.mean, first.result.sd)} (n = {first.result.n})"
        st.markdown(
            f"Best {escape(axis)}: **{escape(result)}** with {escape(values) or 'the only setting'}", width="content"
        )
        session.action_link("new", "Clone the best", "content_copy", {"clone": first.setting.experiment_id})
        session.action_link("experiment", "Open it", "science", {"id": first.setting.experiment_id})
    st.caption(
        "The best of many settings is partly lucky, and it was chosen by the results that are shown. Confirm it on new "
        "seeds before it counts as a result."
    )


def _table(sweep: Sweep, found: Sequence[Point], axis: str) -> None:
    if not found:
        st.info("No setting matches the filter.", icon=":material/filter_alt_off:")
        return
    selection = RowSelection("sweep")
    selection.set_rows([point.setting.experiment_id for point in found], sweep.name)
    chosen = [key for key in selection.ids if key in {point.setting.experiment_id for point in found}]
    with st.container(horizontal=True, vertical_alignment="center"):
        pair = chosen if len(chosen) == _PAIR else None
        session.action_link(
            "compare", "Compare two settings", "stacked_line_chart", {"experiment": pair} if pair else None
        )
        session.action_link(
            "experiment",
            "Differences of two settings",
            "difference",
            {"id": pair[1], "other": pair[0], "section": "Differences"} if pair else None,
        )
        st.caption("Select two rows to compare them." if not pair else "Two settings are selected.")
    column = st.column_config
    values = [value for point in found for value in (point.mean, point.result.sd) if value is not None]
    number = number_format(sweep.unit, values)
    selection.table(
        settings.rows(found, sweep.fields, axis),
        placeholder=NOTHING,
        height=min(36 * len(found) + 40, 680),
        column_config={
            "Experiment": column.LinkColumn(display_text="Open", width=80),
            axis: column.NumberColumn(format=number, width=140),
            "± sd": column.NumberColumn(format=number, width=80),
            "n": column.NumberColumn(format="%d", width=50),
            "Runs": column.NumberColumn(format="%d", width=60),
            "Name": column.TextColumn(width=260),
        },
    )
    st.caption("Mean ± one sample standard deviation over the seeds, after the last epoch.")
