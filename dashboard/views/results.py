"""The Results page, ``/results``: the result table over all experiments, published values, and claims of the paper."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from client import ApiError
from core.protocol.comparisons import EpochChoice
from core.protocol.result_tables import PublishedTable, ResultTable
from dashboard import addresses, session
from dashboard.forms.widgets import empty_state
from dashboard.lists import result_rows
from dashboard.markup import escape
from dashboard.views import published
from dashboard.views.comparison_results import EPOCHS, downloads

_REFRESH_SECONDS = 15.0
"""The table is updated less often than live pages: it changes only when a run ends, and takes longer to compute."""
Test = Literal["sign_flip", "t"]
_TESTS: dict[Test, str] = {"sign_flip": "exact sign-flip", "t": "paired t"}


def show() -> None:
    """Draw the page."""
    st.title("Results")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        tags = st.text_input(
            "Tags",
            key="tags",
            bind="query-params",
            placeholder="all experiments",
            help="Only experiments with all of these tags, separated by commas.",
            width=240,
        )
        which: EpochChoice = st.selectbox(
            "Epoch", list(EPOCHS), format_func=EPOCHS.__getitem__, key="epoch", bind="query-params", width=200
        )
        test: Test = st.segmented_control(
            "Significance test",
            list(_TESTS),
            default="sign_flip",
            required=True,
            format_func=_TESTS.__getitem__,
            key="test",
            bind="query-params",
            help="A value is bold if it is better than the baseline after Holm's correction over the whole table. "
            "The t test assumes normally distributed differences.",
        )
        baseline_slot = st.container(width=200)
        task_slot = st.container(width="content")
    tag_filter = addresses.searchable([tag.strip() for tag in tags.split(",") if tag.strip()])

    # Requested once outside the fragment, so that during an outage the page shows only the outage.
    default_table = _fetch_table(tag_filter, which, test, "", "").value
    task = ""  # of the only one that there are experiments of
    if len(default_table.tasks) > 1:
        with task_slot:
            task = _select_task(default_table)
        if task != default_table.task:
            default_table = _fetch_table(tag_filter, which, test, "", task).value
    baseline = ""
    if len(default_table.methods) > 1:
        with baseline_slot:
            baseline = _select_baseline(default_table)

    @st.fragment(run_every=_REFRESH_SECONDS)
    def body() -> None:
        with session.error_boundary():
            reply = _fetch_table(tag_filter, which, test, baseline, task)
            with st.container():
                session.show_outage(reply.outage_since)
            with st.container():
                _table(reply.value, tag_filter)

    body()
    if st.session_state.get("results.any"):
        query: dict[str, Any] = {"tag": tag_filter, "which": which, "test": test}
        chosen = {name: value for name, value in (("baseline", baseline), ("task", task)) if value}
        downloads("table", "Table", query | chosen)
    published.show(tag_filter, task)
    _claims(task)


def _select_baseline(table: ResultTable) -> str:
    """Draw the selection of the baseline; return its label, empty for the backend's default."""
    options = ["", *table.methods]
    return st.selectbox(
        "Baseline",
        options,
        format_func=lambda label: label or f"automatic ({table.baseline})",
        key="baseline",
        bind="query-params",
        help="Every other method of a row is tested against the baseline, paired by seed.",
    )


def _select_task(table: ResultTable) -> str:
    """Draw the selection of the task; return its name."""
    titles = {item["name"]: item["title"] for item in session.catalog().tasks}
    names = {titles.get(name, name): name for name in table.tasks}
    selected = st.segmented_control(
        "Task",
        list(names),
        default=titles.get(table.task, table.task),
        required=True,
        key="task",
        bind="query-params",
        help="Results of different tasks are judged by different metrics and not compared.",
    )
    return names.get(selected, table.task)


def _fetch_table(
    tag_filter: list[str], which: EpochChoice, test: Test, baseline: str, task: str
) -> session.Fetched[ResultTable]:
    return session.fetch(
        f"table {tag_filter} {which} {test} {baseline} {task}",
        lambda: session.client().table(
            tags=tag_filter, which=which, test=test, baseline=baseline or None, task=task or None
        ),
    )


def _table(table: ResultTable, tag_filter: list[str]) -> None:
    st.session_state["results.any"] = bool(table.rows)
    if not table.rows:
        if tag_filter:
            st.info(f"No experiment has the tags {escape(', '.join(tag_filter))}.", icon=":material/filter_alt_off:")
        else:
            empty_state("There are no results yet. The first experiment adds a row.")
        return
    unit = f" ({escape(table.unit)})" if table.unit else ""
    st.markdown(f"**{escape(table.title)}{unit}**, mean ± sample sd (n seeds). Each value links to its runs.")
    st.table(result_rows.table_rows(table, session.families()))
    for note in table.notes:
        st.caption(escape(note))
    _missing(table)


def _missing(table: ResultTable) -> None:
    incomplete_rows = [row for row in table.rows if result_rows.missing_count(row)]
    if not incomplete_rows:
        return
    seeds = sum(map(result_rows.missing_count, incomplete_rows))
    runs = "missing run" if seeds == 1 else "missing runs"
    with st.expander(f"{seeds:,} {runs}, and the commands that queue them", icon=":material/playlist_add:"):
        for row in incomplete_rows:
            st.markdown(
                f"**{escape(row.title)}**\n\n" + "\n".join(f"- {line}" for line in result_rows.missing_lines(row))
            )
            if row.commands:
                st.code("\n".join(row.commands), language="sh", wrap_lines=True)


def _published_table() -> PublishedTable:
    return session.fetch("published", lambda: session.client().published()).value


def _claims(task: str) -> None:
    st.subheader("Claims of the paper")
    st.caption("Decoupled Gradient Knowledge Distillation (2025): each claim, judged by the runs of one experiment.")
    linked = addresses.query_value("claims", "name")
    every = session.fetch("experiments", lambda: session.client().experiments(limit=200)).value.items
    newest = [item for item in every if not task or session.task(item.dataset).get("name") == task]
    names = {item.id: item.name for item in newest}
    if not names:
        st.caption("Claims 1 and 2 are about the loss: see the loss explorer. Claims 3 to 5 need an experiment.")
        st.page_link(session.page("loss"), label="Loss explorer", icon=":material/functions:")
        return
    by_name = {name: key for key, name in names.items()}
    linked = by_name.get(linked, linked)
    # The newest experiment with the paper's method, because the others cannot confirm or refute the claims.
    judged = {row.method for row in _published_table().rows if row.method}
    suitable = [item.id for item in newest if any(label.partition(" ")[0] in judged for label in item.methods)]
    options = list(names)
    selected = st.selectbox(
        "Experiment",
        options,
        index=options.index(linked if linked in names else next(iter(suitable or names))),
        format_func=names.__getitem__,
        key=f"results.claims.{linked}",
        width=420,
    )
    if selected != linked:
        st.query_params["claims"] = selected
    try:
        report = session.fetch(f"claims {selected}", lambda: session.client().claims(selected))
    except ApiError as error:
        st.info(f"The claims cannot be judged: {escape(str(error))}", icon=":material/balance:")
        return
    session.show_outage(report.outage_since)
    for title, lines in result_rows.claim_lines(report.value.claims):
        st.markdown(f"**{title}**\n\n" + "\n".join(f"- {line}" for line in lines))
    for note in (f"Valid for {report.value.condition}." if report.value.condition else "", *report.value.notes):
        if note:
            st.caption(escape(note))
    downloads("claims", "Claims", {"experiment": selected}, [names[selected]])
